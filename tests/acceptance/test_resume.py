"""Redis loses all it has, or a queue, in the middle of a job, which is resumed: what was committed is not run again."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arno_producer import Job, Producer
from arno_shared.errors import HouseError
from arno_shared.ledger import JobState
from arno_shared.messages import Output
from arno_shared.names import Lane
from arno_shared.results import Status
from arno_shared.uris import file_uri
from tests.acceptance.arno_worker import ArnoWorker, eventually
from tests.acceptance.image_server import ImageServer
from tests.servers import make_bucket

QUICK = {
    "ARNO_LIMITS__PRIVATE_ADDRESSES": "true",
    "ARNO_RETRIES__BACKOFF_S": "0.01",
    "ARNO_RETRIES__PUT_OFF_S": "0.05",
    "ARNO_RETRIES__MAX_ATTEMPTS": "2",
}
TRIES = 3


@pytest.fixture
def producer(producer: Producer) -> Producer:
    """In chunks of four images."""
    settings = producer.settings
    smaller = settings.producer.model_copy(update={"chunk_images": 4})
    return Producer(settings.model_copy(update={"producer": smaller}))


@pytest.fixture(params=["jsonl in files", "parquet in s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Output:
    if request.param == "jsonl in files":
        return Output(prefix=file_uri(tmp_path / "out"))
    request.getfixturevalue("moto_s3")
    return Output(prefix=f"s3://{make_bucket()}/out/", format="parquet")


def commits(worker: ArnoWorker) -> Counter[tuple[int, int]]:
    """How often each attempt at a chunk was committed, before and after the loss."""
    return Counter((line["chunk"], line["attempt"]) for line in worker.logged("chunk committed"))


def assert_whole(job: Job, uris: list[str], failed: dict[str, str]) -> None:
    status = job.wait(60)
    assert (status.state, status.images, status.chunks_committed) == (JobState.DONE, len(uris), status.chunks)
    assert (status.ok, status.put_off, status.dead) == (len(uris) - len(failed), 0, 0)
    assert status.failed_by_code == Counter(failed.values())
    rows = list(job.results())
    assert Counter(row.image.uri for row in rows) == Counter(uris)
    assert {row.image.uri: row.error.code for row in rows if row.status is Status.FAILED and row.error} == failed


def test_every_end_that_an_image_can_come_to_outlives_redis(
    start_worker: Callable[..., ArnoWorker],
    producer: Producer,
    pictures: Callable[[int], list[str]],
    image_server: ImageServer,
    output: Output,
) -> None:
    odd = {name: f"{image_server.url}/{name}" for name in ("flaky", "gone", "dead", "replayed")}
    image_server.fails_first = {"/flaky": TRIES}
    image_server.statuses = {"/gone": 404, "/dead": 503, "/replayed": 503}
    uris = pictures(76)
    for place, uri in zip((1, 2, 5, 9), odd.values(), strict=True):
        uris.insert(place, uri)
    job = producer.submit(uris, "<OD>", output=output, job_id="lost")
    producer.redis.ltrim(Lane.BULK.queue, -10, -1)  # of 20 chunks, the worker is to do the first 10
    worker = start_worker(**QUICK)
    eventually(lambda: job.status().chunks_committed == 10 and not job.status().put_off, "half of it is done")
    letter = next(filed for filed in producer.dead_letters.list(job_id="lost") if odd["replayed"] in filed.letter.raw)
    del image_server.statuses["/replayed"]
    producer.replay(letter)
    eventually(lambda: job.status().ok == 38, "the dead letter is replayed")
    before, hits = commits(worker), image_server.hits.copy()
    assert before == Counter({**{(index, 1): 1 for index in range(10)}, (0, 2): 1, (1, 2): 1, (2, 2): 1, (2, 3): 1})

    producer.redis.flushall()
    resumed = producer.resume("lost", output=output.prefix)
    assert (resumed.done_chunks, resumed.sent_chunks) == (10, 10)
    assert_whole(job, uris, {odd["gone"]: "not_found", odd["dead"]: "unavailable"})
    assert commits(worker) == before + Counter((index, 1) for index in range(10, 20))
    assert image_server.hits == hits


def test_what_was_put_off_when_redis_was_lost_runs_again_alone(
    start_worker: Callable[..., ArnoWorker],
    producer: Producer,
    pictures: Callable[[int], list[str]],
    image_server: ImageServer,
) -> None:
    slow = f"{image_server.url}/slow"
    image_server.fails_first = {"/slow": TRIES}
    uris = [*pictures(7), slow]
    worker = start_worker(**QUICK | {"ARNO_RETRIES__PUT_OFF_S": "3600"})
    job = producer.submit(uris, "<OD>", job_id="waiting")
    eventually(lambda: job.status().put_off == 1 and job.status().ok == 7, "one image waits for an hour")
    producer.redis.flushall()
    producer.resume("waiting")
    assert_whole(job, uris, {})
    assert commits(worker) == Counter([(0, 1), (1, 1), (1, 2)])


@pytest.mark.parametrize("again", ["resume", "submit"])
def test_redis_lost_while_a_worker_works_repeats_no_commit(
    start_worker: Callable[..., ArnoWorker], producer: Producer, pictures: Callable[[int], list[str]], again: str
) -> None:
    uris = pictures(800)
    worker = start_worker()
    job = producer.submit(uris, "<OD>", job_id="lost")
    eventually(lambda: job.status().ok > 20, "the worker works")
    assert job.status().ok < 700, "it was done too early to show anything"
    producer.redis.flushall()
    if again == "resume":
        producer.resume("lost")
    else:
        producer.submit(uris, "<OD>", job_id="lost")
    assert_whole(job, uris, {})
    assert max(commits(worker).values()) == 1


def test_redis_lost_while_a_job_is_submitted(
    start_worker: Callable[..., ArnoWorker], producer: Producer, pictures: Callable[[int], list[str]]
) -> None:
    uris = pictures(600)
    worker = start_worker()

    def source() -> Iterator[str]:
        for number, uri in enumerate(uris):
            if number == 500:  # the first two blocks are sent by now
                eventually(lambda: producer.job("lost").status().ok > 20, "the worker works")
                producer.redis.flushall()
            yield uri

    with pytest.raises(HouseError, match="lost its data"):
        producer.submit(source(), "<OD>", job_id="lost")
    job = producer.submit(uris, "<OD>", job_id="lost")
    assert_whole(job, uris, {})
    assert max(commits(worker).values()) == 1


def test_a_lost_queue_is_filled_again(
    start_worker: Callable[..., ArnoWorker], producer: Producer, pictures: Callable[[int], list[str]]
) -> None:
    uris = pictures(120)
    job = producer.submit(uris, "<OD>", job_id="emptied")
    producer.redis.ltrim(Lane.BULK.queue, -10, -1)
    worker = start_worker()
    eventually(lambda: job.status().chunks_committed == 10, "what was left is done")
    resumed = producer.resume("emptied")
    assert (resumed.done_chunks, resumed.sent_chunks) == (10, 20)
    assert_whole(job, uris, {})
    assert commits(worker) == Counter((index, 1) for index in range(30))
