"""The ledger counts every image once, whatever happens in whatever order, and a job is done when nothing is left."""

import dataclasses
import json
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arno_shared.dead_letters import DeadLetters, FiledLetter, LetterKind
from arno_shared.errors import JobConflict, JobNotFound
from arno_shared.ledger import Found, JobState, Ledger, Verdict, indices_of
from arno_shared.messages import Chunk, Output
from arno_shared.names import DELAYED, TOPIC, Lane, event_id, job_keys
from arno_shared.redis_client import RedisClient
from arno_shared.topic import ChunkEvent
from tests.shared.ledger.hand import (
    OUTPUT,
    TERMS,
    announce,
    begin,
    bury,
    chunk_of,
    counted,
    foreign,
    keys_of,
    letter_of,
    open_job,
    outcome,
    output_of,
    replay,
    send_due,
    sent,
    state,
)

patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
"""Machines may be busy: how long an example takes says nothing."""


# Opening


def test_a_job_that_is_opened_is_running_and_empty(ledger: Ledger) -> None:
    assert ledger.open("run-7", TERMS, Output(prefix="s3://r/", format="parquet"), Lane.BULK).created
    status = ledger.status("run-7")
    assert (status.state, status.sealed, status.finished) == (JobState.RUNNING, False, False)
    assert (status.output_prefix, status.output_format) == ("s3://r/", "parquet")
    assert counted(ledger) == {}
    assert status.finished_at is None
    assert abs(status.created_at - datetime.now(UTC)).total_seconds() < 60


def test_opening_a_job_again_resumes_it_and_keeps_what_was_counted(ledger: Ledger) -> None:
    first, _ = open_job(ledger, 2, 3)
    ledger.commit(first, outcome(first))
    assert not ledger.open("run-7", TERMS, OUTPUT, Lane.BULK).created
    assert counted(ledger) == {"chunks": 2, "chunks_committed": 1, "images": 5, "ok": 2}


def test_opening_a_job_with_other_terms_is_a_conflict_that_shows_the_terms_that_stand(ledger: Ledger) -> None:
    open_job(ledger, 2)
    with pytest.raises(JobConflict, match="other terms") as conflict:
        ledger.open("run-7", '{"prompts": "<OCR>"}', OUTPUT, Lane.BULK)
    assert TERMS in str(conflict.value)
    assert state(ledger) is JobState.RUNNING


def test_a_job_of_messages_with_another_output_cannot_be_opened_by_a_producer(ledger: Ledger) -> None:
    begin(ledger, chunk_of(1))
    with pytest.raises(JobConflict, match="messages of its own"):
        ledger.open("run-7", TERMS, Output(prefix="s3://elsewhere/"), Lane.BULK)


def test_a_job_of_messages_without_index_cannot_be_opened_because_its_chunks_are_others(ledger: Ledger) -> None:
    ledger.begin("run-7", None, 1, foreign(), OUTPUT)
    with pytest.raises(JobConflict, match="messages of its own"):
        ledger.open("run-7", TERMS, OUTPUT, Lane.BULK)


def test_a_job_that_was_not_opened_cannot_be_announced(ledger: Ledger) -> None:
    with pytest.raises(JobNotFound, match="'run-7'"):
        announce(ledger, "run-7", 1, 1, sealed=True)


def test_a_job_that_nobody_opened_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(JobNotFound, match="'run-8'"):
        ledger.status("run-8")
    with pytest.raises(JobNotFound, match="'run-8'"):
        ledger.cancel("run-8")


def test_jobs_are_listed_newest_first_and_messages_are_no_jobs(ledger: Ledger) -> None:
    for job_id in ("a", "c", "b"):
        ledger.open(job_id, TERMS, output_of(job_id), Lane.BULK)
    begin(ledger, chunk_of(1, job_id="message"))
    assert ledger.jobs(10) == ["b", "c", "a"]
    assert ledger.jobs(2) == ["b", "c"]


def test_what_is_announced_only_grows(ledger: Ledger) -> None:
    open_job(ledger, 2, 2, sealed=False)
    announce(ledger, "run-7", 1, 2, sealed=False)
    assert counted(ledger) == {"chunks": 2, "images": 4}


# Beginning


def test_a_chunk_is_begun_until_it_is_committed(ledger: Ledger) -> None:
    chunk, _ = open_job(ledger, 2, 2)
    assert [begin(ledger, chunk), begin(ledger, chunk)] == [Verdict.GO, Verdict.GO]
    ledger.commit(chunk, outcome(chunk))
    assert begin(ledger, chunk) is Verdict.COMMITTED


def test_an_attempt_is_begun_until_that_attempt_is_committed(ledger: Ledger) -> None:
    (chunk,) = open_job(ledger, 2)
    ledger.commit(chunk, outcome(chunk, put_off=1))
    (later,) = send_due(ledger)
    assert begin(ledger, later) is Verdict.GO
    ledger.commit(later, outcome(later))
    assert begin(ledger, later) is Verdict.COMMITTED


def test_a_chunk_of_a_cancelled_job_is_not_begun(ledger: Ledger) -> None:
    done, waiting = open_job(ledger, 2, 2)
    ledger.commit(done, outcome(done))
    ledger.cancel("run-7")
    assert begin(ledger, waiting) is Verdict.CANCELLED
    assert begin(ledger, done) is Verdict.COMMITTED


def test_a_message_is_a_job_of_its_own_that_is_done_when_it_is(ledger: Ledger) -> None:
    chunk = chunk_of(3, job_id="message")
    assert begin(ledger, chunk) is Verdict.GO
    assert state(ledger, "message") is JobState.RUNNING
    ledger.commit(chunk, outcome(chunk, failed=1))
    assert state(ledger, "message") is JobState.DONE
    assert counted(ledger, "message") == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 2, "failed": 1}


def test_messages_that_name_a_job_but_no_index_get_one_each_and_keep_it(ledger: Ledger) -> None:
    def index(message_id: str) -> int:
        return ledger.begin("album", None, 1, foreign(message_id), OUTPUT).index

    assert [index("a"), index("b"), index("a"), index("c"), index("b")] == [0, 1, 0, 2, 1]


def test_a_message_without_index_that_comes_again_is_committed(ledger: Ledger) -> None:
    chunk = chunk_of(1, job_id="album")
    message = foreign("a", chunk.digest)
    assert ledger.begin("album", None, 1, message, chunk.output).index == 0
    ledger.commit(chunk, outcome(chunk))
    again = ledger.begin("album", None, 1, message, chunk.output)
    assert (again.verdict, again.index) == (Verdict.COMMITTED, 0)


def test_a_job_of_messages_that_is_done_runs_again_with_the_next_message(ledger: Ledger) -> None:
    for index in (0, 1):
        chunk = chunk_of(2, job_id="album", index=index)
        begin(ledger, chunk)
        assert state(ledger, "album") is JobState.RUNNING
        ledger.commit(chunk, outcome(chunk))
        assert state(ledger, "album") is JobState.DONE
    assert counted(ledger, "album") == {"chunks": 2, "chunks_committed": 2, "images": 4, "ok": 4}


# Committing


def test_a_commit_counts_publishes_and_is_done_once(ledger: Ledger, redis: RedisClient) -> None:
    chunk, _ = open_job(ledger, 3, 1)
    result = outcome(chunk, failed=1)
    assert ledger.commit(chunk, result) is True
    before = ledger.status("run-7")
    assert ledger.commit(chunk, result) is False
    assert ledger.status("run-7") == before
    assert counted(ledger) == {"chunks": 2, "chunks_committed": 1, "images": 4, "ok": 2, "failed": 1}
    assert before.failed_by_code == {"not_found": 1}
    ((_, fields),) = redis.xrange(TOPIC)
    assert ChunkEvent.model_validate_json(fields[b"event"]) == result.event
    assert fields[b"type"] == b"arno.chunk.completed.v1"


def test_of_many_commits_at_once_exactly_one_counts(ledger: Ledger, redis: RedisClient) -> None:
    chunks = open_job(ledger, *[2] * 10)
    barrier = Barrier(8)

    def commit_all(_: int) -> int:
        barrier.wait()
        return sum(ledger.commit(chunk, outcome(chunk)) for chunk in chunks)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(commit_all, range(8))) == 10
    assert counted(ledger) == {"chunks": 10, "chunks_committed": 10, "images": 20, "ok": 20}
    assert state(ledger) is JobState.DONE
    ids = [json.loads(fields[b"event"])["id"] for _, fields in redis.xrange(TOPIC)]
    assert sorted(ids) == [f"run-7/{index}" for index in range(10)]


def test_of_many_commits_of_a_later_attempt_exactly_one_counts(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    ledger.commit(chunk, outcome(chunk, put_off=1))
    (later,) = send_due(ledger)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: ledger.commit(later, outcome(later)), range(8))) == 1
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 2, "ok": 2}
    assert redis.xlen(TOPIC) == 2


def test_committed_chunks_are_found_in_any_window(ledger: Ledger) -> None:
    chunks = open_job(ledger, *[1] * 30)
    committed = {0, 7, 8, 15, 16, 29}
    for index in committed:
        ledger.commit(chunks[index], outcome(chunks[index]))
    for first in range(31):
        for count in (1, 2, 7, 8, 9, 30):
            window = set(range(first, first + count))
            assert ledger.committed_indices("run-7", first, count) == committed & window
    assert ledger.committed_bits("run-7", 0, 8) == bytes([0b1000_0001])
    assert ledger.committed_bits("run-7", 8, 16) == bytes([0b1000_0001, 0b1000_0000])
    assert ledger.committed_bits("run-7", 8000, 8) == b""


@patient
@given(st.binary(max_size=8), st.integers(0, 100).map(lambda number: number * 8))
def test_the_highest_bit_of_a_byte_is_its_first_chunk(bits: bytes, first: int) -> None:
    shown = "".join(f"{byte:08b}" for byte in bits)
    assert list(indices_of(bits, first)) == [first + place for place, bit in enumerate(shown) if bit == "1"]


# Putting off and giving up


def test_images_put_off_are_due_in_time_and_done_in_a_later_attempt(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 3)
    ledger.commit(chunk, outcome(chunk, put_off=2, delay_s=1000))
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 1, "put_off": 2}
    assert state(ledger) is JobState.RUNNING
    assert ledger.due() == []
    ((_, due_at),) = redis.zrange(DELAYED, 0, -1, withscores=True)
    assert 900 < due_at - redis.time()[0] < 1002
    redis.zadd(DELAYED, {b"run-7/0.2": 0})
    (later,) = send_due(ledger)
    assert later == chunk.retry_of(chunk.images[:2])
    ledger.commit(later, outcome(later))
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 3}
    assert state(ledger) is JobState.DONE
    assert [(entry.index, entry.attempt) for entry in ledger.commits("run-7", 0, 10)] == [(0, 2)]


def test_what_is_due_comes_up_again_until_it_is_sent(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 1)
    ledger.commit(chunk, outcome(chunk, put_off=1))
    (claimed,) = ledger.due()
    assert claimed.lane is Lane.BULK
    assert ledger.due() == []
    # Whoever claimed it is given half a minute; then it was lost.
    redis.zadd(DELAYED, {f"{claimed.job_id}/{claimed.attempt}": redis.time()[0] - 1})
    assert ledger.due() == [claimed]
    ledger.sent(claimed)
    assert redis.zcard(DELAYED) == 0


@pytest.mark.parametrize("entry", [b"garbage", b"\xff/0.2", b"broken/0.2", b"newer/0.2"])
def test_what_cannot_be_read_keeps_nobody_from_what_is_due(entry: bytes, ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 1)
    ledger.commit(chunk, outcome(chunk, put_off=1))
    redis.zadd(DELAYED, {entry: 0})
    redis.hset(job_keys("broken").put_off, "0.2", "no JSON")
    redis.hset(job_keys("newer").put_off, "0.2", '{"lane": "of the future", "message": {}}')
    assert [due.job_id for due in ledger.due()] == ["run-7"]


def test_what_is_due_of_a_job_that_is_gone_is_forgotten(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 1)
    ledger.commit(chunk, outcome(chunk, put_off=1))
    redis.delete(*job_keys("run-7"))
    assert ledger.due() == []
    assert redis.zcard(DELAYED) == 0


def test_images_given_up_count_as_failed_and_their_letter_is_filed(ledger: Ledger, letters: DeadLetters) -> None:
    (chunk,) = open_job(ledger, 3)
    ledger.commit(chunk, outcome(chunk, put_off=2))
    (later,) = send_due(ledger)
    ledger.commit(later, outcome(later, failed=2, gives_up=True))
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 1, "failed": 2}
    assert ledger.status("run-7").failed_by_code == {"timeout": 2}
    assert state(ledger) is JobState.DONE
    (filed,) = letters.list(job_id="run-7")
    assert (filed.letter.kind, filed.letter.attempt, filed.letter.images) == (LetterKind.IMAGES, 2, 2)


def test_a_chunk_is_buried_once_and_counts_as_dead(ledger: Ledger, letters: DeadLetters) -> None:
    chunk, other = open_job(ledger, 3, 1)
    assert [bury(ledger, chunk), bury(ledger, chunk)] == [True, False]
    assert counted(ledger) == {"chunks": 2, "images": 4, "dead": 3}
    assert len(list(letters.list())) == 1
    ledger.commit(other, outcome(other))
    assert state(ledger) is JobState.DONE


def test_a_committed_chunk_is_not_buried(ledger: Ledger, letters: DeadLetters) -> None:
    (chunk,) = open_job(ledger, 3)
    ledger.commit(chunk, outcome(chunk, put_off=1))
    (later,) = send_due(ledger)
    ledger.commit(later, outcome(later))
    assert [bury(ledger, chunk), bury(ledger, later)] == [False, False]
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 3}
    assert list(letters.list()) == []


def test_a_later_attempt_that_is_buried_is_no_longer_put_off(ledger: Ledger) -> None:
    (chunk,) = open_job(ledger, 3)
    ledger.commit(chunk, outcome(chunk, put_off=2))
    (later,) = send_due(ledger)
    bury(ledger, later)
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 1, "dead": 2}
    assert state(ledger) is JobState.DONE


@pytest.mark.parametrize("put_off", [0, 1])
def test_a_buried_chunk_that_is_committed_after_all_rises(put_off: int, ledger: Ledger) -> None:
    (chunk,) = open_job(ledger, 3)
    bury(ledger, chunk)
    assert state(ledger) is JobState.DONE
    assert ledger.commit(chunk, outcome(chunk, put_off=put_off))
    expected = {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 3 - put_off, "put_off": put_off}
    assert counted(ledger) == {name: number for name, number in expected.items() if number}
    assert state(ledger) is (JobState.RUNNING if put_off else JobState.DONE)


def test_a_later_attempt_that_was_given_up_and_comes_again_knows_its_images_positions(ledger: Ledger) -> None:
    (chunk,) = open_job(ledger, 3)
    later = chunk.retry_of(chunk.images[1:], positions=(1, 2))
    ledger.commit(chunk, dataclasses.replace(outcome(chunk, put_off=2), put_off=later))
    (due,) = send_due(ledger)
    for _ in range(2):
        begun = ledger.begin("run-7", 0, 2, sent(due), due.output)
        assert (begun.verdict, begun.positions) == (Verdict.GO, (1, 2))
        bury(ledger, later)


def test_a_message_that_was_given_up_and_comes_again_leaves_its_job_done(ledger: Ledger) -> None:
    chunk = chunk_of(2, job_id="message")
    for first in (True, False):
        assert begin(ledger, chunk) is Verdict.GO
        assert bury(ledger, chunk) is first
        assert state(ledger, "message") is JobState.DONE
    assert counted(ledger, "message") == {"chunks": 1, "images": 2, "dead": 2}


# Replaying


def test_a_replayed_chunk_is_due_at_once_and_done_as_if_nothing_had_been(ledger: Ledger, letters: DeadLetters) -> None:
    (chunk,) = open_job(ledger, 3)
    bury(ledger, chunk)
    assert replay(ledger, letters) == [chunk]
    assert counted(ledger) == {"chunks": 1, "images": 3}
    assert state(ledger) is JobState.RUNNING
    assert begin(ledger, chunk) is Verdict.GO
    ledger.commit(chunk, outcome(chunk))
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 3}
    assert state(ledger) is JobState.DONE


def test_a_replayed_later_attempt_is_put_off_again(ledger: Ledger, letters: DeadLetters) -> None:
    (chunk,) = open_job(ledger, 3)
    ledger.commit(chunk, outcome(chunk, put_off=2))
    (later,) = send_due(ledger)
    bury(ledger, later)
    assert replay(ledger, letters) == [later]
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 1, "put_off": 2}
    ledger.commit(later, outcome(later))
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 3}
    assert state(ledger) is JobState.DONE


def test_replayed_images_get_an_attempt_of_their_own(ledger: Ledger, letters: DeadLetters) -> None:
    (chunk,) = open_job(ledger, 3)
    ledger.commit(chunk, outcome(chunk, failed=2, gives_up=True))
    assert state(ledger) is JobState.DONE
    (later,) = replay(ledger, letters)
    assert (later.attempt, later.images) == (2, chunk.images[:2])
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 1, "put_off": 2}
    assert ledger.status("run-7").failed_by_code == {}
    assert state(ledger) is JobState.RUNNING
    ledger.commit(later, outcome(later))
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 3}
    assert state(ledger) is JobState.DONE


def test_a_letter_is_replayed_once(ledger: Ledger, letters: DeadLetters) -> None:
    (chunk,) = open_job(ledger, 3)
    bury(ledger, chunk)
    (filed,) = letters.list()
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ledger.replay, [filed] * 8)) == 1
    assert list(letters.list()) == []
    assert counted(ledger) == {"chunks": 1, "images": 3}


def test_a_replayed_message_counts_as_before(ledger: Ledger, letters: DeadLetters) -> None:
    chunk = chunk_of(2, job_id="message")
    begin(ledger, chunk)
    bury(ledger, chunk)
    assert replay(ledger, letters) == [chunk]
    assert counted(ledger, "message") == {}
    begin(ledger, chunk)
    ledger.commit(chunk, outcome(chunk))
    assert counted(ledger, "message") == {"chunks": 1, "chunks_committed": 1, "images": 2, "ok": 2}
    assert state(ledger, "message") is JobState.DONE


def test_the_letter_of_a_chunk_that_is_done_after_all_goes_and_wakes_nothing(
    ledger: Ledger, letters: DeadLetters
) -> None:
    (chunk,) = open_job(ledger, 3)
    bury(ledger, chunk)
    (filed,) = letters.list()
    ledger.commit(chunk, outcome(chunk))
    assert list(letters.list()) == []
    assert ledger.replay(filed) is False
    letters.add(filed.letter)
    (late,) = letters.list()
    assert ledger.replay(late) is True
    assert send_due(ledger) == []
    assert state(ledger) is JobState.DONE
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 3}


@pytest.mark.parametrize("kind", [LetterKind.CHUNK, LetterKind.IMAGES])
@pytest.mark.parametrize("attempt", [1, 2])
def test_a_letter_outlives_the_ledger(
    kind: LetterKind, attempt: int, ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    letters.add(letter_of(kind, chunk_of(2, attempt=attempt)))
    (chunk,) = replay(ledger, letters)
    assert begin(ledger, chunk) is Verdict.GO
    ledger.commit(chunk, outcome(chunk))
    status = ledger.status("run-7")
    assert (status.images, status.ok, status.put_off, status.state) == (2, 2, 0, JobState.DONE)


# Settling


@pytest.mark.parametrize("seal", [0, 1, 2])
def test_a_job_is_done_once_it_is_sealed_and_all_is_committed_in_either_order(seal: int, ledger: Ledger) -> None:
    chunks = open_job(ledger, 2, 2, sealed=False)
    steps = [lambda chunk=chunk: ledger.commit(chunk, outcome(chunk)) for chunk in chunks]
    steps.insert(seal, lambda: announce(ledger, "run-7", 2, 4, sealed=True))
    for step in steps:
        assert state(ledger) is JobState.RUNNING
        step()
    status = ledger.status("run-7")
    assert (status.state, status.sealed, status.finished) == (JobState.DONE, True, True)
    assert status.finished_at is not None
    assert status.finished_at >= status.created_at


def test_a_job_waits_for_what_was_put_off_even_when_all_chunks_are_committed(ledger: Ledger) -> None:
    first, second = open_job(ledger, 2, 2, sealed=False)
    ledger.commit(first, outcome(first, put_off=1))
    ledger.commit(second, outcome(second))
    announce(ledger, "run-7", 2, 4, sealed=True)
    assert state(ledger) is JobState.RUNNING
    (later,) = send_due(ledger)
    ledger.commit(later, outcome(later))
    assert state(ledger) is JobState.DONE


def test_a_done_job_that_is_opened_again_is_still_done(ledger: Ledger) -> None:
    (chunk,) = open_job(ledger, 2)
    ledger.commit(chunk, outcome(chunk))
    assert not ledger.open("run-7", TERMS, OUTPUT, Lane.BULK).created
    assert state(ledger) is JobState.DONE
    announce(ledger, "run-7", 1, 2, sealed=True)
    assert state(ledger) is JobState.DONE


def test_a_resumed_job_does_buried_chunks_again(ledger: Ledger, letters: DeadLetters) -> None:
    (chunk,) = open_job(ledger, 3)
    bury(ledger, chunk)
    open_job(ledger, 3)
    assert counted(ledger) == {"chunks": 1, "dead": 3, "images": 3}
    ledger.revive("run-7", TERMS, OUTPUT, Lane.BULK)
    assert list(letters.list()) == []
    assert counted(ledger) == {"chunks": 1, "images": 3}
    assert state(ledger) is JobState.RUNNING
    ledger.commit(chunk, outcome(chunk))
    assert state(ledger) is JobState.DONE


def test_cancelling_stops_a_running_job_and_changes_no_other(ledger: Ledger) -> None:
    open_job(ledger, 2)
    assert ledger.cancel("run-7") is JobState.CANCELLED
    assert ledger.cancel("run-7") is JobState.CANCELLED
    assert ledger.status("run-7").finished
    (done,) = open_job(ledger, 1, job_id="run-8")
    ledger.commit(done, outcome(done))
    assert ledger.cancel("run-8") is JobState.DONE


def test_a_chunk_in_flight_when_its_job_was_cancelled_still_counts(ledger: Ledger) -> None:
    (chunk,) = open_job(ledger, 2)
    ledger.cancel("run-7")
    assert ledger.commit(chunk, outcome(chunk))
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 2, "ok": 2}
    assert state(ledger) is JobState.CANCELLED


def test_a_cancelled_job_is_resumed_with_all_that_was_left(ledger: Ledger) -> None:
    first, second = open_job(ledger, 2, 2)
    ledger.commit(first, outcome(first, put_off=1))
    ledger.cancel("run-7")
    (dropped,) = send_due(ledger)
    assert begin(ledger, dropped) is Verdict.CANCELLED
    open_job(ledger, 2, 2)
    assert begin(ledger, second) is Verdict.CANCELLED
    assert state(ledger) is JobState.CANCELLED
    ledger.revive("run-7", TERMS, OUTPUT, Lane.BULK)
    assert begin(ledger, second) is Verdict.GO
    (later,) = send_due(ledger)
    assert later == dropped
    for chunk in (second, later):
        ledger.commit(chunk, outcome(chunk))
    assert counted(ledger) == {"chunks": 2, "chunks_committed": 2, "images": 4, "ok": 4}
    assert state(ledger) is JobState.DONE


# Losing Redis


def test_a_chunk_in_flight_when_the_ledger_was_lost_leaves_a_job_that_can_be_read(
    ledger: Ledger, redis: RedisClient
) -> None:
    (chunk,) = open_job(ledger, 3)
    begin(ledger, chunk)
    redis.flushall()
    assert ledger.commit(chunk, outcome(chunk))
    status = ledger.status("run-7")
    assert (status.images, status.ok, status.output_prefix) == (3, 3, OUTPUT.prefix)


def test_a_chunk_given_up_when_the_ledger_was_lost_leaves_a_job_that_can_be_read(
    ledger: Ledger, redis: RedisClient
) -> None:
    (chunk,) = open_job(ledger, 3)
    begin(ledger, chunk)
    redis.flushall()
    assert bury(ledger, chunk)
    status = ledger.status("run-7")
    assert (status.images, status.dead, status.state) == (3, 3, JobState.DONE)


def test_what_was_restored_is_announced_by_whoever_has_it_in_hand_and_once(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 3)
    later = chunk.retry_of(chunk.images[:1])
    assert ledger.restore(later, Found(ok=1))
    assert ledger.restore(chunk, Found(ok=2))
    assert redis.xlen(TOPIC) == 0
    for number, one in enumerate((chunk, later), start=1):
        for _ in range(3):
            assert ledger.restore(one, Found(ok=1)) is False
            assert ledger.commit(one, outcome(one)) is False
            assert redis.xlen(TOPIC) == number
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 3}


def test_a_producer_resumes_its_job_after_chunks_in_flight_survived_the_ledger(
    ledger: Ledger, redis: RedisClient
) -> None:
    committed, buried, waiting = open_job(ledger, 3, 2, 1)
    redis.flushall()
    ledger.commit(committed, outcome(committed))
    bury(ledger, buried)
    assert not ledger.open("run-7", TERMS, OUTPUT, Lane.BULK).created
    announce(ledger, "run-7", 3, 6, sealed=True)
    assert counted(ledger) == {"chunks": 3, "chunks_committed": 1, "dead": 2, "images": 6, "ok": 3}
    assert ledger.jobs(1) == ["run-7"]
    for chunk in (buried, waiting):
        assert state(ledger) is JobState.RUNNING
        ledger.commit(chunk, outcome(chunk))
    assert counted(ledger) == {"chunks": 3, "chunks_committed": 3, "images": 6, "ok": 6}
    assert state(ledger) is JobState.DONE


def test_a_later_attempt_that_was_given_up_before_its_ledger_was_restored_leaves_nothing_put_off(
    ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    (first,) = open_job(ledger, 3)
    ledger.commit(first, outcome(first, put_off=2))
    (later,) = send_due(ledger)
    redis.flushall()
    bury(ledger, later)
    ledger.revive("run-7", TERMS, OUTPUT, Lane.BULK)
    announce(ledger, "run-7", 1, 3, sealed=True)
    ledger.restore(first, Found(ok=1, put_off=later))
    ledger.commit(later, outcome(later))
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 3}
    assert state(ledger) is JobState.DONE
    assert not list(letters.list())


# At random


class Model:
    """What a job's numbers must be, kept in the plainest way: where each attempt's images are."""

    def __init__(self, ledger: Ledger, letters: DeadLetters, seed: int) -> None:
        self.ledger, self.letters, self.random = ledger, letters, random.Random(seed)
        self.where: dict[tuple[int, int], str] = {}
        self.images: dict[tuple[int, int], int] = {}
        self.ok = self.failed = self.chunks = 0
        self.sealed = self.cancelled = False

    def in_place(self, place: str) -> int:
        return sum(self.images[attempt] for attempt, where in self.where.items() if where == place)

    def chunk(self, attempt: tuple[int, int]) -> Chunk:
        return chunk_of(self.images[attempt], index=attempt[0], attempt=attempt[1])

    def any_attempt(self) -> tuple[int, int] | None:
        return self.random.choice(list(self.where)) if self.where else None

    # What can happen

    def open(self) -> None:
        self.ledger.open("run-7", TERMS, OUTPUT, Lane.BULK)

    def revive(self) -> None:
        self.ledger.revive("run-7", TERMS, OUTPUT, Lane.BULK)
        self.cancelled = False
        for attempt, where in self.where.items():
            if where == "dead" and attempt[1] == 1:
                self.where[attempt] = "waiting"

    def announce(self) -> None:
        if not self.sealed:
            for index in range(self.chunks, self.chunks + self.random.randrange(3)):
                self.where[index, 1], self.images[index, 1] = "waiting", self.random.randint(1, 4)
                self.chunks += 1
            self.sealed = self.random.random() < 0.5
            images = sum(self.images[index, 1] for index in range(self.chunks))
            announce(self.ledger, "run-7", self.chunks, images, sealed=self.sealed)

    def commit(self) -> None:
        if (attempt := self.any_attempt()) is None:
            return
        chunk, fresh = self.chunk(attempt), self.where[attempt] != "committed"
        failed = self.random.randint(0, len(chunk.images))
        put_off = 0 if failed else self.random.randint(0, len(chunk.images))
        result = outcome(chunk, failed=failed, put_off=put_off, gives_up=failed > 0 and self.random.random() < 0.7)
        assert self.ledger.commit(chunk, result) is fresh
        if fresh:
            self.where[attempt] = "committed"
            self.ok += len(chunk.images) - failed - put_off
            self.failed += failed
            if put_off:
                self.later(attempt, put_off)

    def later(self, attempt: tuple[int, int], images: int) -> None:
        following = (attempt[0], attempt[1] + 1)
        self.where[following], self.images[following] = "put_off", images

    def bury(self) -> None:
        if (attempt := self.any_attempt()) is not None:
            fresh = self.where[attempt] in ("waiting", "put_off")
            assert bury(self.ledger, self.chunk(attempt)) is fresh
            if fresh:
                self.where[attempt] = "dead"

    def begin(self) -> None:
        if (attempt := self.any_attempt()) is not None:
            verdict = begin(self.ledger, self.chunk(attempt))
            otherwise = Verdict.CANCELLED if self.cancelled else Verdict.GO
            assert verdict is (Verdict.COMMITTED if self.where[attempt] == "committed" else otherwise)

    def replay(self) -> None:
        filed: list[FiledLetter] = list(self.letters.list())
        if filed:
            chosen = self.random.choice(filed)
            if self.cancelled:
                with pytest.raises(JobConflict, match="was cancelled"):
                    self.ledger.replay(chosen)
                return
            assert self.ledger.replay(chosen)
            letter = chosen.letter
            attempt = (letter.index or 0, letter.attempt or 0)
            if letter.kind is LetterKind.IMAGES:
                self.failed -= letter.images
                self.later(attempt, letter.images)
            elif self.where[attempt] == "dead":
                self.where[attempt] = "waiting" if attempt[1] == 1 else "put_off"

    def send(self) -> None:
        send_due(self.ledger)

    def cancel(self) -> None:
        self.cancelled = self.ledger.cancel("run-7") is JobState.CANCELLED

    def step(self) -> None:
        steps = {
            self.open: 1.0,
            self.revive: 1.0,
            self.announce: 3.0,
            self.commit: 8.0,
            self.bury: 2.0,
            self.begin: 2.0,
            self.replay: 2.0,
            self.send: 1.0,
            self.cancel: 0.5,
        }
        self.random.choices(list(steps), weights=list(steps.values()))[0]()

    # What must hold

    def check(self) -> None:
        status = self.ledger.status("run-7")
        assert (status.ok, status.failed) == (self.ok, self.failed)
        assert (status.put_off, status.dead) == (self.in_place("put_off"), self.in_place("dead"))
        waiting = self.in_place("waiting")
        assert status.images == status.ok + status.failed + status.put_off + status.dead + waiting
        assert status.chunks == self.chunks
        assert status.chunks_committed == sum(
            where == "committed" for attempt, where in self.where.items() if attempt[1] == 1
        )
        outstanding = waiting + status.put_off
        done = JobState.DONE if self.sealed and not outstanding else JobState.RUNNING
        assert status.state is (JobState.CANCELLED if self.cancelled else done)
        assert self.ledger.committed_indices("run-7", 0, self.chunks + 1) == {
            index for (index, attempt), where in self.where.items() if attempt == 1 and where == "committed"
        }

    def finish(self) -> None:
        """Everything that is left is done, in any order; then the job must be."""
        self.revive()
        announce(self.ledger, "run-7", self.chunks, 0, sealed=True)
        self.sealed = True
        left = [attempt for attempt, where in self.where.items() if where in ("waiting", "put_off")]
        self.random.shuffle(left)
        for attempt in left:
            self.check()
            chunk = self.chunk(attempt)
            self.ledger.commit(chunk, outcome(chunk))
            self.where[attempt] = "committed"
            self.ok += len(chunk.images)


@pytest.mark.parametrize("seed", range(15))
def test_whatever_happens_each_image_is_counted_once_and_the_job_is_done_when_nothing_is_left(
    seed: int, ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    model = Model(ledger, letters, seed)
    model.open()
    for _ in range(60):
        model.step()
        model.check()
    model.finish()
    model.check()
    assert state(ledger) is JobState.DONE
    assert all(redis.ttl(key) > 0 for key in keys_of(redis))
    events = [json.loads(fields[b"event"])["id"] for _, fields in redis.xrange(TOPIC)]
    assert sorted(events) == sorted(
        event_id("run-7", *attempt) for attempt, where in model.where.items() if where == "committed"
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_job_of_messages_counts_each_image_once_and_ends_done(
    seed: int, ledger: Ledger, letters: DeadLetters
) -> None:
    chance = random.Random(seed)
    arrivals: list[Chunk] = [chunk_of(chance.randint(1, 4), index=index) for index in range(10)] * 2
    chance.shuffle(arrivals)
    while arrivals or (arrivals := send_due(ledger)):
        chunk = arrivals.pop()
        if begin(ledger, chunk) is Verdict.GO:
            act_on(ledger, chunk, chance)
        status = ledger.status("run-7")
        assert status.images == status.ok + status.failed + status.put_off + status.dead
        if chance.random() < 0.3:
            arrivals += replay(ledger, letters)
    assert state(ledger) is JobState.DONE


def act_on(ledger: Ledger, chunk: Chunk, chance: random.Random) -> Any:
    """Commits, puts off, gives up or buries; every chunk ends well after a few attempts."""
    if chunk.attempt > 3:
        return ledger.commit(chunk, outcome(chunk))
    luck = chance.random()
    if luck < 0.2:
        return bury(ledger, chunk)
    if luck < 0.4:
        return ledger.commit(chunk, outcome(chunk, put_off=1))
    if luck < 0.6:
        return ledger.commit(chunk, outcome(chunk, failed=1, gives_up=True))
    return ledger.commit(chunk, outcome(chunk))


# The log


def test_no_two_entries_of_a_log_are_of_one_time_even_when_the_clock_goes_back(
    ledger: Ledger, redis: RedisClient
) -> None:
    """As on another server after a fail-over."""
    ahead_us = 2_000_000_000_000_000
    chunks = open_job(ledger, 1, 1)
    redis.zadd(job_keys("run-7").commits, {"7.2": ahead_us})
    for chunk in chunks:
        ledger.commit(chunk, outcome(chunk, put_off=1))
    for later in send_due(ledger):
        ledger.commit(later, outcome(later))
    assert [entry.at_us - ahead_us for entry in ledger.commits("run-7", 0, 10)] == [0, 1, 2]
    assert ledger.has_logged("run-7", ahead_us + 2)
    assert not ledger.has_logged("run-7", ahead_us + 3)


def test_first_attempts_are_in_the_log_when_they_may_have_been_passed_over(ledger: Ledger) -> None:
    chunks = open_job(ledger, *[1] * 20)
    ledger.commit(chunks[9], outcome(chunks[9]))
    bury(ledger, chunks[10])
    bury(ledger, chunks[11])
    ledger.commit(chunks[10], outcome(chunks[10]))
    found = ledger.first_attempts("run-7", 9, 4)
    assert [each.committed for each in found] == [True, True, False, False]
    assert [each.logged_us is not None for each in found] == [False, True, False, False]
    assert [each.buried_us is not None for each in found] == [False, True, True, False]
    assert {each.ended_us for each in found} == {None}
    ledger.cancel("run-7")
    ledger.commit(chunks[19], outcome(chunks[19]))
    (last,) = ledger.first_attempts("run-7", 19, 1)
    assert last.committed
    assert last.logged_us
    assert last.ended_us
    assert [ledger.next_committed("run-7", index) for index in (0, 8, 16, 24)] == [9, 9, 19, None]
