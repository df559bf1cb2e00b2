"""Work survives its workers: stopping, cancelling, submitting again, and a house that is away for a while."""

import signal
from collections import Counter
from pathlib import Path

import pytest

from arno_producer import Producer
from arno_shared.ledger import JobState
from arno_shared.names import Lane
from arno_shared.settings import Settings
from arno_shared.topic import TopicReader
from tests.acceptance.arno_worker import eventually

SLOW_RETRIES = {"ARNO_RETRIES__BACKOFF_S": "0.05", "ARNO_RETRIES__PUT_OFF_S": "0.1"}


def _events(producer: Producer) -> Counter[str]:
    reader = TopicReader(producer.redis, "test", "one")
    seen: Counter[str] = Counter()
    while events := reader.read(block_s=0.05):
        seen.update(event.id for _, event in events)
        reader.ack([entry_id for entry_id, _ in events])
    return seen


def test_sigterm_in_mid_job_loses_nothing_and_repeats_nothing(start_worker, producer, pictures) -> None:
    uris = pictures(600)
    producer = Producer(producer.settings.model_copy(update={"producer": {"chunk_images": 4}}, deep=True))
    first = start_worker("first")
    job = producer.submit(uris, "<CAPTION>", job_id="drained")
    eventually(lambda: job.status().ok > 20, "the first worker works")
    assert first.terminate() == 0
    before = job.status()
    assert 0 < before.ok < 600, "the worker was stopped too late to show anything"

    start_worker("second")
    status = job.wait(60)
    assert (status.state, status.ok, status.failed) == (JobState.DONE, 600, 0)
    rows = list(job.results())
    assert Counter(row.image.uri for row in rows) == Counter(uris)
    assert {row.worker.split("@")[0] for row in rows} == {"first", "second"}
    assert _events(producer) == Counter({f"drained/{index}": 1 for index in range(150)})


def test_a_chunk_that_does_not_finish_in_time_goes_back_and_the_worker_exits_0(
    start_worker, producer, pictures, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the results' folder should be made")
    blocked.chmod(0o600)
    # Storage that is away: nothing listens on this port.
    worker = start_worker(
        "first",
        AWS_ENDPOINT_URL_S3="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="x",
        AWS_SECRET_ACCESS_KEY="y",
        AWS_DEFAULT_REGION="us-east-1",
        ARNO_WORKER__DRAIN_S="1",
    )
    uris = pictures(3)
    producer.redis.delete("celery")
    message = {"images": uris, "prompts": ["<OD>"], "output": "s3://bucket/away/", "job_id": "away", "index": 0}
    producer.app.send_task("arno.annotate", kwargs=message, queue=Lane.BULK.queue)
    eventually(lambda: worker.logged("waiting"), "the worker waits for storage")
    assert producer.ledger.status("away").failed == 0
    assert worker.terminate() == 0
    assert producer.redis.llen(Lane.BULK.queue) == 1
    assert producer.redis.hlen("unacked") == 0


def test_a_job_submitted_again_does_only_what_is_missing(start_worker, producer, pictures, settings: Settings) -> None:
    uris = pictures(200)
    producer = Producer(settings.model_copy(update={"producer": settings.producer.model_copy(update={"chunk_images": 5})}))
    producer.submit(uris, "<OD>", job_id="again")
    producer.redis.ltrim(Lane.BULK.queue, 0, 9)  # Redis forgot most of it
    worker = start_worker()
    job = producer.job("again")
    eventually(lambda: job.status().chunks_committed == 10, "what was left is done")

    assert producer.submit(uris, "<OD>", job_id="again").wait(60).ok == 200
    assert len(worker.logged("chunk committed")) == 40
    assert not worker.logged("chunk dropped")

    # All of it is done: a third time sends nothing.
    assert producer.submit(uris, "<OD>", job_id="again").status().state is JobState.DONE
    assert producer.redis.llen(Lane.BULK.queue) == 0
    assert _events(producer) == Counter({f"again/{index}": 1 for index in range(40)})


def test_a_cancelled_job_stops_and_its_messages_are_gone(start_worker, producer, pictures) -> None:
    job = producer.submit(pictures(320), "<OD>", job_id="unwanted")
    assert job.cancel() is JobState.CANCELLED
    start_worker()
    eventually(lambda: producer.redis.llen(Lane.BULK.queue) == 0, "the queue is empty")
    eventually(lambda: producer.redis.hlen("unacked") == 0, "nothing is in hand")
    status = job.wait(5)
    assert (status.state, status.ok) == (JobState.CANCELLED, 0)
    assert list(job.results()) == []


def test_a_cancelled_job_submitted_again_is_finished(start_worker, producer, pictures) -> None:
    uris = pictures(64)
    producer.submit(uris, "<OD>", job_id="revived").cancel()
    start_worker()
    eventually(lambda: producer.redis.llen(Lane.BULK.queue) == 0, "the queue is empty")
    assert producer.submit(uris, "<OD>", job_id="revived").wait(60).ok == 64


def test_interactive_work_overtakes_bulk(start_worker, producer, pictures) -> None:
    uris = pictures(400)
    producer = Producer(producer.settings.model_copy(update={"producer": {"chunk_images": 2}}, deep=True))
    bulk = producer.submit(uris, "<OD>", job_id="bulk")
    urgent = producer.submit(uris[:2], "<OD>", job_id="urgent", lane="interactive")
    worker = start_worker(ARNO_WORKER__CHUNKS_IN_FLIGHT="1")
    urgent.wait(60)
    bulk.wait(60)
    assert worker.logged("chunk committed")[0]["job"] == "urgent"


def test_redis_that_is_away_for_a_while_fails_nobody(settings, tmp_path: Path, pictures, files_allowed) -> None:
    from tests.acceptance.arno_worker import arno_worker
    from tests.acceptance.conftest import NULL_ENGINE
    from tests.servers import valkey_server

    with valkey_server() as own_url:
        own = settings.model_copy(update={"redis_url": own_url})
        producer = Producer(own)
        with arno_worker(own, tmp_path, "steady", {**files_allowed, **NULL_ENGINE}) as worker:
            pid = int(producer.redis.info()["process_id"])
            job = producer.submit(pictures(2000), "<OD>", job_id="frozen")
            eventually(lambda: job.status().ok > 0, "work has begun")
            import os

            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(Exception, match="Redis cannot be used"):
                    Producer(
                        own.model_copy(update={"broker": own.broker.model_copy(update={"socket_timeout_s": 0.3})})
                    ).job("frozen").status()
            finally:
                os.kill(pid, signal.SIGCONT)
            status = job.wait(60)
            assert (status.ok, status.failed, status.dead) == (2000, 0, 0)
            assert worker.process.poll() is None
