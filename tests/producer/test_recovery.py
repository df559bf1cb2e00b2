"""A job that Redis has lost goes on: its ledger is rebuilt from its manifest and its result objects."""

import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from arno_producer import Job, Producer
from arno_producer.patience import until_back
from arno_producer.recovery import _Names
from arno_shared.errors import HouseError, InvalidRequest, JobConflict, JobNotFound, Throttled
from arno_shared.ledger import JobState, Verdict
from arno_shared.messages import Chunk
from arno_shared.names import Lane, job_keys, job_record_uri, manifest_uri, part_uri
from arno_shared.parts import decode_part, encode_part
from arno_shared.results import PromptResult, Status
from arno_shared.settings import ProducerSettings, Settings
from arno_shared.storage import ObjectStore, StoredObject
from arno_shared.uris import file_uri
from tests.acceptance.arno_worker import eventually
from tests.producer.conftest import Hand, Ran, forgotten_later, lose_redis
from tests.servers import valkey_server

OD = "<OD>"
ANSWER = PromptResult(task=OD, prompt="?", raw="!", tokens=1, truncated=False)


def images(number: int) -> list[str]:
    return [f"s3://b/{n}.jpg" for n in range(number)]


def part_of(chunk: Chunk) -> str:
    return part_uri(chunk.output.prefix, chunk.index, chunk.attempt, chunk.output.format)


def finish(hand: Hand, chunk: Chunk, **became: Any) -> None:
    """Commits a chunk whose rows answer what was asked."""
    hand.commit(chunk, **became)
    answer_in(hand, chunk)


def answer_in(hand: Hand, chunk: Chunk) -> None:
    """The chunk's rows, which stand, answer what was asked."""
    uri, format = part_of(chunk), chunk.output.format
    rows = [
        row.model_copy(update={"prompts": (ANSWER,)}) if row.status is Status.OK else row
        for row in decode_part(hand.store.get(uri), format)
    ]
    hand.store.put(uri, encode_part(rows, format), "application/octet-stream")


def finish_all(hand: Hand, lane: Lane = Lane.BULK) -> Counter[tuple[int, int]]:
    """Works until nothing is left, as workers do; which attempts were run."""
    ran: Counter[tuple[int, int]] = Counter()
    while (chunk := hand.take(lane)) or hand.release_due():
        if chunk and hand.begin(chunk) is Verdict.GO:
            finish(hand, chunk)
            ran[chunk.index, chunk.attempt] += 1
    return ran


def assert_whole(job: Job, uris: Iterable[str], *, failed: int = 0) -> None:
    """Done, with one row for each image, and counts that say so."""
    status = job.status()
    total = Counter(uris).total()
    assert (status.state, status.sealed) == (JobState.DONE, True)
    assert (status.images, status.ok, status.failed) == (total, total - failed, failed)
    assert (status.put_off, status.dead, status.chunks_committed) == (0, 0, status.chunks)
    assert sum(status.failed_by_code.values()) == failed
    rows = list(job.results())
    assert Counter(row.image.uri for row in rows) == Counter(uris)
    assert sum(row.status is Status.FAILED for row in rows) == failed


@pytest.fixture(params=["file", "s3"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"{file_uri(tmp_path / 'out é')}/"
    return f"s3://{request.getfixturevalue('bucket')}/out é/"


# --- what was done ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("again", ["resume", "submit"])
def test_what_has_results_is_not_run_again(
    producer: Producer, hand: Hand, prefix: str, format: str, again: str
) -> None:
    output = {"prefix": prefix, "format": format}
    producer.submit(images(61), OD, output=output, job_id="lost")
    done = {0, 3, 9, 10, 30}
    for chunk in hand.take_all():
        if chunk.index in done:
            finish(hand, chunk, failed={"s3://b/6.jpg": "not_found"} if chunk.index == 3 else {})
    lose_redis(hand)

    if again == "resume":
        job: Job = producer.resume("lost", output=prefix)
    else:
        job = producer.submit(images(61), OD, output=output, job_id="lost")
    status = job.status()
    assert (status.ok, status.failed_by_code, status.chunks_committed) == (8, {"not_found": 1}, 5)
    assert (status.images, status.chunks, status.sealed, status.state) == (61, 31, True, JobState.RUNNING)
    assert set(finish_all(hand)) == {(index, 1) for index in set(range(31)) - done}
    assert_whole(job, images(61), failed=1)


def test_what_was_done_is_not_announced_again(producer: Producer, hand: Hand) -> None:
    producer.submit(images(4), OD, job_id="lost")
    finish(hand, hand.take_all()[0])
    lose_redis(hand)
    producer.resume("lost")
    assert hand.redis.xlen("arno:topic") == 0


def test_a_job_that_was_done_is_done_at_once(producer: Producer, hand: Hand) -> None:
    producer.submit(images(5), OD, job_id="lost")
    finish_all(hand)
    lose_redis(hand)
    job = producer.resume("lost")
    assert (job.done_chunks, job.sent_chunks) == (3, 0)
    assert_whole(job, images(5))


def test_images_without_a_row_run_in_the_next_attempt(producer: Producer, hand: Hand) -> None:
    producer.submit(images(6), OD, job_id="lost")
    first, second, _ = hand.take_all()
    finish(hand, first, put_off=("s3://b/1.jpg",))
    finish(hand, second, put_off=("s3://b/2.jpg", "s3://b/3.jpg"))
    hand.release_due()
    assert [chunk.index for chunk in hand.take_all()] == [0, 1]
    lose_redis(hand)
    job = producer.resume("lost")
    assert (job.status().ok, job.status().put_off) == (1, 3)
    assert set(finish_all(hand)) == {(2, 1), (0, 2), (1, 2)}
    assert_whole(job, images(6))


def test_later_attempts_are_found(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(2), OD, job_id="lost")
    finish(hand, hand.take_all()[0], put_off=tuple(images(2)))
    hand.release_due()
    finish(hand, hand.take_all()[0], put_off=("s3://b/1.jpg",))
    lose_redis(hand)
    producer.resume("lost")
    assert (job.status().ok, job.status().put_off) == (1, 1)
    assert set(finish_all(hand)) == {(0, 3)}
    assert_whole(job, images(2))
    lose_redis(hand)
    assert producer.resume("lost").sent_chunks == 0
    assert set(finish_all(hand)) == set()
    assert_whole(job, images(2))


def test_a_dead_letter_that_was_replayed_is_counted_once(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(2), OD, job_id="lost")
    finish(hand, hand.take_all()[0], failed={"s3://b/1.jpg": "timeout"}, give_up=True)
    (filed,) = producer.dead_letters.list()
    producer.replay(filed)
    finish_all(hand)
    assert_whole(job, images(2))
    lose_redis(hand)
    producer.resume("lost")
    assert_whole(job, images(2))


def test_the_same_image_twice_in_a_chunk_is_two_images(producer: Producer, hand: Hand) -> None:
    """Once put off and once refused; then the one that was put off is given up, and replayed."""
    uris = ["s3://b/0.jpg", "s3://b/0.jpg"]
    job = producer.submit(uris, OD, job_id="lost")
    (chunk,) = hand.take_all()
    one = chunk.model_copy(update={"images": chunk.images[:1]})
    finish(hand, one, failed={"s3://b/0.jpg": "not_found"})
    lose_redis(hand)
    producer.resume("lost")
    assert (job.status().failed_by_code, job.status().put_off) == ({"not_found": 1}, 1)
    hand.release_due()
    (later,) = hand.take_all()
    assert (later.attempt, later.images) == (2, chunk.images[:1])
    finish(hand, later, failed={"s3://b/0.jpg": "timeout"}, give_up=True)
    lose_redis(hand)
    producer.resume("lost")
    assert job.status().failed_by_code == {"not_found": 1, "timeout": 1}
    finish(hand, later.retry_of(later.images))
    lose_redis(hand)
    producer.resume("lost")
    status = job.status()
    assert (status.state, status.ok, status.failed_by_code) == (JobState.DONE, 1, {"not_found": 1})


def test_a_restoration_that_broke_off_is_made_again(producer: Producer, hand: Hand) -> None:
    """The later attempt was restored, and the first was not."""
    job = producer.submit(images(2), OD, job_id="lost")
    (chunk,) = hand.take_all()
    finish(hand, chunk, put_off=("s3://b/1.jpg",))
    assert set(finish_all(hand)) == {(0, 2)}
    hand.redis.setbit(job_keys("lost").committed, 0, 0)
    for field, by in (("ok", -1), ("committed", -1)):
        hand.redis.hincrby(job_keys("lost").job, field, by)
    producer.resume("lost")
    assert_whole(job, images(2))


# --- what is not believed ---------------------------------------------------------------------------------------------


def cut_short(chunk: Chunk, data: bytes) -> bytes:
    return data[:-5]


def of_other_images(chunk: Chunk, data: bytes) -> bytes:
    return data.replace(chunk.images[1].uri.encode(), b"s3://b/other.jpg")


def with_one_image_twice(chunk: Chunk, data: bytes) -> bytes:
    return data + data.splitlines(keepends=True)[0]


def of_another_job(chunk: Chunk, data: bytes) -> bytes:
    return data.replace(b'"lost"', b'"found"')


def of_another_prompt(chunk: Chunk, data: bytes) -> bytes:
    return data.replace(OD.encode(), b"<OCR>")


def of_another_attempt(chunk: Chunk, data: bytes) -> bytes:
    return data.replace(b'"attempts":1', b'"attempts":2')


@pytest.mark.parametrize(
    "harm", [cut_short, of_other_images, with_one_image_twice, of_another_job, of_another_prompt, of_another_attempt]
)
def test_an_object_that_cannot_be_the_chunk_s_is_not_believed(
    producer: Producer, hand: Hand, harm: Callable[[Chunk, bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    job = producer.submit(images(4), OD, job_id="lost")
    first, second = hand.take_all()
    finish(hand, first)
    finish(hand, second)
    hand.store.put(part_of(first), harm(first, hand.store.get(part_of(first))), "application/x-ndjson")
    lose_redis(hand)
    producer.resume("lost")
    assert "part-000000000.jsonl" in "".join(capsys.readouterr())
    assert job.status().ok == 2
    assert set(finish_all(hand)) == {(0, 1)}
    assert_whole(job, images(4))


def test_a_later_attempt_that_is_not_believed_runs_again(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(2), OD, job_id="lost")
    (chunk,) = hand.take_all()
    finish(hand, chunk, put_off=("s3://b/1.jpg",))
    finish_all(hand)
    hand.store.put(part_uri(chunk.output.prefix, 0, 2, "jsonl"), b"{", "application/x-ndjson")
    lose_redis(hand)
    producer.resume("lost")
    assert set(finish_all(hand)) == {(0, 2)}
    assert_whole(job, images(2))


# --- what the ledger still knows --------------------------------------------------------------------------------------


def test_where_nothing_was_lost_it_harms_nothing(producer: Producer, hand: Hand) -> None:
    producer.submit(images(6), OD, job_id="kept", lane="interactive")
    finish(hand, hand.take(Lane.INTERACTIVE))  # type: ignore[arg-type]
    job = producer.resume("kept")
    assert (job.done_chunks, job.sent_chunks) == (1, 2)
    assert finish_all(hand) == Counter()
    assert finish_all(hand, Lane.INTERACTIVE) == Counter({(1, 1): 1, (2, 1): 1})
    assert_whole(job, images(6))


def test_what_somebody_has_in_hand_is_left_to_be_committed_by_them(producer: Producer, hand: Hand) -> None:
    producer.submit(images(4), OD, job_id="kept")
    chunk, _ = hand.take_all()
    finish(hand, chunk)
    lose_redis(hand)
    hand.begin(chunk)
    job = producer.resume("kept")
    assert (job.done_chunks, job.sent_chunks) == (0, 2)
    finish(hand, chunk)
    assert set(finish_all(hand)) == {(1, 1)}
    assert_whole(job, images(4))
    assert hand.redis.xlen("arno:topic") == 2


@pytest.mark.parametrize("attempt", [1, 2])
def test_who_wrote_what_was_restored_announces_it_once(producer: Producer, hand: Hand, attempt: int) -> None:
    """Its object was written when Redis was lost, and the job is resumed before its worker commits."""
    job = producer.submit(images(4), OD, job_id="lost")
    chunk, other = hand.take_all()
    if attempt == 2:
        finish(hand, chunk, put_off=("s3://b/0.jpg", "s3://b/1.jpg"))
        hand.release_due()
        (chunk,) = hand.take_all()
    outcome = hand.write(chunk, {})
    answer_in(hand, chunk)
    lose_redis(hand)
    assert producer.resume("lost").done_chunks == 1
    assert hand.redis.xlen("arno:topic") == 0
    for _ in range(2):
        assert not hand.ledger.commit(chunk, outcome)
        (entry,) = hand.redis.xrange("arno:topic")
        assert f'"attempt":{attempt},'.encode() in entry[1][b"event"]
    assert set(finish_all(hand)) == {(other.index, 1)}
    assert hand.redis.xlen("arno:topic") == 2
    assert_whole(job, images(4))


def test_what_is_restored_is_committed_in_the_order_of_its_attempts(producer: Producer, hand: Hand) -> None:
    producer.submit(images(2), OD, job_id="lost")
    (chunk,) = hand.take_all()
    finish(hand, chunk, put_off=("s3://b/1.jpg",))
    for _ in range(3):
        hand.release_due()
        (chunk,) = hand.take_all()
        finish(hand, chunk, put_off=("s3://b/1.jpg",))
    lose_redis(hand)
    producer.resume("lost")
    assert [(entry.index, entry.attempt) for entry in hand.ledger.commits("lost", 0, 9)] == [(0, 2), (0, 3), (0, 4)]
    hand.release_due()
    (chunk,) = hand.take_all()
    assert (chunk.attempt, chunk.positions) == (5, (1,))


def test_a_ledger_that_lost_its_last_moments_is_mended(producer: Producer, hand: Hand) -> None:
    """As after a fail-over to a replica that was behind."""
    job = producer.submit(images(6), OD, job_id="behind")
    first, second, _ = hand.take_all()
    finish(hand, first)
    with forgotten_later(hand):
        finish(hand, second)
    job = producer.resume("behind")
    assert job.status().ok == 4
    assert set(finish_all(hand)) == {(2, 1)}
    assert_whole(job, images(6))


def test_a_replay_that_was_lost_is_made_again(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(2), OD, job_id="behind")
    finish(hand, hand.take_all()[0], failed={"s3://b/1.jpg": "timeout"}, give_up=True)
    with forgotten_later(hand):
        producer.replay(next(producer.dead_letters.list()))
        finish_all(hand)
    producer.resume("behind")
    assert (job.status().ok, job.status().failed) == (1, 1)
    producer.replay(next(producer.dead_letters.list()))
    finish_all(hand)
    assert_whole(job, images(2))


def test_a_job_that_workers_opened_meanwhile_is_restored(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(6), OD, job_id="lost")
    first, second, _ = hand.take_all()
    finish(hand, first)
    lose_redis(hand)
    hand.begin(second)
    finish(hand, second)
    assert producer.submit(images(6), OD, job_id="lost").status().ok == 4
    assert set(finish_all(hand)) == {(2, 1)}
    assert_whole(job, images(6))


def test_a_cancelled_job_goes_on_when_it_is_resumed(producer: Producer, hand: Hand) -> None:
    producer.submit(images(4), OD, job_id="stopped").cancel()
    assert finish_all(hand) == Counter()
    job = producer.resume("stopped")
    assert set(finish_all(hand)) == {(0, 1), (1, 1)}
    assert_whole(job, images(4))


# --- where it is, and what there is of it -----------------------------------------------------------------------------


def test_the_lane_is_the_one_that_is_asked_for_or_known(producer: Producer, hand: Hand) -> None:
    producer.submit(images(2), OD, job_id="known", lane="interactive")
    hand.take_all(Lane.INTERACTIVE)
    producer.resume("known")
    assert len(hand.take_all(Lane.INTERACTIVE)) == 1
    lose_redis(hand)
    producer.resume("known")
    assert len(hand.take_all(Lane.BULK)) == 1
    producer.resume("known", lane="interactive")
    assert len(hand.take_all(Lane.INTERACTIVE)) == 1


def test_every_chunk_is_as_it_was_submitted(producer: Producer, hand: Hand, tmp_path: Path) -> None:
    producer.submit(
        [{"uri": "s3://b/é 1.jpg", "id": "one", "version_id": "v", "etag": "e"}, *images(24)],
        [OD, {"task": "<REGION_TO_OCR>", "region": [1, 2, 30, 40.5]}],
        output={"prefix": f"file://{tmp_path}/out", "format": "parquet", "inline": True},
        generation={"num_beams": 1},
        job_id="same",
    )
    before = hand.take_all()
    lose_redis(hand)
    producer.resume("same", output=f"file://{tmp_path}/out")
    assert hand.take_all() == before


def test_a_job_that_is_nowhere(producer: Producer, hand: Hand, tmp_path: Path) -> None:
    with pytest.raises(JobNotFound, match="give the output prefix"):
        producer.resume("nowhere")
    producer.submit(images(1), OD, output=f"file://{tmp_path}/out", job_id="mine")
    hand.take_all()
    with pytest.raises(JobNotFound, match="results of job 'mine'"):
        producer.resume("other", output=f"file://{tmp_path}/out")
    with pytest.raises(InvalidRequest, match="job id"):
        producer.resume("no/id")
    assert hand.take_all() == []


def test_a_record_that_cannot_be_read(producer: Producer, hand: Hand) -> None:
    prefix = f"{producer.settings.output_prefix}odd/"
    producer.store.put(job_record_uri(prefix), b'{"job_id":"odd","novelty":1}', "application/json")
    for call in (lambda: producer.resume("odd"), lambda: producer.submit(images(1), OD, job_id="odd")):
        with pytest.raises(JobConflict, match=r"_arno/job\.json is not what this version writes"):
            call()
    assert hand.take_all() == []


def test_a_job_that_was_not_submitted_whole_is_not_sealed(producer: Producer, hand: Hand) -> None:
    with pytest.raises(InvalidRequest, match="image 31"):
        producer.submit(iter([*images(30), 7]), OD, job_id="half")  # type: ignore[list-item]
    first = hand.take_all()[0]
    finish(hand, first)
    lose_redis(hand)
    with pytest.raises(InvalidRequest, match="submit the same images again"):
        producer.resume("half")
    status = producer.job("half").status()
    assert (status.ok, status.sealed, status.state) == (2, False, JobState.RUNNING)
    assert set(finish_all(hand)) == {(index, 1) for index in range(1, 10)}
    assert not producer.job("half").status().finished
    job = producer.submit(images(31), OD, job_id="half")
    finish_all(hand)
    assert_whole(job, images(31))


def test_a_manifest_that_is_not_whole_is_not_taken_for_the_job(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(30), OD, job_id="torn")
    hand.take_all()
    block = manifest_uri(job.status().output_prefix, 1)
    Path(block.removeprefix("file://")).unlink()
    lose_redis(hand)
    with pytest.raises(InvalidRequest, match="names 20 images"):
        producer.resume("torn")
    assert not job.status().sealed
    producer.submit(images(30), OD, job_id="torn")
    finish_all(hand)
    assert_whole(job, images(30))


def test_memory_does_not_grow_with_the_job(settings: Settings, hand: Hand) -> None:
    settings = settings.model_copy(update={"producer": ProducerSettings(chunk_images=100, block_chunks=10)})
    producer = Producer(settings)
    uris = [f"s3://b/{n:0200}.jpg" for n in range(30_000)]
    producer.submit(uris, OD, job_id="large")
    for chunk in hand.take_all()[::10]:
        finish(hand, chunk)
    del uris
    lose_redis(hand)
    tracemalloc.start()
    assert producer.resume("large").done_chunks == 30
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All of them are 12 MB and more as objects; a block of 1,000 images, and what is on its way to the wire, are less.
    assert peak_bytes < 6e6


# --- the house is away ------------------------------------------------------------------------------------------------


def patient(settings: Settings, patience_s: float, **changes: Any) -> Producer:
    own = ProducerSettings(chunk_images=1, patience_s=patience_s)
    return Producer(settings.model_copy(update={"producer": own, **changes}))


@pytest.fixture
def own_valkey(settings: Settings) -> Iterator[Settings]:
    """Settings with a Valkey that nothing else uses."""
    with valkey_server() as url:
        yield settings.model_copy(update={"redis_url": url})


def breaking_off(number: int, break_off: Callable[[], Any]) -> Iterator[str]:
    """As many images as two blocks have when chunks hold one; something happens between the two."""
    for index, uri in enumerate(images(number)):
        if index == 11:
            break_off()
        yield uri


def fill(hand: Hand) -> None:
    hand.redis.config_set("maxmemory", "1")


def make_room(hand: Hand) -> None:
    hand.redis.config_set("maxmemory", "0")


def test_a_submission_outlasts_a_redis_that_is_full(own_valkey: Settings) -> None:
    producer, hand = patient(own_valkey, 60), Hand(own_valkey)

    def relieve() -> None:
        eventually(lambda: hand.redis.info("errorstats").get("errorstat_OOM"), "Redis has refused something")
        make_room(hand)

    relief = Thread(target=relieve)
    relief.start()
    job = producer.submit(breaking_off(12, lambda: fill(hand)), OD, job_id="full")
    relief.join()
    finish_all(hand)
    assert_whole(job, images(12))


def test_a_submission_whose_patience_is_over_says_so_and_seals_nothing(own_valkey: Settings) -> None:
    producer, hand = patient(own_valkey, 0.3), Hand(own_valkey)
    with pytest.raises(HouseError, match="Redis cannot be used"):
        producer.submit(breaking_off(12, lambda: fill(hand)), OD, job_id="full")
    make_room(hand)
    job = producer.job("full")
    assert (job.status().sealed, job.status().chunks) == (False, 10)
    assert set(finish_all(hand)) == {(index, 1) for index in range(10)}
    assert not job.status().finished
    producer.submit(images(12), OD, job_id="full")
    assert set(finish_all(hand)) == {(10, 1), (11, 1)}
    assert_whole(job, images(12))


def test_the_first_contact_is_not_waited_for(own_valkey: Settings) -> None:
    producer, hand = patient(own_valkey, 3600), Hand(own_valkey)
    producer.submit(images(1), OD, job_id="mine")
    fill(hand)
    for call in (lambda: producer.submit(images(1), OD), lambda: producer.resume("mine")):
        with pytest.raises(HouseError):
            call()


@pytest.mark.parametrize("opened_by_workers", [False, True])
def test_a_job_that_redis_loses_while_it_is_submitted_is_not_sealed(
    settings: Settings, hand: Hand, opened_by_workers: bool
) -> None:
    producer = patient(settings, 0)
    in_hand: list[Chunk] = []

    def lose() -> None:
        in_hand.extend(hand.take_all()[:2])
        finish(hand, in_hand[0])
        lose_redis(hand)
        if opened_by_workers:
            hand.begin(in_hand[1])
            finish(hand, in_hand[1])

    with pytest.raises(HouseError, match="lost its data"):
        producer.submit(breaking_off(12, lose), OD, job_id="lost")
    hand.take_all()
    job = producer.submit(images(12), OD, job_id="lost")
    done = {chunk.index for chunk in (in_hand if opened_by_workers else in_hand[:1])}
    assert set(finish_all(hand)) == {(index, 1) for index in set(range(12)) - done}
    assert_whole(job, images(12))


def failing(times: int, error: Exception) -> Iterator[Exception | None]:
    yield from [error] * times
    while True:
        yield None


@pytest.mark.parametrize("error", [HouseError("away"), Throttled("slow down")])
def test_what_is_away_is_waited_for(error: Exception) -> None:
    errors = failing(3, error)

    def call() -> str:
        if problem := next(errors):
            raise problem
        return "here"

    assert until_back(call, patience_s=60) == "here"


def test_what_stays_away_is_a_house_error_in_the_end() -> None:
    def call() -> None:
        raise Throttled("slow down")

    with pytest.raises(HouseError, match="slow down"):
        until_back(call, patience_s=0.3)


def test_what_is_refused_is_not_waited_for() -> None:
    def call() -> None:
        raise JobConflict("other terms")

    with pytest.raises(JobConflict):
        until_back(call, patience_s=3600)


class Flaky(ObjectStore):
    """A listing that breaks off once, behind its third object."""

    broke = False

    def list(self, prefix_uri: str) -> Iterator[StoredObject]:
        for number, stored in enumerate(super().list(prefix_uri)):
            if number == 3 and not self.broke:
                self.broke = True
                raise HouseError("away")
            yield stored


def test_a_listing_that_breaks_off_is_made_again(tmp_path: Path) -> None:
    prefix = f"{file_uri(tmp_path)}/"
    store = Flaky()
    for number in range(8):
        store.put(f"{prefix}{number}", b"", "text/plain")
    names = _Names(store, prefix)
    assert names.between(f"{prefix}0", f"{prefix}2") == {f"{prefix}0", f"{prefix}1"}
    with pytest.raises(HouseError):
        names.between(f"{prefix}2", f"{prefix}5")
    assert names.between(f"{prefix}2", f"{prefix}5") == {f"{prefix}{number}" for number in (2, 3, 4)}
    assert names.between(f"{prefix}6", f"{prefix}7") == {f"{prefix}6"}


# --- the command ------------------------------------------------------------------------------------------------------

Arno = Callable[..., Ran]


def test_the_command_says_what_was_found(arno: Arno, producer: Producer, hand: Hand) -> None:
    prefix = f"{producer.settings.output_prefix}elsewhere/"
    producer.submit(images(6), OD, output=prefix, job_id="lost")
    finish(hand, hand.take_all()[0])
    lose_redis(hand)
    ran = arno("resume", "lost", "--output", prefix, "--lane", "interactive")
    assert (ran.code, ran.out) == (0, "lost\n")
    assert "1 of 3 chunks were found done, 2 were enqueued" in ran.err
    assert prefix in ran.err
    assert set(finish_all(hand, Lane.INTERACTIVE)) == {(1, 1), (2, 1)}
    ran = arno("resume", "lost", "--json", "--watch")
    assert ran.code == 0
    assert [(line["state"], line["ok"]) for line in ran.lines] == [("done", 6)] * 2


def test_the_command_says_why_not(arno: Arno, producer: Producer, hand: Hand) -> None:
    ran = arno("resume", "nowhere")
    assert (ran.code, ran.out) == (1, "")
    assert "give the output prefix" in ran.err
    with pytest.raises(InvalidRequest):
        producer.submit(iter([*images(30), 7]), OD, job_id="half")  # type: ignore[list-item]
    ran = arno("resume", "half")
    assert (ran.code, ran.out) == (2, "")
    assert "submit the same images again, with the same job id" in ran.err
