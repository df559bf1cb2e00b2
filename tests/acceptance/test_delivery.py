"""Work survives its workers: stopping, cancelling, submitting again, and a house that is away for a while."""

from collections import Counter
from pathlib import Path

import psutil
import pytest

from arno_producer import Producer
from arno_shared.errors import HouseError
from arno_shared.ledger import JobState
from arno_shared.names import Lane
from arno_shared.topic import TopicReader
from tests.acceptance.arno_worker import arno_worker, eventually
from tests.acceptance.conftest import NULL_ENGINE
from tests.servers import valkey_server


def _with_chunks_of(images: int, producer: Producer) -> Producer:
    settings = producer.settings
    return Producer(
        settings.model_copy(update={"producer": settings.producer.model_copy(update={"chunk_images": images})})
    )


def _events(producer: Producer) -> Counter[str]:
    reader = TopicReader(producer.redis, "test", "one")
    seen: Counter[str] = Counter()
    while events := reader.read(block_s=0.05):
        seen.update(event.id for _, event in events)
        reader.ack([entry_id for entry_id, _ in events])
    return seen


def test_sigterm_in_mid_job_loses_nothing_and_repeats_nothing(start_worker, producer, pictures) -> None:
    uris = pictures(600)
    producer = _with_chunks_of(4, producer)
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
    start_worker, producer, pictures
) -> None:
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
    message = {"images": uris, "prompts": ["<OD>"], "output": "s3://bucket/away/", "job_id": "away", "index": 0}
    producer.app.send_task("arno.annotate", kwargs=message, queue=Lane.BULK.queue)
    eventually(lambda: worker.logged("waiting"), "the worker waits for storage")
    assert producer.ledger.status("away").failed == 0
    assert worker.terminate() == 0
    assert producer.redis.llen(Lane.BULK.queue) == 1
    assert producer.redis.hlen("unacked") == 0


def test_a_job_resumed_does_only_what_is_missing(start_worker, producer, pictures) -> None:
    uris = pictures(200)
    producer = _with_chunks_of(5, producer)
    producer.submit(uris, "<OD>", job_id="again")
    producer.redis.ltrim(Lane.BULK.queue, 0, 9)  # Redis forgot most of it
    worker = start_worker()
    job = producer.job("again")
    eventually(lambda: job.status().chunks_committed == 10, "what was left is done")

    # Submitted again it is found, and nothing is sent.
    assert not producer.submit(uris, "<OD>", job_id="again").created
    assert producer.redis.llen(Lane.BULK.queue) == 0
    assert producer.resume("again").wait(60).ok == 200
    assert len(worker.logged("chunk committed")) == 40
    assert not worker.logged("chunk dropped")

    # All of it is done: another time sends nothing.
    assert producer.resume("again").status().state is JobState.DONE
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


def test_a_cancelled_job_resumed_is_finished(start_worker, producer, pictures) -> None:
    uris = pictures(64)
    producer.submit(uris, "<OD>", job_id="revived").cancel()
    start_worker()
    eventually(lambda: producer.redis.llen(Lane.BULK.queue) == 0, "the queue is empty")
    assert producer.resume("revived").wait(60).ok == 64


def test_interactive_work_overtakes_bulk(start_worker, producer, pictures) -> None:
    uris = pictures(400)
    producer = _with_chunks_of(2, producer)
    bulk = producer.submit(uris, "<OD>", job_id="bulk")
    urgent = producer.submit(uris[:2], "<OD>", job_id="urgent", lane="interactive")
    worker = start_worker(ARNO_WORKER__CHUNKS_IN_FLIGHT="1")
    urgent.wait(60)
    bulk.wait(60)
    assert worker.logged("chunk committed")[0]["job"] == "urgent"


def test_redis_that_is_away_for_a_while_fails_nobody(settings, tmp_path: Path, pictures, files_allowed) -> None:
    with valkey_server() as url:
        own = settings.model_copy(update={"redis_url": url})
        producer = Producer(own)
        with arno_worker(own, tmp_path, "steady", {**files_allowed, **NULL_ENGINE}) as worker:
            job = producer.submit(pictures(2000), "<OD>", job_id="frozen")
            eventually(lambda: job.status().ok > 0, "work has begun")
            valkey = psutil.Process(int(producer.redis.info()["process_id"]))
            valkey.suspend()
            try:
                with pytest.raises(HouseError, match="Redis cannot be used"):
                    _impatient(producer).job("frozen").status()
            finally:
                valkey.resume()
            status = job.wait(60)
            assert (status.ok, status.failed, status.dead) == (2000, 0, 0)
            assert worker.process.poll() is None


def _impatient(producer: Producer) -> Producer:
    settings = producer.settings
    return Producer(
        settings.model_copy(update={"broker": settings.broker.model_copy(update={"socket_timeout_s": 0.3})})
    )
