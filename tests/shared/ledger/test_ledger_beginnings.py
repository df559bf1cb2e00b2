"""How often a chunk was begun without an end: living hands are not deaths."""

import pytest

from arno_shared.ledger import Ledger
from arno_shared.messages import Chunk
from arno_shared.names import UNACKED, job_keys
from arno_shared.redis_client import RedisClient
from tests.shared.ledger.hand import OUTPUT, bury, open_job, outcome, sent


def take(redis: RedisClient, *tags: str) -> None:
    """Messages under these tags are in somebody's hands."""
    for tag in tags:
        redis.hset(UNACKED, tag, "a message")


def times(ledger: Ledger, chunk: Chunk, tag: str) -> int:
    return ledger.begin("run-7", chunk.index, chunk.attempt, sent(chunk, tag), OUTPUT).times


def test_beginnings_whose_holders_are_gone_are_counted(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    for number in range(1, 4):
        take(redis, f"tag-{number}")
        assert times(ledger, chunk, f"tag-{number}") == number
        redis.hdel(UNACKED, f"tag-{number}")


def test_the_same_chunk_in_many_living_hands_is_no_death(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    tags = [f"tag-{number}" for number in range(6)]
    take(redis, *tags)
    assert [times(ledger, chunk, tag) for tag in tags] == [1] * 6
    # Two of them die, and another has it.
    redis.hdel(UNACKED, *tags[:2])
    take(redis, "seventh")
    assert times(ledger, chunk, "seventh") == 3
    # What was counted once is not counted again.
    take(redis, "eighth")
    assert times(ledger, chunk, "eighth") == 3


def test_an_image_alone_in_many_living_hands_is_no_death(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    take(redis, "one", "two", "three")
    assert [ledger.suspect(chunk, 1, tag) for tag in ("one", "two", "three")] == [1, 1, 1]
    redis.hdel(UNACKED, "one")
    assert ledger.suspect(chunk, 1, "two") == 2


@pytest.mark.parametrize("held", [True, False])
def test_the_same_call_counts_once(held: bool, ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    if held:
        take(redis, "tag")
    assert [times(ledger, chunk, "tag") for _ in range(3)] == [1] * 3
    assert [ledger.suspect(chunk, 0, "tag") for _ in range(3)] == [1] * 3


def test_what_is_handed_back_does_not_count(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    take(redis, "one", "two")
    times(ledger, chunk, "one")
    times(ledger, chunk, "two")
    for _ in range(2):
        ledger.hand_back(chunk, "one")
    redis.hdel(UNACKED, "one")
    take(redis, "three")
    assert times(ledger, chunk, "three") == 1
    redis.hdel(UNACKED, "two", "three")
    assert times(ledger, chunk, "four") == 3


def test_nothing_is_left_of_beginnings_that_were_handed_back(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    times(ledger, chunk, "one")
    ledger.suspect(chunk, "whole", "one")
    ledger.hand_back(chunk, "one", "whole")
    ledger.hand_back(chunk, "one")
    assert not redis.exists(job_keys("run-7").begun)


def test_beginnings_of_a_job_that_is_gone_do_not_stay_for_ever(ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    times(ledger, chunk, "one")
    redis.delete(job_keys("run-7").job)
    ledger.suspect(chunk, 0, "one")
    assert redis.ttl(job_keys("run-7").begun) > 0


@pytest.mark.parametrize("end", ["commit", "bury"])
def test_a_chunk_that_has_ended_is_no_longer_suspected(end: str, ledger: Ledger, redis: RedisClient) -> None:
    (chunk,) = open_job(ledger, 2)
    for tag in ("one", "two"):
        times(ledger, chunk, tag)
        for what in (0, 1, "whole"):
            ledger.suspect(chunk, what, tag)
    if end == "commit":
        ledger.commit(chunk, outcome(chunk))
    else:
        bury(ledger, chunk)
    assert not redis.exists(job_keys("run-7").begun)
