"""A job is paused in the middle, stands still, and goes on: nothing is lost, and nothing is done twice."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from arno_producer import Job, Producer
from arno_producer.cli import main
from arno_shared.broker import queue_length
from arno_shared.errors import JobConflict
from arno_shared.ledger import JobState
from arno_shared.names import UNACKED, Lane
from arno_shared.settings import ProducerSettings, Settings
from tests.acceptance.arno_worker import ArnoWorker, eventually

IMAGES = 400


@pytest.fixture
def producer(settings: Settings) -> Producer:
    """In chunks of one image, of which few wait in the queue."""
    smaller = ProducerSettings(chunk_images=1, high_water_messages=60)
    return Producer(settings.model_copy(update={"producer": smaller}))


def nothing_waits(producer: Producer) -> bool:
    return not queue_length(producer.redis, Lane.BULK) and not producer.redis.hlen(UNACKED)


def commits(worker: ArnoWorker) -> Counter[int]:
    return Counter(line["chunk"] for line in worker.logged("chunk committed") if line["job"] == "run-7")


def test_a_paused_job_stands_still_and_then_is_done_whole(
    producer: Producer,
    pictures: Callable[[int], list[str]],
    start_worker: Callable[..., ArnoWorker],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uris = pictures(IMAGES)
    with ThreadPoolExecutor(1) as threads:
        submitting = threads.submit(producer.submit, uris, "<OD>", job_id="run-7")
        job = producer.job("run-7")
        worker = start_worker()
        eventually(lambda: job.status().ok > 20, "some images are done")
        monkeypatch.setenv("ARNO_REDIS_URL", producer.settings.redis_url)
        command(monkeypatch, "pause", "run-7")
        eventually(lambda: nothing_waits(producer), "what was in the queue is parked")
        still = job.status()
        assert still.state is JobState.PAUSED
        assert 20 < still.ok < IMAGES
        assert not submitting.done()
        other = producer.submit(pictures(1), "<OD>", job_id="other")
        assert other.wait(60).ok == 1
        assert job.status() == still

        command(monkeypatch, "resume", "run-7")
        assert "run-7" in capsys.readouterr().out
        submitting.result(60)
        status = job.wait(60)
    assert (status.state, status.images, status.ok) == (JobState.DONE, IMAGES, IMAGES)
    assert Counter(row.image.uri for row in job.results()) == Counter(uris)
    assert set(commits(worker).values()) == {1}


def test_what_a_paused_job_keeps_is_dropped_when_it_is_cancelled(
    producer: Producer, pictures: Callable[[int], list[str]], start_worker: Callable[..., ArnoWorker]
) -> None:
    job = producer.submit(pictures(20), "<OD>")
    job.pause()
    start_worker()
    eventually(lambda: nothing_waits(producer), "all is parked")
    assert job.cancel() is JobState.CANCELLED
    for move in (Job.pause, Job.unpause):
        with pytest.raises(JobConflict, match="is cancelled"):
            move(job)
    assert producer.submit(pictures(1), "<OD>").wait(60).ok == 1
    assert (job.status().ok, job.status().state) == (0, JobState.CANCELLED)


def test_images_that_were_put_off_wait_for_their_job(
    producer: Producer, pictures: Callable[[int], list[str]], start_worker: Callable[..., ArnoWorker]
) -> None:
    uris = pictures(2)
    start_worker(
        ARNO_RETRIES__TRIES="1",
        ARNO_RETRIES__BACKOFF_S="0.01",
        ARNO_RETRIES__PUT_OFF_S="1",
        ARNO_RETRIES__MAX_ATTEMPTS="2",
    )
    job = producer.submit([*uris, "http://absent.invalid/a.png"], "<OD>")
    eventually(lambda: job.status().put_off == 1, "the image is put off")
    job.pause()
    eventually(lambda: not producer.redis.zcard("arno:delayed") and nothing_waits(producer), "its attempt is parked")
    assert (job.status().state, job.status().put_off) == (JobState.PAUSED, 1)
    job.unpause()
    status = job.wait(60)
    assert (status.ok, status.failed, status.put_off) == (2, 1, 0)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["arno", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
