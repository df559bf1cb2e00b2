"""A worker that is told to stop finishes what it has or hands it back, and says so by its exit code."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest

from arno_shared.names import UNACKED
from tests.acceptance.arno_worker import eventually
from tests.faults.rig import Watch, in_chunks_of, reconcile, report, settled, waiting


def test_workers_told_to_stop_under_load_repeat_nothing(start, producer, pictures, long) -> None:
    stops = 30 if long else 2
    uris = pictures(50) * (stops * 6)
    job = in_chunks_of(2, producer).submit(uris, "<OD>", job_id="stopped")
    workers = []
    for number in range(stops):
        worker = start(f"w{number}", afflicted=True, ready=False, AFFLICTED_IMAGE_S="0.005")
        workers.append(worker)
        eventually(lambda worker=worker: worker.logged("chunk committed"), "it works")
        assert worker.terminate() == 0
        assert producer.redis.hlen(UNACKED) == 0, "something is still in its hands"
        assert not job.status().finished, "too few images for so many stops"
    workers.append(start("last"))
    settled(job)
    line = reconcile(producer, job, uris)
    assert not any(worker.logged("chunk was committed before") or worker.logged("chunk dropped") for worker in workers)
    report("SIGTERM under load", f"{stops} stops; {line}; repeats 0")


def test_within_drain_s_what_is_not_done_is_back_in_the_queue(start, producer, pictures) -> None:
    worker = start("slow", afflicted=True, AFFLICTED_IMAGE_S="60", ARNO_WORKER__DRAIN_S="1")
    uris = pictures(12)
    job = in_chunks_of(2, producer).submit(uris, "<OD>", job_id="drained")
    eventually(lambda: producer.redis.hlen(UNACKED) == 4, "it holds what it can")
    watch = Watch()
    assert worker.terminate() == 0
    ended_s = watch.seconds
    assert ended_s < 1 + 30
    assert (waiting(producer), producer.redis.hlen(UNACKED)) == (6, 0)
    assert producer.redis.hgetall("arno:job:drained:begun") == {}, "being handed back is nobody's fault"
    start("other")
    settled(job)
    report("SIGTERM, drain of 1 s", f"{reconcile(producer, job, uris)}; handed back after {ended_s:.1f} s")


def test_a_second_sigterm_hands_everything_back_at_once(start, producer, pictures, long) -> None:
    for second in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT) if long else (signal.SIGTERM,):
        worker = start(f"slow-{second.name}", afflicted=True, AFFLICTED_IMAGE_S="60", ARNO_WORKER__DRAIN_S="300")
        job = in_chunks_of(1, producer).submit(pictures(2), "<OD>", job_id=f"twice-{second.name}")
        eventually(lambda: producer.redis.hlen(UNACKED) == 2, "it holds both")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.poll() is None
        Event().wait(0.5)
        assert worker.process.poll() is None, "the first one drains"
        watch = Watch()
        worker.process.send_signal(second)
        assert worker.process.wait(30) == 0
        assert watch.seconds < 30
        assert (waiting(producer), producer.redis.hlen(UNACKED)) == (2, 0)
        job.cancel()
        producer.redis.flushall()
        report(f"SIGTERM, then {second.name}", f"handed back and ended after {watch.seconds:.1f} s")


@pytest.mark.long
def test_sigquit_alone_hands_back_at_once(start, producer, pictures) -> None:
    worker = start("quit", afflicted=True, AFFLICTED_IMAGE_S="60", ARNO_WORKER__DRAIN_S="300")
    uris = pictures(2)
    job = in_chunks_of(1, producer).submit(uris, "<OD>", job_id="quit")
    eventually(lambda: producer.redis.hlen(UNACKED) == 2, "it holds both")
    worker.process.send_signal(signal.SIGQUIT)
    assert worker.process.wait(30) == 0
    assert (waiting(producer), producer.redis.hlen(UNACKED)) == (2, 0)
    start("other")
    settled(job)
    reconcile(producer, job, uris)


@pytest.mark.parametrize("cloud", ["aws", pytest.param("gcp", marks=pytest.mark.long)])
def test_a_spot_notice_is_a_sigterm(cloud: str, start, producer, pictures) -> None:
    with metadata_server() as (address, taken_away):
        where = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{address}", "GCE_METADATA_HOST": address}
        worker = start("spot", afflicted=True, AFFLICTED_IMAGE_S="0.2", ARNO_WORKER__SPOT_NOTICE=cloud, **where)
        uris = pictures(200)
        job = in_chunks_of(2, producer).submit(uris, "<OD>", job_id="spot")
        eventually(lambda: worker.logged("chunk committed"), "it works")
        assert worker.process.poll() is None
        taken_away.set()
        assert worker.process.wait(30) == 0
    assert producer.redis.hlen(UNACKED) == 0
    start("other")
    settled(job)
    report(f"a spot notice of {cloud}", reconcile(producer, job, uris))


@contextmanager
def metadata_server() -> Iterator[tuple[str, Event]]:
    """A cloud's metadata on a loopback address; once the event is set, the machine is about to be taken away."""
    taken_away = Event()

    class Metadata(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer(200, b"a-token")

        def do_GET(self) -> None:
            if self.path == "/latest/meta-data/spot/instance-action":
                known = self.headers["X-aws-ec2-metadata-token"] == "a-token"
                self._answer(401 if not known else 200 if taken_away.is_set() else 404, b"{}")
            elif self.path == "/computeMetadata/v1/instance/preempted" and self.headers["Metadata-Flavor"] == "Google":
                self._answer(200, b"TRUE" if taken_away.is_set() else b"FALSE")
            else:
                self._answer(404, b"")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", taken_away
    finally:
        server.shutdown()
        server.server_close()
