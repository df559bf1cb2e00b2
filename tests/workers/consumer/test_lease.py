"""Leases are renewed while the worker lives, whatever happens to the server, and no longer."""

from collections.abc import Callable, Iterator
from threading import Event
from time import monotonic

import pytest

from arno_shared.delivery.hands import Hands
from arno_shared.errors import HouseError
from arno_shared.names import UNACKED_INDEX, Lane, queues
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from arno_workers.consumer import lease
from arno_workers.consumer.lease import keep_leases

EVERY_S = 0.02


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline_s = monotonic() + 30
    while not condition():
        assert monotonic() < deadline_s, f"still not: {what}"
        Event().wait(0.01)


def holding_one(redis: RedisClient, lease_max_s: float = 900) -> tuple[Hands, str]:
    hands = Hands(redis, worker="w", key_prefix="", lease_s=60, lease_max_s=lease_max_s, max_letters=10)
    redis.lpush(Lane.BULK.queue, '{"properties": {"delivery_tag": "t"}}')
    claimed = hands.claim(queues(1))
    assert claimed
    return hands, claimed.tag


def test_a_lease_is_renewed_again_and_again(redis: RedisClient) -> None:
    hands, tag = holding_one(redis)
    keep_leases(hands, 4 * EVERY_S)
    for _ in range(3):
        redis.zadd(UNACKED_INDEX, {tag: 1})
        eventually(lambda: redis.zscore(UNACKED_INDEX, tag) > 1, "it is renewed")
    hands.ack(tag)


def test_what_was_acknowledged_gets_no_lease_again(redis: RedisClient) -> None:
    hands, tag = holding_one(redis)
    hands.ack(tag)
    hands, other = holding_one(redis)
    keep_leases(hands, 4 * EVERY_S)
    redis.zadd(UNACKED_INDEX, {other: 1})
    eventually(lambda: redis.zscore(UNACKED_INDEX, other) > 1, "others are renewed")
    assert redis.zrange(UNACKED_INDEX, 0, -1) == [other.encode()]
    hands.ack(other)


def test_what_nothing_is_heard_of_is_let_go(redis: RedisClient) -> None:
    hands, tag = holding_one(redis, lease_max_s=0.1)
    keep_leases(hands, 4 * EVERY_S)
    eventually(lambda: not hands.held, "it is let go")
    redis.zadd(UNACKED_INDEX, {tag: 1})
    assert hands.sweep() == 1


@pytest.mark.parametrize("error", [HouseError("away"), RuntimeError("unforeseen"), MemoryError()])
def test_renewing_goes_on_after_any_error(
    error: Exception, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands, tag = holding_one(redis)
    renew, failures = hands.renew, []

    def fails_twice() -> int:
        if len(failures) < 2:
            failures.append(error)
            raise error
        return renew()

    monkeypatch.setattr(hands, "renew", fails_twice)
    keep_leases(hands, 4 * EVERY_S)
    redis.zadd(UNACKED_INDEX, {tag: 1})
    eventually(lambda: redis.zscore(UNACKED_INDEX, tag) > 1, "it is renewed after all")
    assert len(failures) == 2
    hands.ack(tag)


def test_within_one_lease_several_renewals_are_tried_so_that_some_may_fail(
    redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease_s = 60.0
    hands, tag = holding_one(redis)
    waits = Waits(until_s=10 * lease_s)
    monkeypatch.setattr(lease, "Event", lambda: waits)
    tried_s: list[float] = []
    monkeypatch.setattr(hands, "renew", lambda: tried_s.append(waits.now_s))
    keep_leases(hands, lease_s)
    assert waits.over.wait(30)
    for first, last in zip(tried_s, tried_s[3:], strict=False):
        assert last - first < lease_s, "three fail, and the next one is in time"
    hands.ack(tag)


class Waits:
    """Stands for waiting, in a time that passes at once; then for ever."""

    def __init__(self, until_s: float) -> None:
        self.now_s, self._until_s, self.over = 0.0, until_s, Event()

    def wait(self, timeout: float) -> bool:
        self.now_s += timeout
        if self.now_s > self._until_s:
            self.over.set()
            return True
        return False
