"""Storage fails in every way that it can: nothing is acknowledged before its object is durable, no image is blamed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest

from arno_producer import Producer
from arno_shared.settings import Settings
from tests.acceptance.arno_worker import eventually
from tests.faults.proxy import TcpProxy
from tests.faults.rig import Watch, host_port, in_chunks_of, reconcile, report, settled
from tests.servers import make_bucket

SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: 64\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message>Reduce rate</Message></Error>"
)
EXPIRED = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
)


def expired(code: bytes) -> bytes:
    body = b"<Error><Code>" + code + b"</Code><Message>The token has expired</Message></Error>"
    return EXPIRED % (len(body), body)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """moto honours conditional writes, rclone does not: the long form goes through all faults with both."""
    if "server" in metafunc.fixturenames:
        both = (
            metafunc.config.getoption("--long")
            or metafunc.function is test_what_is_killed_after_its_write_and_before_its_commit
        )
        metafunc.parametrize("server", ["moto", "rclone"] if both else ["moto"])


@pytest.fixture
def storage(server: str, request: pytest.FixtureRequest) -> Iterator[tuple[TcpProxy, str]]:
    """A proxy before an S3 server, and a bucket on it."""
    endpoint: str = request.getfixturevalue(f"{server}_s3")
    bucket = make_bucket()
    host, port = endpoint.removeprefix("http://").split(":")
    with TcpProxy(host, int(port)) as proxy:
        yield proxy, bucket


@pytest.fixture
def run(storage, settings: Settings, producer: Producer, pictures, start) -> Callable[..., None]:
    """Runs a job whose results go through the proxy, with a fault for a while in the middle."""
    proxy, bucket = storage

    def run_with(fault: str, fail: Callable[[TcpProxy], None], seconds: float = 2.0) -> None:
        own = in_chunks_of(2, producer)
        worker = start("w", afflicted=True, AFFLICTED_IMAGE_S="0.01", AWS_ENDPOINT_URL_S3=f"http://{host_port(proxy)}")
        uris = pictures(100)
        job = own.submit(uris, "<OD>", job_id=bucket, output=f"s3://{bucket}/{fault.replace(' ', '-')}/")
        eventually(lambda: job.status().ok > 10, "work")
        fail(proxy)
        Event().wait(seconds)
        proxy.heal()
        watch = Watch()
        settled(job)
        assert worker.process.poll() is None
        report(f"storage: {fault}", f"{reconcile(own, job, uris)}; done {watch.seconds:.1f} s after")

    return run_with


def test_503(run) -> None:
    run("503 for 2 s", lambda proxy: proxy.answer(SLOW_DOWN))


@pytest.mark.long
def test_expired_credentials_that_come_back(run) -> None:
    run("credentials expired for 2 s", lambda proxy: proxy.answer(expired(b"ExpiredToken")))


def test_wrong_credentials_that_come_right(run) -> None:
    run("credentials wrong for 2 s", lambda proxy: proxy.answer(expired(b"InvalidAccessKeyId")))


@pytest.mark.long
def test_connections_refused(run) -> None:
    def refuse(proxy: TcpProxy) -> None:
        proxy.refuse()
        proxy.cut()

    run("away for 2 s", refuse)


def test_answers_to_writes_that_are_lost(run) -> None:
    run("answers to PUT lost for 2 s", lambda proxy: proxy.drop_answers(b"PUT "))


@pytest.mark.long
def test_a_slow_network(run) -> None:
    run("200 ms later each way for 2 s", lambda proxy: proxy.delay(0.2))


def test_what_is_killed_after_its_write_and_before_its_commit(
    start, producer, pictures, storage, tmp_path: Path
) -> None:
    """The object stands, nobody has said so: the next worker finds it, and commits what it says."""
    proxy, bucket = storage
    env = {"AWS_ENDPOINT_URL_S3": f"http://{host_port(proxy)}"}
    first = start("first", module="tests.faults.dies_before_commit", **env)
    uris = pictures(4)
    job = in_chunks_of(4, producer).submit(uris, "<OD>", job_id=bucket, output=f"s3://{bucket}/x/")
    assert first.process.wait(60) != 0
    (stored,) = producer.store.list(f"s3://{bucket}/x/part-")
    written = producer.store.get(stored.uri)
    start("second", **env)
    settled(job)
    line = reconcile(producer, job, uris)
    assert producer.store.get(stored.uri) == written, "what stands is not written again"
    report("killed between write and commit", line)
