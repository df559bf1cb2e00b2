"""Whose is it? An id, an index and an output prefix are one work's, and nobody else's."""

from collections.abc import Callable

import pytest

from arno_shared.dead_letters import DeadLetters
from arno_shared.errors import JobConflict
from arno_shared.ledger import JobState, Ledger, Verdict
from arno_shared.messages import MAX_CHUNKS, Chunk, Output
from arno_shared.names import Lane, job_keys
from arno_shared.redis_client import RedisClient
from tests.model.clock import pass_time
from tests.shared.ledger.hand import (
    OUTPUT,
    RETENTION_S,
    TERMS,
    announce,
    begin,
    bury,
    chunk_of,
    counted,
    foreign,
    open_job,
    outcome,
    send_due,
    state,
)

ELSEWHERE = Output(prefix="s3://results/elsewhere/")


# Output prefixes


def open_it(ledger: Ledger) -> None:
    ledger.open("first", TERMS, OUTPUT, Lane.BULK)


def expect_it(ledger: Ledger) -> None:
    ledger.expect(chunk_of(1, job_id="first").model_copy(update={"output": OUTPUT}), Lane.BULK)


def begin_it(ledger: Ledger) -> None:
    assert ledger.begin("first", 0, 1, foreign(), OUTPUT).verdict is Verdict.GO


@pytest.mark.parametrize("first", [open_it, expect_it, begin_it])
def test_a_prefix_is_of_the_job_that_came_first(first, ledger: Ledger, redis: RedisClient) -> None:
    first(ledger)
    for _ in range(2):
        with pytest.raises(JobConflict, match="holds the results of job 'first'"):
            ledger.open("second", TERMS, OUTPUT, Lane.BULK)
        with pytest.raises(JobConflict, match="holds another's results"):
            ledger.expect(chunk_of(1, job_id="second").model_copy(update={"output": OUTPUT}), Lane.BULK)
        assert ledger.begin("second", 0, 1, foreign(), OUTPUT).verdict is Verdict.CONFLICT
        assert ledger.begin("second", None, 1, foreign(), OUTPUT).verdict is Verdict.CONFLICT
        pass_time(redis, RETENTION_S + 1)
    first(ledger)


@pytest.mark.parametrize("end", ["commit", "bury"])
def test_what_opens_a_job_again_after_a_loss_takes_its_prefix(
    end: str, ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    chunk = chunk_of(2)
    if end == "commit":
        ledger.commit(chunk, outcome(chunk))
    else:
        bury(ledger, chunk)
    with pytest.raises(JobConflict, match="holds the results of job 'run-7'"):
        ledger.open("second", TERMS, OUTPUT, Lane.BULK)


def test_what_was_refused_leaves_no_job(ledger: Ledger, redis: RedisClient) -> None:
    open_it(ledger)
    before = sorted(redis.keys("*"))
    with pytest.raises(JobConflict):
        ledger.open("second", TERMS, OUTPUT, Lane.BULK)
    ledger.begin("second", 0, 1, foreign(), OUTPUT)
    assert sorted(redis.keys("*")) == before


def test_the_record_in_storage_outranks_the_ledger(ledger: Ledger) -> None:
    begin_it(ledger)
    assert ledger.open("second", TERMS, OUTPUT, Lane.BULK, owns=True).created
    assert ledger.begin("first", 1, 1, foreign(), OUTPUT).verdict is Verdict.CONFLICT


def test_a_job_whose_record_stands_takes_its_id_back_from_messages_of_others(
    ledger: Ledger, letters: DeadLetters
) -> None:
    # All that the ledger knows of it was lost before.
    ledger.begin("run-7", 0, 1, foreign("a", "cats"), OUTPUT)
    cats = chunk_of(2)
    ledger.commit(cats, outcome(cats))
    with pytest.raises(JobConflict):
        ledger.open("run-7", TERMS, OUTPUT, Lane.BULK)
    assert ledger.open("run-7", TERMS, OUTPUT, Lane.BULK, owns=True).created
    assert not ledger.is_committed(cats)
    assert ledger.begin("run-7", 0, 1, foreign("a", "cats"), OUTPUT).verdict is Verdict.CONFLICT
    assert counted(ledger) == {}


@pytest.mark.parametrize("output", [ELSEWHERE, OUTPUT.model_copy(update={"format": "parquet"})])
def test_a_job_has_one_output(output: Output, ledger: Ledger) -> None:
    assert ledger.begin("run-7", 0, 1, foreign("a", "a"), OUTPUT).verdict is Verdict.GO
    assert ledger.begin("run-7", 1, 1, foreign("b", "b"), output).verdict is Verdict.CONFLICT


# A producer's job


@pytest.mark.parametrize("index", [None, 0, 1, 7])
def test_a_producer_s_job_takes_no_messages_of_others(index: int | None, ledger: Ledger) -> None:
    first, second = open_job(ledger, 2, 2)
    ledger.commit(first, outcome(first))
    assert ledger.begin("run-7", index, 1, foreign(), OUTPUT).verdict is Verdict.CONFLICT
    assert begin(ledger, second) is Verdict.GO
    ledger.commit(second, outcome(second))
    assert state(ledger) is JobState.DONE


def test_a_message_that_calls_itself_the_house_s_is_none_of_what_was_submitted(ledger: Ledger) -> None:
    first, second = open_job(ledger, 2, 2)
    assert begin(ledger, chunk_of(2, index=2)) is Verdict.CONFLICT
    assert begin(ledger, second) is Verdict.GO
    assert begin(ledger, first) is Verdict.GO


def test_what_was_sent_takes_no_messages_of_others(ledger: Ledger) -> None:
    chunk = chunk_of(2)
    ledger.expect(chunk, Lane.BULK)
    assert ledger.begin("run-7", 0, 1, foreign(), OUTPUT).verdict is Verdict.CONFLICT
    assert begin(ledger, chunk) is Verdict.GO


@pytest.mark.parametrize("index", [None, 0, 5])
@pytest.mark.parametrize("sender", ["producer", "sender"])
def test_a_job_that_was_takes_no_messages_of_others_either(
    sender: str, index: int | None, ledger: Ledger, redis: RedisClient
) -> None:
    chunk = chunk_of(2)
    if sender == "producer":
        open_job(ledger, 2)
    else:
        ledger.expect(chunk, Lane.BULK)
    ledger.commit(chunk, outcome(chunk))
    pass_time(redis, RETENTION_S + 1)
    assert ledger.begin("run-7", index, 1, foreign(), OUTPUT).verdict is Verdict.CONFLICT
    assert not redis.exists(job_keys("run-7").job)


def test_what_was_in_hand_when_the_ledger_was_lost_does_not_count_for_other_work_of_its_id(
    ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    cats, dogs = chunk_of(3), chunk_of(2)
    ledger.expect(cats, Lane.BULK)
    for lost in (cats, cats.model_copy(update={"output": ELSEWHERE})):
        redis.flushall()
        assert ledger.expect(dogs, Lane.BULK)
        assert ledger.commit(lost, outcome(lost)) is False
        assert bury(ledger, lost)
        assert [filed.letter.images for filed in letters.list()] == [3]
        status = ledger.status("run-7")
        assert (status.state, status.images, status.ok, status.dead) == (JobState.RUNNING, 2, 0, 0)
        assert begin(ledger, dogs) is Verdict.GO
    ledger.commit(dogs, outcome(dogs))
    assert state(ledger) is JobState.DONE


def test_what_waits_of_a_lost_job_is_due_again_when_its_producer_comes(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    redis.flushall()
    ledger.commit(chunk, outcome(chunk, put_off=2))
    (later,) = send_due(ledger)
    # It meets another's job in its place, and is a letter.
    assert ledger.due() == []
    ledger.open("run-7", TERMS, OUTPUT, Lane.BULK, owns=True)
    announce(ledger, "run-7", 1, 2, sealed=True)
    assert send_due(ledger) == [later]
    ledger.commit(later, outcome(later))
    assert state(ledger) is JobState.DONE


@pytest.mark.parametrize("stops", [Ledger.cancel, Ledger.pause])
def test_what_opened_a_lost_job_again_and_was_stopped_stays_so_when_its_producer_comes(
    ledger: Ledger, redis: RedisClient, stops: Callable[[Ledger, str], JobState]
) -> None:
    (chunk,) = open_job(ledger, 2)
    redis.flushall()
    assert begin(ledger, chunk) is Verdict.GO
    stopped = stops(ledger, "run-7")
    opened = ledger.open("run-7", TERMS, OUTPUT, Lane.BULK, owns=True)
    assert (opened.created, opened.state, state(ledger)) == (False, stopped, stopped)
    ledger.revive("run-7", TERMS, OUTPUT, Lane.BULK)
    assert state(ledger) is JobState.RUNNING


# Messages of others


def test_two_messages_of_one_index_are_two_works(ledger: Ledger) -> None:
    cats = chunk_of(1)
    assert ledger.begin("run-7", 0, 1, foreign("a", cats.digest), OUTPUT).verdict is Verdict.GO
    assert ledger.begin("run-7", 0, 1, foreign("b", "dogs"), OUTPUT).verdict is Verdict.CONFLICT
    ledger.commit(cats, outcome(cats))
    assert ledger.begin("run-7", 0, 1, foreign("b", "dogs"), OUTPUT).verdict is Verdict.CONFLICT
    assert ledger.begin("run-7", 0, 1, foreign("c", cats.digest), OUTPUT).verdict is Verdict.COMMITTED


@pytest.mark.parametrize("ends", [lambda ledger, chunk: ledger.commit(chunk, outcome(chunk)), bury])
def test_what_was_in_hand_when_another_message_took_its_index_is_kept_for_itself(
    ledger: Ledger, letters: DeadLetters, redis: RedisClient, ends: Callable[[Ledger, Chunk], bool]
) -> None:
    cats, dogs = chunk_of(3), chunk_of(2)
    ledger.begin("run-7", 0, 1, foreign("a", cats.digest), OUTPUT)
    redis.flushall()
    ledger.begin("run-7", 0, 1, foreign("b", dogs.digest), OUTPUT)
    ends(ledger, dogs)
    told = counted(ledger)
    assert ledger.commit(cats, outcome(cats)) is False
    assert bury(ledger, cats)
    assert counted(ledger) == told
    (own,) = (filed for filed in letters.list() if filed.letter.images == 3)
    with pytest.raises(JobConflict, match="other work"):
        ledger.replay(own)
    assert own in list(letters.list())
    assert counted(ledger) == told


def test_a_message_without_index_never_gets_one_that_another_named(ledger: Ledger) -> None:
    taken = {0, 1, 5}
    for index in taken:
        ledger.begin("run-7", index, 1, foreign(f"m{index}", f"{index}"), OUTPUT)
    found = [ledger.begin("run-7", None, 1, foreign(f"n{n}", f"n{n}"), OUTPUT) for n in range(3)]
    assert [begun.verdict for begun in found] == [Verdict.GO] * 3
    assert len(taken | {begun.index for begun in found}) == 6


def test_an_index_that_a_message_got_is_not_another_s_to_name(ledger: Ledger) -> None:
    begun = ledger.begin("run-7", None, 1, foreign("a", "cats"), OUTPUT)
    assert ledger.begin("run-7", begun.index, 1, foreign("b", "dogs"), OUTPUT).verdict is Verdict.CONFLICT


def test_an_index_that_came_out_after_a_loss_is_no_longer_given(ledger: Ledger, redis: RedisClient) -> None:
    ledger.begin("run-7", None, 1, foreign("a", "cats"), OUTPUT)
    redis.flushall()
    bury(ledger, chunk_of(2, index=4))
    assert ledger.begin("run-7", None, 1, foreign("b", "dogs"), OUTPUT).index == 5
    committed = chunk_of(2, index=8)
    ledger.commit(committed, outcome(committed))
    assert ledger.begin("run-7", None, 1, foreign("c", "owls"), OUTPUT).index == 9


def test_a_message_of_the_house_s_does_not_share_an_index_with_another_s(ledger: Ledger) -> None:
    chunk = chunk_of(2)
    ledger.begin("run-7", 0, 1, foreign("a", "cats"), OUTPUT)
    assert begin(ledger, chunk) is Verdict.CONFLICT


def test_a_message_without_index_is_numbered_once_somebody_has_looked(ledger: Ledger) -> None:
    first = ledger.begin("run-7", None, 1, foreign("a", "cats"), OUTPUT, None)
    assert first.verdict is Verdict.UNNUMBERED
    begun = ledger.begin("run-7", None, 1, foreign("a", "cats"), OUTPUT, 4)
    assert (begun.verdict, begun.index) == (Verdict.GO, 4)
    again = ledger.begin("run-7", None, 1, foreign("a", "cats"), OUTPUT, None)
    other = ledger.begin("run-7", None, 1, foreign("b", "dogs"), OUTPUT, None)
    assert (again.index, other.index) == (4, 5)


def test_messages_of_one_id_that_ask_for_different_things_are_different_work(ledger: Ledger) -> None:
    first = ledger.begin("run-7", None, 1, foreign("same", "cats"), OUTPUT)
    second = ledger.begin("run-7", None, 1, foreign("same", "dogs"), OUTPUT)
    again = ledger.begin("run-7", None, 1, foreign("same", "cats"), OUTPUT)
    assert (first.index, second.index, again.index) == (0, 1, 0)


def test_a_message_whose_index_was_committed_after_a_loss_is_not_sure(ledger: Ledger) -> None:
    # By a worker that had begun it before.
    chunk = chunk_of(2)
    ledger.commit(chunk, outcome(chunk))
    assert ledger.begin("run-7", 0, 1, foreign(), OUTPUT).verdict is Verdict.UNSURE


def test_there_are_no_more_indices_than_a_job_has_chunks(ledger: Ledger) -> None:
    assert ledger.begin("run-7", MAX_CHUNKS - 1, 1, foreign("last", "last"), OUTPUT).verdict is Verdict.GO
    assert ledger.begin("run-7", None, 1, foreign(), OUTPUT).verdict is Verdict.CONFLICT


def test_what_was_put_off_or_replayed_comes_back_as_the_house_s_own(ledger: Ledger, letters: DeadLetters) -> None:
    chunk = chunk_of(3)
    assert ledger.begin("run-7", 0, 1, foreign("a", chunk.digest), OUTPUT).verdict is Verdict.GO
    bury(ledger, chunk)
    (filed,) = letters.list()
    ledger.replay(filed)
    (again,) = send_due(ledger)
    assert begin(ledger, again) is Verdict.GO
    ledger.commit(again, outcome(again, put_off=1))
    (later,) = send_due(ledger)
    assert begin(ledger, later) is Verdict.GO
    ledger.commit(later, outcome(later))
    assert state(ledger) is JobState.DONE


# One list


def test_a_job_that_is_sealed_is_not_extended(ledger: Ledger) -> None:
    open_job(ledger, 2, 2)
    with pytest.raises(JobConflict, match="submitted whole, with other images"):
        announce(ledger, "run-7", 3, 6, sealed=False)
    with pytest.raises(JobConflict, match="submitted whole, with other images"):
        ledger.seal("run-7", 2, 4, "another digest")
    assert ledger.status("run-7").chunks == 2


def test_a_job_that_was_announced_longer_is_not_sealed_shorter(ledger: Ledger) -> None:
    open_job(ledger, 2, 2, sealed=False)
    with pytest.raises(JobConflict, match="more images"):
        ledger.seal("run-7", 1, 2, "digest")
    assert not ledger.status("run-7").sealed


def test_a_list_that_is_known_is_compared_before_anything_else(ledger: Ledger) -> None:
    assert ledger.open("run-7", TERMS, OUTPUT, Lane.BULK, digest="one").created
    assert not ledger.open("run-7", TERMS, OUTPUT, Lane.BULK, digest="one").created
    with pytest.raises(JobConflict, match="other images"):
        ledger.open("run-7", TERMS, OUTPUT, Lane.BULK, digest="other")
    ledger.announce("run-7", 1, 2)
    with pytest.raises(JobConflict):
        ledger.seal("run-7", 1, 2, "other")


# Outbox


def test_what_its_sender_did_not_come_to_send_is_sent_by_a_worker(ledger: Ledger, redis: RedisClient) -> None:
    chunk = chunk_of(2)
    assert [ledger.expect(chunk, Lane.INTERACTIVE) for _ in range(2)] == [True, True]
    assert ledger.due() == []
    pass_time(redis, 31)
    (due,) = ledger.due()
    assert (due.lane, due.message, due.task_id) == (Lane.INTERACTIVE, chunk.to_wire(), "run-7.0.1")
    ledger.sent(due)
    assert ledger.expect(chunk, Lane.INTERACTIVE) is False
    assert begin(ledger, chunk) is Verdict.GO
    ledger.commit(chunk, outcome(chunk))
    assert ledger.due() == []
    assert state(ledger) is JobState.DONE


def test_after_a_loss_what_is_in_flight_was_sent(ledger: Ledger, redis: RedisClient) -> None:
    chunk = chunk_of(2)
    ledger.expect(chunk, Lane.BULK)
    redis.flushall()
    begin(ledger, chunk)
    assert ledger.expect(chunk, Lane.BULK) is False


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("end", ["begin", "commit", "bury"])
def test_after_a_loss_other_work_under_the_id_is_not_taken_for_what_was_sent(
    end: str, forgotten: bool, ledger: Ledger, redis: RedisClient
) -> None:
    cats, dogs = chunk_of(3), chunk_of(2)
    ledger.expect(cats, Lane.BULK)
    redis.flushall()
    if end == "begin":
        begin(ledger, cats)
    elif end == "commit":
        ledger.commit(cats, outcome(cats))
    else:
        bury(ledger, cats)
    if forgotten and end != "begin":
        pass_time(redis, RETENTION_S + 1)
        assert not redis.exists(job_keys("run-7").job)
    with pytest.raises(JobConflict):
        ledger.expect(dogs, Lane.BULK)
    assert ledger.expect(cats, Lane.BULK) is False


def test_after_a_loss_a_message_of_others_may_have_the_id(ledger: Ledger) -> None:
    ledger.begin("run-7", 0, 1, foreign(), OUTPUT)
    with pytest.raises(JobConflict):
        ledger.expect(chunk_of(2), Lane.BULK)


def test_what_was_sent_is_not_sent_again(ledger: Ledger, redis: RedisClient) -> None:
    chunk = chunk_of(2)
    ledger.expect(chunk, Lane.BULK)
    ledger.was_sent("run-7")
    pass_time(redis, 31)
    assert ledger.due() == []
