"""Taken in once: at the same time, again, shorter, longer, broken off, in a turn that somebody else has."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from arno_producer import Producer, turn
from arno_producer.chunks import cut
from arno_producer.intake import SubmittedJob
from arno_producer.manifest import JobTerms, Listed, Manifest
from arno_producer.turn import Turn
from arno_shared.errors import InvalidRequest, JobConflict, StorageRefused
from arno_shared.ledger import JobState, Message, Verdict
from arno_shared.messages import Chunk, ImageRef, Output, Prompt
from arno_shared.names import JOBS, Lane, job_keys, job_record_uri, manifest_uri, turn_key
from arno_shared.settings import ProducerSettings, Settings
from arno_shared.uris import file_uri
from tests.acceptance.arno_worker import eventually
from tests.producer.conftest import Hand

OD = "<OD>"
ROUNDS = 10


def images(number: int, of: str = "b") -> list[str]:
    return [f"s3://{of}/{n}.jpg" for n in range(number)]


def asked(chunks: Iterable[Chunk]) -> list[str]:
    return [image.uri for chunk in sorted(chunks, key=lambda chunk: chunk.index) for image in chunk.images]


@pytest.fixture(params=["file", "s3"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"{file_uri(tmp_path / 'out')}/"
    return f"s3://{request.getfixturevalue('bucket')}/out/"


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each returned or raised, all having started together."""
    barrier = threading.Barrier(len(calls))
    became: list[Any] = [None] * len(calls)

    def run(number: int, call: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            became[number] = call()
        except Exception as error:
            became[number] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return became


def one_is_accepted(became: list[Any]) -> int:
    """Which: all others are refused."""
    accepted = [number for number, each in enumerate(became) if isinstance(each, SubmittedJob)]
    assert len(accepted) == 1, became
    assert [type(each) for each in became].count(JobConflict) == len(became) - 1, became
    return accepted[0]


def record_at(producer: Producer, prefix: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(producer.store.get(job_record_uri(prefix)))
    return record


# --- at the same time -------------------------------------------------------------------------------------------------


def test_of_two_jobs_that_want_one_prefix_one_gets_it(producer: Producer, hand: Hand, prefix: str) -> None:
    both = [producer, Producer(producer.settings)]
    for number in range(ROUNDS):
        output, names = f"{prefix}{number}/", (f"one-{number}", f"two-{number}")
        became = at_once(
            *(
                partial(each.submit, images(5, name), OD, output=output, job_id=name)
                for each, name in zip(both, names, strict=True)
            )
        )
        winner = names[one_is_accepted(became)]
        chunks = hand.take_all()
        assert asked(chunks) == images(5, winner)
        assert {chunk.job_id for chunk in chunks} == {winner}
        assert record_at(producer, output)["job_id"] == winner
        assert [name for name in names if producer.redis.exists(job_keys(name).job)] == [winner]


@pytest.mark.parametrize("given", [list, iter])
def test_of_two_lists_under_one_id_one_is_the_jobs(
    producer: Producer, hand: Hand, prefix: str, given: Callable[[list[str]], Iterable[str]]
) -> None:
    both = [producer, Producer(producer.settings)]
    # Their first block, of ten chunks of two, is the same; one has more than the other.
    lists = [images(20) + images(5, "one"), images(20) + images(30, "two")]
    for number in range(ROUNDS):
        output, job_id = f"{prefix}{number}/", f"job-{number}"
        became = at_once(
            *(
                partial(each.submit, given(uris), OD, output=output, job_id=job_id)
                for each, uris in zip(both, lists, strict=True)
            )
        )
        uris = lists[one_is_accepted(became)]
        status = producer.job(job_id).status()
        assert (status.images, status.sealed) == (len(uris), True)
        assert record_at(producer, output)["images"] == len(uris)
        assert set(asked(hand.take_all())) == set(uris)
    producer.resume(job_id, output=output)
    assert asked(hand.take_all()) == uris


@pytest.mark.parametrize("other", [images(50), images(20), images(25, "other")], ids=["longer", "shorter", "other"])
def test_where_two_send_at_once_their_list_is_one_of_the_two(
    producer: Producer, hand: Hand, monkeypatch: pytest.MonkeyPatch, other: list[str]
) -> None:
    """As when a turn has run out."""
    monkeypatch.setattr(Turn, "take", lambda _: True)
    both, lists = [producer, Producer(producer.settings)], [images(25) if len(other) != 50 else images(20), other]
    for number in range(ROUNDS):
        job_id = f"job-{number}"
        became = at_once(
            *(partial(each.submit, iter(uris), OD, job_id=job_id) for each, uris in zip(both, lists, strict=True))
        )
        uris = lists[one_is_accepted(became)]
        hand.take_all()
        job = producer.resume(job_id)
        assert (job.status().images, job.status().sealed) == (len(uris), True)
        assert asked(hand.take_all()) == uris


def test_the_same_submitted_by_many_is_enqueued_once(producer: Producer, hand: Hand) -> None:
    producers = [Producer(producer.settings) for _ in range(6)]
    for number in range(10):
        became = at_once(*(partial(each.submit, images(20), OD, job_id=f"job-{number}") for each in producers))
        assert Counter(job.created for job in became) == {True: 1, False: 5}
        assert all(job.status().sealed for job in became)
        assert asked(hand.take_all()) == images(20)


def test_a_job_and_one_that_sends_to_its_place_are_two(producer: Producer, hand: Hand, tmp_path: Path) -> None:
    """A job of one chunk has no record in storage: the ledger tells them apart, and nothing stays of the refused."""
    output = f"{file_uri(tmp_path)}/out/"
    producer.send(images(1), OD, output=output, job_id="sent")
    for _ in range(2):
        with pytest.raises(JobConflict, match="'sent'"):
            producer.submit(images(4), OD, output=output, job_id="late")
        assert list(producer.store.list(output)) == []
    assert hand.take_all() == []


# --- what stays when it is refused, or breaks ------------------------------------------------------------------------


def breaking(number: int) -> Iterator[str]:
    yield from images(number)
    raise OSError("the disk is gone")


@pytest.mark.parametrize("ledger", ["stands", "is lost"])
@pytest.mark.parametrize("given", [list, iter])
@pytest.mark.parametrize(
    "uris",
    [
        images(20),  # the first block
        images(24),
        images(26),
        images(200),
        images(25)[::-1],
        [*images(24), "s3://b/other.jpg"],
    ],
    ids=["a block's end", "shorter", "longer", "much longer", "otherwise", "another last"],
)
def test_a_refused_resubmission_leaves_the_seal_as_it_was(
    producer: Producer, hand: Hand, ledger: str, given: Callable[[list[str]], Iterable[str]], uris: list[str]
) -> None:
    job = producer.submit(images(25), OD, job_id="sealed")
    prefix = job.status().output_prefix
    chunks = hand.take_all()
    hand.commit(chunks[0])
    before = producer.store.get(job_record_uri(prefix))
    assert json.loads(before)["chunks"] == 13
    if ledger == "is lost":
        hand.redis.flushall()
    with pytest.raises(JobConflict):
        producer.submit(given(uris), OD, job_id="sealed")
    assert producer.store.get(job_record_uri(prefix)) == before
    if ledger == "stands":
        assert job.status().images == 25
        assert hand.take_all() == []
    assert set(asked(hand.take_all())) <= set(images(25))
    producer.resume("sealed")
    assert job.status().sealed
    assert set(asked(hand.take_all())) >= set(images(25)[2:])


@pytest.mark.parametrize("ledger", ["stands", "is lost"])
def test_a_source_that_breaks_leaves_the_seal_as_it_was(producer: Producer, hand: Hand, ledger: str) -> None:
    job = producer.submit(images(25), OD, job_id="sealed")
    before = producer.store.get(job_record_uri(job.status().output_prefix))
    hand.take_all()
    if ledger == "is lost":
        hand.redis.flushall()
    with pytest.raises(OSError, match="the disk"):
        producer.submit(breaking(22), OD, job_id="sealed")
    hand.take_all()
    assert producer.store.get(f"{producer.settings.output_prefix}sealed/_arno/job.json") == before
    assert producer.resume("sealed").sent_chunks == 13
    assert job.status().sealed


def test_what_redis_loses_meanwhile_leaves_the_seal_as_it_was(settings: Settings, hand: Hand) -> None:
    settings = settings.model_copy(update={"producer": ProducerSettings(chunk_images=2, patience_s=0)})
    producer = Producer(settings)
    job = producer.submit(images(25), OD, job_id="sealed")
    before = producer.store.get(job_record_uri(job.status().output_prefix))
    hand.redis.flushall()

    def losing() -> Iterator[str]:
        for number, uri in enumerate(images(25)):
            if number == 22:
                hand.redis.flushall()
            yield uri

    # What is sealed is gone through before anything is opened, and is then read from its manifest.
    assert producer.submit(losing(), OD, job_id="sealed").status().sealed
    assert producer.store.get(f"{settings.output_prefix}sealed/_arno/job.json") == before
    assert asked(hand.take_all()) == images(25)


def test_a_wrong_list_does_not_stand_in_the_way_of_the_right_one(producer: Producer, hand: Hand) -> None:
    """What broke off is known by its first block alone."""
    with pytest.raises(OSError, match="the disk"):
        producer.submit(breaking(22), OD, job_id="half")
    with pytest.raises(JobConflict):
        producer.submit(images(25, "other"), OD, job_id="half")
    hand.take_all()
    job = producer.submit(images(25), OD, job_id="half")
    assert (job.created, job.status().images, job.status().sealed) == (False, 25, True)
    assert asked(hand.take_all()) == images(25)


def test_of_a_list_with_an_image_that_is_none_nothing_is_enqueued(producer: Producer, hand: Hand) -> None:
    with pytest.raises(InvalidRequest, match="image 31"):
        producer.submit([*images(30), 7], OD, job_id="half")  # type: ignore[list-item]
    assert (hand.take_all(), hand.redis.zcard(JOBS)) == ([], 0)
    assert list(producer.store.list(f"{producer.settings.output_prefix}half/")) == []


def test_where_the_manifest_cannot_be_written_nothing_is_queued(producer: Producer, hand: Hand) -> None:
    put_new = producer.store.put_new

    def full(uri: str, data: bytes, content_type: str) -> bool:
        if "manifest-000000" in uri:
            raise StorageRefused("no space is left")
        return put_new(uri, data, content_type)

    producer.store.put_new = full  # type: ignore[method-assign]
    with pytest.raises(StorageRefused):
        producer.submit(images(5), OD, job_id="mine")
    assert hand.take_all() == []
    assert not producer.job("mine").status().sealed


@pytest.mark.parametrize("again", ["submit", "resume"])
def test_a_job_whose_seal_was_not_written_gets_it_when_it_is_found(producer: Producer, hand: Hand, again: str) -> None:
    """Its list ends with a block of the manifest: what is more differs from no block that stands."""
    put = producer.store.put

    def full(*_: Any) -> None:
        raise StorageRefused("no space is left")

    producer.store.put = full  # type: ignore[method-assign]
    with pytest.raises(StorageRefused):
        producer.submit(iter(images(20)), OD, job_id="mine")
    producer.store.put = put  # type: ignore[method-assign]
    hand.take_all()
    read = count()
    long = (f"s3://b/{next(read)}.jpg" for _ in range(5000))
    for uris in (long, images(18), images(30), images(20, "other")):
        with pytest.raises(JobConflict):
            producer.submit(iter(uris), OD, job_id="mine")
    assert next(read) < 300
    if again == "submit":
        producer.submit(iter(images(20)), OD, job_id="mine")
        assert hand.take_all() == []
    else:
        assert producer.resume("mine").sent_chunks == 10
    record = record_at(producer, producer.job("mine").status().output_prefix)
    assert (record["chunks"], record["images"], len(record["images_sha256"])) == (10, 20, 64)


# --- submitted again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [list, iter])
@pytest.mark.parametrize("state", ["running", "paused", "cancelled", "done"])
def test_what_was_submitted_is_found_as_it_is(
    producer: Producer, hand: Hand, state: str, given: Callable[[list[str]], Iterable[str]]
) -> None:
    job = producer.submit(given(images(5)), OD, job_id="again")
    chunks = hand.take_all()
    assert job.created
    match state:
        case "paused":
            job.pause()
        case "cancelled":
            job.cancel()
        case "done":
            for chunk in chunks:
                hand.commit(chunk)
    before = job.status()
    assert before.state == state
    again = producer.submit(given(images(5)), OD, job_id="again")
    assert (again.created, again.status()) == (False, before)
    assert hand.take_all() == []
    assert hand.redis.keys(turn_key("*")) == []


def test_what_ended_incomplete_goes_on(settings: Settings, hand: Hand) -> None:
    producer = Producer(settings)
    job = producer.submit(images(5), OD, job_id="silent")
    hand.commit(hand.take_all()[0])
    hand.redis.zadd("arno:live", {"silent": 0})
    assert producer.ledger.abandon() == 1
    assert job.status().state is JobState.INCOMPLETE
    producer.submit(images(5), OD, job_id="silent")
    assert asked(hand.take_all()) == images(5)[2:]
    assert job.status().state is JobState.RUNNING


def test_what_was_not_submitted_whole_goes_on_where_it_stopped(producer: Producer, hand: Hand) -> None:
    with pytest.raises(OSError, match="the disk"):
        producer.submit(breaking(22), OD, job_id="half")
    done, given_up, *_ = hand.take_all()
    hand.commit(done)
    hand.bury(given_up)
    job = producer.submit(images(25), OD, job_id="half")
    assert asked(hand.take_all()) == images(25)[4:]
    assert (job.status().ok, job.status().dead, job.status().sealed) == (2, 2, True)


def test_a_job_that_was_cancelled_before_it_was_whole_stays_so(producer: Producer, hand: Hand) -> None:
    with pytest.raises(OSError, match="the disk"):
        producer.submit(breaking(22), OD, job_id="half")
    producer.job("half").cancel()
    hand.take_all()
    job = producer.submit(images(25), OD, job_id="half")
    assert (job.created, job.status().state, hand.take_all()) == (False, JobState.CANCELLED, [])


def test_a_sealed_job_whose_ledger_is_lost_is_not_lengthened(producer: Producer, hand: Hand) -> None:
    producer.submit(images(20), OD, job_id="sealed")
    hand.take_all()
    hand.redis.flushall()
    endless = (f"s3://b/{number}.jpg" for number in count())
    with pytest.raises(JobConflict):
        producer.submit(endless, OD, job_id="sealed")
    assert set(asked(hand.take_all())) <= set(images(20))
    assert not producer.store.exists(manifest_uri(f"{producer.settings.output_prefix}sealed/", 1))


def test_a_record_of_a_newer_version_is_read_and_one_of_an_older_is_continued(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(25), OD, job_id="mine")
    uri = job_record_uri(job.status().output_prefix)
    record = json.loads(producer.store.get(uri))
    producer.store.put(uri, json.dumps({**record, "novelty": 1}).encode(), "application/json")
    assert not producer.submit(images(25), OD, job_id="mine").created
    del record["images_sha256"]
    hand.take_all()
    for lost in (False, True):
        producer.store.put(uri, json.dumps(record).encode(), "application/json")
        if lost:
            hand.redis.flushall()
        for uris in (images(20), images(30), images(25, "other")):
            with pytest.raises(JobConflict):
                producer.submit(uris, OD, job_id="mine")
        hand.take_all()
        assert producer.submit(images(25), OD, job_id="mine").status().sealed
        assert record_at(producer, job.status().output_prefix)["images_sha256"]
    hand.redis.flushall()
    assert producer.resume("mine").status().sealed


def test_terms_that_the_record_does_not_know_are_refused(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(5), OD, job_id="mine")
    uri = job_record_uri(job.status().output_prefix)
    record = json.loads(producer.store.get(uri))
    record["terms"]["novelty"] = 1
    producer.store.put(uri, json.dumps(record).encode(), "application/json")
    with pytest.raises(JobConflict, match="novelty"):
        producer.submit(images(5), OD, job_id="mine")


def test_the_terms_of_before_are_the_same_to_the_byte(producer: Producer, tmp_path: Path) -> None:
    prefix = f"{file_uri(tmp_path)}/out/"
    output = f'{{"prefix":"{prefix}","format":"jsonl","inline":false}}'
    terms = f'{{"prompts":[{{"task":"<OD>","text":null,"region":null}}],"output":{output},"chunk_images":2}}'
    assert producer.ledger.open("old", terms, Output(prefix=prefix), Lane.BULK).created
    assert not producer.submit(images(2), OD, output=prefix, job_id="old").created
    assert "request_sha256" not in record_at(producer, prefix)["terms"]


# --- whose turn it is -------------------------------------------------------------------------------------------------


def test_who_comes_second_waits_until_it_is_sealed(producer: Producer, hand: Hand) -> None:
    go_on = threading.Event()

    def slow() -> Iterator[str]:
        yield from images(22)
        go_on.wait(30)
        yield from images(25)[22:]

    first = threading.Thread(target=producer.submit, args=(slow(), OD), kwargs={"job_id": "mine"})
    first.start()
    eventually(lambda: hand.redis.llen(Lane.BULK.queue) == 10, "the first block is enqueued")
    second = threading.Thread(
        target=Producer(producer.settings).submit, args=(images(25), OD), kwargs={"job_id": "mine"}
    )
    second.start()
    second.join(0.5)
    assert second.is_alive()
    go_on.set()
    first.join()
    second.join()
    assert asked(hand.take_all()) == images(25)


def test_who_waits_for_room_keeps_its_turn(settings: Settings, hand: Hand) -> None:
    marks = ProducerSettings(chunk_images=2, high_water_messages=2)
    producer = Producer(settings.model_copy(update={"producer": marks}))
    submission = threading.Thread(target=producer.submit, args=(images(6), OD), kwargs={"job_id": "mine"})
    submission.start()
    eventually(lambda: hand.redis.llen(Lane.BULK.queue) == 2, "the lane is full")
    left_ms = hand.redis.pttl(turn_key("mine"))
    eventually(lambda: hand.redis.pttl(turn_key("mine")) > left_ms, "its turn is longer")
    assert len(hand.take_all()) == 2
    submission.join()
    assert len(hand.take_all()) == 1


def test_who_dies_in_its_turn_is_not_waited_for_long(
    producer: Producer, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="the disk"):
        producer.submit(breaking(22), OD, job_id="half")
    monkeypatch.setattr(turn, "LEASE_S", 0.5)
    assert Turn(producer.redis, "half").take()
    hand.take_all()
    became = at_once(
        *(partial(each.submit, images(25), OD, job_id="half") for each in (producer, Producer(producer.settings)))
    )
    assert [job.status().sealed for job in became] == [True, True]
    assert asked(hand.take_all()) == images(25)


def test_arnos_that_share_a_redis_do_not_meet(settings: Settings) -> None:
    ours = settings.model_copy(update={"key_prefix": "ours:"})
    hand = Hand(ours)
    became = at_once(*(partial(Producer(ours).submit, images(5), OD, job_id="mine", wait_for_room=False) for _ in "12"))
    assert Counter(job.created for job in became) == {True: 1, False: 1}
    assert asked(hand.take_all()) == images(5)
    assert Hand(settings).redis.keys("[^o]*") == []


def test_a_turn_that_somebody_else_keeps_is_waited_for_as_long_as_patience_lasts(
    settings: Settings, hand: Hand
) -> None:
    producer = Producer(settings.model_copy(update={"producer": ProducerSettings(chunk_images=2, patience_s=0.3)}))
    assert Turn(producer.redis, "mine").take()
    assert producer.submit(images(5), OD, job_id="mine").status().sealed
    assert asked(hand.take_all()) == images(5)
    assert hand.redis.exists(turn_key("mine"))


def test_what_the_record_refutes_is_not_enqueued_though_it_comes_but_once(producer: Producer, hand: Hand) -> None:
    listed = images(7)
    terms = terms_of(producer, "run-7")
    chunks = cut(listed, terms.prompts, terms.output, terms.generation, "run-7", terms.chunk_images)
    # Who claimed it has sent nothing yet.
    Manifest(producer.store, "run-7", terms).claim(Listed.of(chunks))
    for other in (images(7, of="other"), images(6), images(9)):
        with pytest.raises(JobConflict, match="other images"):
            producer.submit(iter(other), OD, job_id="run-7")
        assert hand.take_all() == []
    assert producer.submit(iter(listed), OD, job_id="run-7").status().sealed
    assert asked(hand.take_all()) == listed


@pytest.mark.parametrize("forgotten", ["expired", "lost"])
def test_a_refusal_changes_nothing_of_a_job_that_is_no_longer_in_the_ledger(
    forgotten: str, producer: Producer, hand: Hand
) -> None:
    producer.submit(images(4), OD, job_id="run-7")
    for chunk in hand.take_all():
        hand.commit(chunk, {image.uri: "not_found" for image in chunk.images})
    if forgotten == "lost":
        producer.redis.flushall()
    else:
        producer.redis.delete(job_keys("run-7").job)
    for other in (images(2), images(6), images(4, of="other")):
        with pytest.raises(JobConflict):
            producer.submit(iter(other), OD, job_id="run-7")
        assert not producer.redis.exists(job_keys("run-7").job)
    job = producer.submit(iter(images(4)), OD, job_id="run-7")
    assert not job.created
    status = job.status()
    assert (status.state, status.images, status.failed) == (JobState.DONE, 4, 4)
    assert hand.take_all() == []


def test_what_was_sent_is_brought_back_by_resume(producer: Producer, hand: Hand) -> None:
    sent = producer.send(images(2), OD, job_id="run-7", lane=Lane.BULK)
    sent.job.cancel()
    (dropped,) = hand.take_all()
    assert hand.begin(dropped) is Verdict.CANCELLED
    resumed = producer.resume("run-7")
    assert (resumed.done_chunks, resumed.sent_chunks) == (0, 1)
    (again,) = hand.take_all()
    assert again == dropped
    hand.commit(again)
    assert resumed.status().state is JobState.DONE
    resumed = producer.resume("run-7")
    assert (resumed.done_chunks, resumed.sent_chunks) == (1, 0)


def test_messages_of_others_are_brought_back_by_resume_with_what_is_kept_of_them(
    producer: Producer, hand: Hand
) -> None:
    chunk = Chunk(
        images=(ImageRef(uri="s3://b/1.jpg"), ImageRef(uri="s3://b/2.jpg")),
        prompts=(Prompt(task=OD),),
        output=Output(prefix=f"{producer.settings.output_prefix}theirs/"),
        job_id="theirs",
        index=0,
    )
    hand.ledger.begin("theirs", 0, 1, Message("a message", chunk.digest, "tag"), chunk.output)
    hand.commit(chunk, put_off=("s3://b/2.jpg",))
    producer.job("theirs").cancel()
    assert producer.resume("theirs").sent_chunks == 1
    (later,) = hand.take_all()
    assert [image.uri for image in later.images] == ["s3://b/2.jpg"]


def terms_of(producer: Producer, job_id: str) -> JobTerms:
    return JobTerms(
        prompts=(Prompt(task=OD),),
        output=Output(prefix=f"{producer.settings.output_prefix}{job_id}/"),
        chunk_images=producer.settings.producer.chunk_images,
    )
