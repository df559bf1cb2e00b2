"""What has not ended does not age; what has ended is forgotten in time, leaving a tombstone; nothing stays for ever."""

from collections.abc import Callable

import pytest

from arno_shared.dead_letters import DeadLetters
from arno_shared.errors import JobConflict, JobNotFound
from arno_shared.ledger import Found, JobState, Ledger, Verdict
from arno_shared.messages import Chunk, Output
from arno_shared.names import DELAYED, JOBS, LIVE, TOPIC, Lane, job_keys
from arno_shared.redis_client import RedisClient
from arno_shared.settings import Settings
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
    keys_of,
    open_job,
    outcome,
    output_of,
    replay,
    send_due,
    sent,
    state,
)

ABANDON_S = Settings().ledger_abandon_s


def ages(redis: RedisClient, job_id: str = "run-7") -> bool:
    """Whether all of the job's keys have a time to live; else none has."""
    (answer,) = {redis.ttl(key) > 0 for key in keys_of(redis, job_id)}
    return answer


def test_the_keys_of_a_done_job_age_and_those_of_a_running_one_stay(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 3)
    ledger.commit(chunk, outcome(chunk, put_off=2))
    (later,) = send_due(ledger)
    assert not ages(redis)
    ledger.commit(later, outcome(later, failed=1, gives_up=True))
    assert len(keys_of(redis)) >= 4
    assert ages(redis)


def test_what_comes_again_after_the_end_leaves_nothing_that_stays(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 3)
    ledger.commit(chunk, outcome(chunk, put_off=1))
    (later,) = send_due(ledger)
    ledger.commit(later, outcome(later))
    for one in (chunk, later):
        assert begin(ledger, one) is Verdict.COMMITTED
        assert ledger.commit(one, outcome(one)) is False
        assert bury(ledger, one) is False
        ledger.hand_back(one, "tag")
    assert ages(redis)


def test_a_job_that_wakes_stops_ageing(ledger: Ledger, letters: DeadLetters, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 3)
    ledger.commit(chunk, outcome(chunk, failed=1, gives_up=True))
    assert ages(redis)
    (again,) = replay(ledger, letters)
    pass_time(redis, 2 * RETENTION_S)
    assert begin(ledger, again) is Verdict.GO
    ledger.commit(again, outcome(again))
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 3, "ok": 3}


def pause_a_job(ledger: Ledger) -> Chunk:
    (chunk,) = open_job(ledger, 2)
    ledger.pause("run-7")
    return chunk


def pause_what_was_sent(ledger: Ledger) -> Chunk:
    chunk = chunk_of(2)
    assert ledger.expect(chunk, Lane.BULK)
    ledger.was_sent("run-7")
    ledger.pause("run-7")
    return chunk


@pytest.mark.parametrize("paused", [pause_a_job, pause_what_was_sent])
def test_a_paused_job_outlasts_every_retention(
    paused: Callable[[Ledger], Chunk], ledger: Ledger, redis: RedisClient
) -> None:
    chunk = paused(ledger)
    assert begin(ledger, chunk) is Verdict.PAUSED
    assert ledger.park(chunk, Lane.BULK)
    pass_time(redis, 3 * RETENTION_S)
    assert state(ledger) is JobState.PAUSED
    assert ledger.unpause("run-7") is JobState.RUNNING
    assert send_due(ledger) == [chunk]
    ledger.commit(chunk, outcome(chunk))
    assert state(ledger) is JobState.DONE


def test_what_waits_for_a_later_attempt_outlasts_every_retention(ledger: Ledger, redis: RedisClient) -> None:
    chunk = chunk_of(4)
    ledger.expect(chunk, Lane.BULK)
    ledger.was_sent("run-7")
    ledger.commit(chunk, outcome(chunk, failed=2, put_off=2, delay_s=5 * RETENTION_S))
    pass_time(redis, 6 * RETENTION_S)
    (later,) = send_due(ledger)
    ledger.commit(later, outcome(later))
    assert counted(ledger) == {"chunks": 1, "chunks_committed": 1, "images": 4, "ok": 2, "failed": 2}
    assert state(ledger) is JobState.DONE


def test_a_cancelled_job_ages_once_all_that_was_queued_of_it_is_dropped(ledger: Ledger, redis: RedisClient) -> None:
    committed, buried, *queued = open_job(ledger, 2, 2, 2, 2)
    ledger.commit(committed, outcome(committed))
    bury(ledger, buried)
    ledger.cancel("run-7")
    pass_time(redis, 3 * RETENTION_S)
    for chunk in queued:
        assert not ages(redis)
        assert begin(ledger, chunk) is Verdict.CANCELLED
    assert ages(redis)
    assert state(ledger) is JobState.CANCELLED


def test_a_later_attempt_that_is_dropped_is_none_of_what_was_queued(ledger: Ledger, redis: RedisClient) -> None:
    first, queued = open_job(ledger, 2, 2)
    ledger.commit(first, outcome(first, put_off=1))
    ledger.cancel("run-7")
    (later,) = send_due(ledger)
    assert begin(ledger, later) is Verdict.CANCELLED
    assert not ages(redis)
    assert begin(ledger, queued) is Verdict.CANCELLED
    assert ages(redis)


def test_a_chunk_that_was_given_up_and_comes_again_wakes_nothing(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    bury(ledger, chunk)
    assert begin(ledger, chunk) is Verdict.GO
    assert state(ledger) is JobState.DONE
    assert redis.zcard(LIVE) == 0
    assert ages(redis)


def test_a_cancelled_job_that_was_given_up_goes_on_to_age_when_something_of_it_comes(
    ledger: Ledger, redis: RedisClient
) -> None:
    chunk, _ = open_job(ledger, 2, 2)
    ledger.cancel("run-7")
    pass_time(redis, ABANDON_S + 60)
    assert ledger.abandon() == 1
    assert ages(redis)
    assert begin(ledger, chunk) is Verdict.CANCELLED
    assert ages(redis)
    assert redis.zcard(LIVE) == 0


def test_a_cancelled_job_that_goes_on_counts_what_is_dropped_anew(ledger: Ledger, redis: RedisClient) -> None:
    chunk, _ = open_job(ledger, 2, 2)
    for _ in range(2):
        ledger.cancel("run-7")
        assert not ages(redis)
        assert begin(ledger, chunk) is Verdict.CANCELLED
        assert not ages(redis)
        ledger.revive("run-7", TERMS, OUTPUT, Lane.BULK)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("move", ["leave", "pause", "cancel"])
def test_nothing_stays_for_ever(move: str, sealed: bool, ledger: Ledger, redis: RedisClient) -> None:
    chunk, _ = open_job(ledger, 2, 2, sealed=sealed)
    ledger.commit(chunk, outcome(chunk))
    getattr(ledger, move, lambda _: None)("run-7")
    pass_time(redis, ABANDON_S - 60)
    assert ledger.abandon() == 0
    assert not ages(redis)
    pass_time(redis, 120)
    assert ledger.abandon() == 1
    assert ledger.abandon() == 0
    assert state(ledger) is (JobState.CANCELLED if move == "cancel" else JobState.INCOMPLETE)
    assert ledger.status("run-7").finished
    assert ledger.status("run-7").finished_at
    assert ages(redis)
    pass_time(redis, RETENTION_S + 1)
    with pytest.raises(JobNotFound):
        ledger.status("run-7")
    pass_time(redis, 10 * RETENTION_S + ABANDON_S)
    redis.delete(TOPIC, JOBS)
    assert redis.keys("*") == []


def test_a_sign_of_life_puts_the_end_off(ledger: Ledger, redis: RedisClient) -> None:
    chunk, other = open_job(ledger, 2, 2, sealed=False)
    for sign in (
        lambda: begin(ledger, chunk),
        lambda: ledger.commit(chunk, outcome(chunk)),
        lambda: bury(ledger, other),
        lambda: announce(ledger, "run-7", 3, 6, sealed=False),
        lambda: ledger.pause("run-7"),
        lambda: ledger.unpause("run-7"),
    ):
        pass_time(redis, ABANDON_S - 60)
        sign()
        assert ledger.abandon() == 0
        assert redis.zscore(LIVE, "run-7") > redis.time()[0] + ABANDON_S - 60


def test_what_was_sent_and_never_begun_ends_too(ledger: Ledger, redis: RedisClient) -> None:
    ledger.expect(chunk_of(1), Lane.BULK)
    pass_time(redis, ABANDON_S + 60)
    assert ledger.abandon() == 1
    assert state(ledger) is JobState.INCOMPLETE


def test_what_was_sent_and_ended_incomplete_goes_on_when_it_is_sent_again(ledger: Ledger, redis: RedisClient) -> None:
    chunk = chunk_of(1)
    ledger.expect(chunk, Lane.BULK)
    ledger.was_sent("run-7")
    pass_time(redis, ABANDON_S + 60)
    ledger.abandon()
    assert ledger.expect(chunk, Lane.BULK) is True
    assert state(ledger) is JobState.RUNNING
    assert not ages(redis)


@pytest.mark.parametrize("end", ["cancel", "pause", "abandon"])
def test_what_was_sent_is_brought_back_by_whoever_says_so(end: str, ledger: Ledger, redis: RedisClient) -> None:
    chunk = chunk_of(1)
    ledger.expect(chunk, Lane.BULK)
    ledger.was_sent("run-7")
    if end == "abandon":
        pass_time(redis, ABANDON_S + 60)
        ledger.abandon()
    else:
        getattr(ledger, end)("run-7")
        begin(ledger, chunk)
    assert ledger.resend("run-7")
    assert send_due(ledger) == [chunk]
    assert begin(ledger, chunk) is Verdict.GO
    ledger.commit(chunk, outcome(chunk))
    assert state(ledger) is JobState.DONE
    assert ledger.resend("run-7"), "it is done"
    assert send_due(ledger) == []
    assert redis.hget(job_keys("run-7").job, "message") is None


def test_what_is_not_kept_is_not_brought_back(ledger: Ledger) -> None:
    assert not ledger.resend("run-7")
    open_job(ledger, 2)
    assert not ledger.resend("run-7")


def test_a_sign_that_comes_while_somebody_looks_counts(
    ledger: Ledger, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    (chunk,) = open_job(ledger, 2)
    monkeypatch.setattr(redis, "zrangebyscore", lambda *_, **__: [b"run-7"])
    assert ledger.abandon() == 0
    ledger.commit(chunk, outcome(chunk))
    assert ledger.abandon() == 0
    assert state(ledger) is JobState.DONE


def test_a_job_that_is_gone_is_no_longer_looked_for(ledger: Ledger, redis: RedisClient) -> None:
    open_job(ledger, 2)
    redis.delete(*job_keys("run-7"))
    pass_time(redis, ABANDON_S + 60)
    assert ledger.abandon() == 0
    assert redis.zcard(LIVE) == 0


def test_an_incomplete_job_goes_on_when_something_of_it_comes(ledger: Ledger, redis: RedisClient) -> None:
    chunk, _ = open_job(ledger, 2, 2, sealed=False)
    pass_time(redis, ABANDON_S + 60)
    assert ledger.abandon() == 1
    assert begin(ledger, chunk) is Verdict.GO
    assert state(ledger) is JobState.RUNNING
    assert not ages(redis)


def test_an_incomplete_job_goes_on_when_it_is_submitted_again(ledger: Ledger, redis: RedisClient) -> None:
    open_job(ledger, 2, 2, sealed=False)
    pass_time(redis, ABANDON_S + 60)
    ledger.abandon()
    assert redis.zcard(LIVE) == 0
    ledger.open("run-7", TERMS, OUTPUT, Lane.BULK)
    assert redis.zcard(LIVE) == 1
    assert state(ledger) is JobState.RUNNING
    assert not ages(redis)


# What was


def forget(redis: RedisClient) -> None:
    pass_time(redis, RETENTION_S + 1)
    assert not redis.exists(job_keys("run-7").job)


def test_a_late_message_of_a_job_that_was_cancelled_is_dropped(ledger: Ledger, redis: RedisClient) -> None:
    chunk, late = open_job(ledger, 2, 2)
    ledger.cancel("run-7")
    begin(ledger, chunk)
    begin(ledger, chunk)
    forget(redis)
    for _ in range(3):
        assert begin(ledger, late) is Verdict.CANCELLED
        pass_time(redis, 9 * RETENTION_S)
    with pytest.raises(JobNotFound):
        ledger.status("run-7")


def test_a_cancelled_message_that_comes_late_is_dropped(ledger: Ledger, redis: RedisClient) -> None:
    ledger.begin("run-7", 0, 1, foreign(), OUTPUT)
    ledger.cancel("run-7")
    forget(redis)
    assert ledger.begin("run-7", 0, 1, foreign(), OUTPUT).verdict is Verdict.CANCELLED


@pytest.mark.parametrize("end", [lambda ledger, chunk: ledger.commit(chunk, outcome(chunk)), bury])
@pytest.mark.parametrize("origin", ["message", "producer"])
def test_what_is_still_in_hand_when_a_cancelled_job_is_forgotten_does_not_bring_it_back(
    ledger: Ledger, redis: RedisClient, origin: str, end: Callable[[Ledger, Chunk], bool]
) -> None:
    chunk = chunk_of(2)
    if origin == "message":
        ledger.begin("run-7", 0, 1, foreign(asks=chunk.digest), OUTPUT)
    else:
        open_job(ledger, 2)
        begin(ledger, chunk)
    ledger.cancel("run-7")
    if origin == "producer":
        begin(ledger, chunk)
    forget(redis)
    assert end(ledger, chunk)
    assert state(ledger) is JobState.CANCELLED
    assert ages(redis)
    assert redis.zcard(LIVE) == 0
    with pytest.raises(JobConflict):
        ledger.open("run-7", '{"prompts": "<OCR>"}', output_of("other"), Lane.BULK)


@pytest.mark.parametrize(
    "opens",
    [
        lambda ledger: ledger.open("run-7", TERMS, OUTPUT, Lane.BULK),
        lambda ledger: ledger.expect(chunk_of(2), Lane.BULK),
        lambda ledger: ledger.begin("run-7", 0, 1, foreign(), OUTPUT),
    ],
    ids=["producer", "sender", "message"],
)
def test_a_job_that_is_paused_now_and_then_for_years_keeps_its_place(
    ledger: Ledger, redis: RedisClient, opens: Callable[[Ledger], object]
) -> None:
    opens(ledger)
    for _ in range(4):
        pass_time(redis, ABANDON_S - 1)
        ledger.pause("run-7")
        pass_time(redis, ABANDON_S - 1)
        ledger.unpause("run-7")
    assert ledger.owner_of(OUTPUT.prefix) == "run-7"
    with pytest.raises(JobConflict):
        ledger.open("run-8", TERMS, OUTPUT, Lane.BULK)


def test_a_late_message_of_a_job_that_was_done_is_not_done_again(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    ledger.commit(chunk, outcome(chunk))
    forget(redis)
    assert begin(ledger, chunk) is Verdict.COMMITTED
    assert ledger.commit(chunk, outcome(chunk)) is False
    assert redis.xlen(TOPIC) == 1


def test_a_late_message_of_a_later_attempt_is_not_done_again(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    ledger.commit(chunk, outcome(chunk, put_off=1))
    (later,) = send_due(ledger)
    ledger.commit(later, outcome(later))
    forget(redis)
    assert begin(ledger, later) is Verdict.COMMITTED
    assert not redis.exists(job_keys("run-7").job)


def test_a_message_that_comes_late_is_not_announced_again(ledger: Ledger, redis: RedisClient) -> None:
    chunk = chunk_of(2, index=5)
    ledger.begin("run-7", 5, 1, foreign(asks=chunk.digest), OUTPUT)
    ledger.commit(chunk, outcome(chunk))
    forget(redis)
    # Whether it is the same, its result object says.
    assert ledger.begin("run-7", 5, 1, foreign(asks=chunk.digest), OUTPUT).verdict is Verdict.UNSURE
    assert redis.xlen(TOPIC) == 1


def test_a_late_message_keeps_in_mind_what_was_committed(ledger: Ledger, redis: RedisClient) -> None:
    chunk = chunk_of(2)
    ledger.begin("run-7", 0, 1, foreign(asks=chunk.digest), OUTPUT)
    ledger.commit(chunk, outcome(chunk))
    forget(redis)
    for _ in range(3):
        assert ledger.begin("run-7", 0, 1, foreign(asks=chunk.digest), OUTPUT).verdict is Verdict.UNSURE
        pass_time(redis, 9 * RETENTION_S)


def test_an_index_whose_letter_is_replayed_after_its_job_was_forgotten_stays_its_own(
    ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    cats = chunk_of(2)
    ledger.begin("run-7", 0, 1, foreign("a", cats.digest), OUTPUT)
    bury(ledger, cats)
    forget(redis)
    (again,) = replay(ledger, letters)
    assert begin(ledger, again) is Verdict.GO
    assert ledger.begin("run-7", 0, 1, foreign("b", "dogs"), OUTPUT).verdict is Verdict.CONFLICT
    assert ledger.commit(again, outcome(again))
    assert state(ledger) is JobState.DONE


@pytest.mark.parametrize("ends", [lambda ledger, chunk: ledger.commit(chunk, outcome(chunk)), bury])
def test_a_message_of_a_job_that_was_forgotten_with_another_output_is_other_work(
    ledger: Ledger, redis: RedisClient, ends: Callable[[Ledger, Chunk], bool]
) -> None:
    chunk = chunk_of(2)
    ledger.begin("run-7", 0, 1, foreign(asks=chunk.digest), OUTPUT)
    ends(ledger, chunk)
    forget(redis)
    for index in (0, 1):
        begun = ledger.begin("run-7", index, 1, foreign("b", "dogs"), output_of("elsewhere"))
        assert begun.verdict is Verdict.CONFLICT


def test_an_index_whose_chunk_was_given_up_is_nobody_else_s_while_its_tombstone_stands(
    ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    cats = chunk_of(2)
    ledger.begin("run-7", 0, 1, foreign("a", cats.digest), OUTPUT)
    bury(ledger, cats)
    forget(redis)
    for _ in range(3):
        assert ledger.begin("run-7", 0, 1, foreign("b", "dogs"), OUTPUT).verdict is Verdict.CONFLICT
        assert not redis.exists(job_keys("run-7").job)
        pass_time(redis, 9 * RETENTION_S)
    assert ledger.begin("run-7", 0, 1, foreign("c", cats.digest), OUTPUT).verdict is Verdict.GO
    ledger.commit(cats, outcome(cats))
    assert not list(letters.list())


def test_a_forgotten_job_that_a_slow_holder_opened_again_ends_when_its_producer_comes(
    ledger: Ledger, redis: RedisClient
) -> None:
    chunks = open_job(ledger, 2, 1, 1)
    for chunk in chunks:
        bury(ledger, chunk)
    forget(redis)
    ledger.commit(chunks[0], outcome(chunks[0]))
    assert ledger.open("run-7", TERMS, OUTPUT, Lane.BULK, owns=True).state is JobState.RUNNING
    announce(ledger, "run-7", 3, 4, sealed=True)
    assert state(ledger) is JobState.DONE
    assert counted(ledger) == {"chunks": 3, "chunks_committed": 1, "images": 4, "ok": 2, "dead": 2}


def test_messages_without_index_are_numbered_on_after_their_job_was_forgotten(
    ledger: Ledger, redis: RedisClient
) -> None:
    for number in range(5):
        chunk = chunk_of(2, index=number)
        begun = ledger.begin("run-7", None, 1, foreign(f"m{number}", chunk.digest), OUTPUT)
        assert (begun.verdict, begun.index) == (Verdict.GO, number)
        ledger.commit(chunk, outcome(chunk))
        forget(redis)


def test_a_job_that_was_cancelled_is_brought_back_by_whoever_says_so_alone(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    ledger.cancel("run-7")
    begin(ledger, chunk)
    forget(redis)
    with pytest.raises(JobConflict, match="was cancelled: `arno resume run-7`"):
        ledger.open("run-7", TERMS, OUTPUT, Lane.BULK)
    assert ledger.revive("run-7", TERMS, OUTPUT, Lane.BULK).created
    assert begin(ledger, chunk) is Verdict.GO


def test_other_work_under_the_id_of_a_job_that_was_is_refused(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    ledger.commit(chunk, outcome(chunk))
    forget(redis)
    with pytest.raises(JobConflict, match="no longer in the ledger"):
        ledger.open("run-7", '{"prompts": "<OCR>"}', output_of("other"), Lane.BULK)
    with pytest.raises(JobConflict):
        ledger.expect(chunk_of(3), Lane.BULK)
    opened = ledger.open("run-7", TERMS, OUTPUT, Lane.BULK)
    assert opened.created
    # What is done of it, its result objects say.
    assert ledger.committed_indices("run-7", 0, 10) == set()


def test_what_was_sent_and_done_is_a_duplicate_after_its_job_was_forgotten(ledger: Ledger, redis: RedisClient) -> None:
    chunk = chunk_of(2)
    assert ledger.expect(chunk, Lane.BULK)
    ledger.commit(chunk, outcome(chunk))
    forget(redis)
    assert ledger.expect(chunk, Lane.BULK) is False


def test_a_letter_that_is_replayed_after_its_job_was_forgotten_is_counted_for_itself(
    ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    (chunk,) = open_job(ledger, 5)
    ledger.commit(chunk, outcome(chunk, failed=2, gives_up=True))
    forget(redis)
    (again,) = replay(ledger, letters)
    assert (again.attempt, len(again.images)) == (2, 2)
    assert counted(ledger) == {"images": 2, "put_off": 2}
    assert begin(ledger, again) is Verdict.GO
    ledger.commit(again, outcome(again))
    assert counted(ledger) == {"images": 2, "ok": 2}
    assert state(ledger) is JobState.DONE
    assert ages(redis)


@pytest.mark.parametrize("output", [OUTPUT, output_of("elsewhere")])
def test_a_letter_of_a_job_of_which_nothing_is_known_any_more_is_not_another_s_of_its_id(
    output: Output, ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    cats = chunk_of(2)
    dogs = chunk_of(1).model_copy(update={"output": output})
    ledger.expect(cats, Lane.BULK)
    ledger.commit(cats, outcome(cats, put_off=2))
    (later,) = send_due(ledger)
    bury(ledger, later)
    pass_time(redis, 100 * RETENTION_S + ABANDON_S)
    assert ledger.expect(dogs, Lane.BULK)
    ledger.commit(dogs, outcome(dogs, put_off=1))
    for filed in letters.list():
        with pytest.raises(JobConflict, match="other work"):
            ledger.replay(filed)
    assert [filed.letter.images for filed in letters.list()] == [2]
    (due,) = send_due(ledger)
    assert [image.uri for image in due.images] == [image.uri for image in dogs.images]


@pytest.mark.parametrize("what", ["a replay", "a late chunk"])
def test_what_comes_of_a_job_that_was_leaves_it_to_be_rebuilt(
    what: str, ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    first, second = open_job(ledger, 2, 2)
    ledger.commit(first, outcome(first))
    ledger.commit(second, outcome(second, failed=1, gives_up=True))
    forget(redis)
    if what == "a replay":
        (again,) = replay(ledger, letters)
        ledger.commit(again, outcome(again))
    else:
        redis.hset(job_keys("run-7").tombstone, "state", "incomplete")
        late = chunk_of(2, index=2)
        begin(ledger, late)
        ledger.commit(late, outcome(late))
    # What was done of it is known to be, and not counted.
    assert begin(ledger, first) is Verdict.COMMITTED
    assert ledger.commit(first, outcome(first)) is False
    assert 0 not in ledger.committed_indices("run-7", 0, 8)
    events = redis.xlen(TOPIC)
    ledger.revive("run-7", TERMS, OUTPUT, Lane.BULK)
    ledger.announce("run-7", 2, 4)
    for chunk in (first, second):
        assert ledger.restore(chunk, Found(ok=2))
        assert ledger.restore(chunk, Found(ok=2)) is False
        # It was announced then.
        assert ledger.commit(chunk, outcome(chunk)) is False
    assert redis.xlen(TOPIC) == events
    assert ledger.status("run-7").chunks_committed >= 2


def test_a_chunk_that_was_given_up_and_is_done_after_its_job_was_forgotten_has_no_letter(
    ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    (chunk,) = open_job(ledger, 2)
    bury(ledger, chunk)
    forget(redis)
    assert begin(ledger, chunk) is Verdict.GO
    assert ledger.commit(chunk, outcome(chunk))
    assert list(letters.list()) == []
    assert ledger.status("run-7").ok == 2


def test_a_job_that_is_submitted_again_after_it_was_forgotten_knows_what_was_given_up(
    ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    first, second = open_job(ledger, 2, 3)
    bury(ledger, first)
    ledger.commit(second, outcome(second))
    forget(redis)
    open_job(ledger, 2, 3)
    assert counted(ledger) == {"chunks": 2, "dead": 2, "images": 5}
    assert ledger.restore(second, Found(ok=3))
    assert state(ledger) is JobState.DONE
    (again,) = replay(ledger, letters)
    ledger.commit(again, outcome(again))
    assert counted(ledger) == {"chunks": 2, "chunks_committed": 2, "images": 5, "ok": 5}


def test_a_letter_of_a_job_that_was_cancelled_stays_a_letter(
    ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    first, second = open_job(ledger, 2, 2)
    bury(ledger, first)
    ledger.cancel("run-7")
    for _ in range(2):
        (filed,) = letters.list()
        with pytest.raises(JobConflict, match="was cancelled, and takes no work"):
            ledger.replay(filed)
        assert begin(ledger, second) is Verdict.CANCELLED
        pass_time(redis, RETENTION_S + 1)
    assert list(letters.list()) == [filed]
    assert redis.zcard(DELAYED) == 0
    with pytest.raises(JobNotFound):
        ledger.status("run-7")


def test_a_slow_holder_commits_after_its_job_was_forgotten_and_nothing_happens_twice(
    ledger: Ledger, redis: RedisClient
) -> None:
    (chunk,) = open_job(ledger, 2)
    ledger.begin("run-7", 0, 1, sent(chunk), OUTPUT)
    ledger.commit(chunk, outcome(chunk))
    forget(redis)
    assert ledger.commit(chunk, outcome(chunk)) is False
    assert bury(ledger, chunk) is False
    with pytest.raises(JobNotFound):
        ledger.status("run-7")
