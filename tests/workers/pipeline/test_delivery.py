"""What fails on the way out of hand is survived; whoever works on a message is told when others may have it."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from arno_shared.delivery import hands as hands_module
from arno_shared.delivery.hands import Hands
from arno_shared.errors import ArnoError, HouseError, InternalError, RedisRefused
from arno_shared.names import UNACKED, Lane, queues
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from arno_workers.health.vitals import Vitals
from arno_workers.pipeline.delivery import Delivery

LEASE_MAX_S = 900.0
THROWN = (HouseError("away"), RedisRefused("no"), InternalError("bug"), RuntimeError("x"), MemoryError(), SystemExit(3))


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


@pytest.fixture
def hands(redis: RedisClient) -> Hands:
    return Hands(redis, worker="w", key_prefix="", lease_s=60, lease_max_s=LEASE_MAX_S, max_letters=10)


@pytest.fixture
def delivery(hands: Hands, redis: RedisClient) -> Delivery:
    redis.lpush(Lane.BULK.queue, '{"properties": {"delivery_tag": "t"}}')
    claimed = hands.claim(queues(1))
    assert claimed
    delivery = Delivery("message-1", Lane.BULK, claimed.tag, hands, Vitals())
    assert delivery.begin()
    return delivery


@pytest.mark.parametrize("error", THROWN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("way", ["ack", "give_back"])
def test_what_is_thrown_on_the_way_out_of_hand_is_survived(
    way: str, error: BaseException, delivery: Delivery, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def throw(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(delivery.hands, way, throw)
    with capture_logs() as logs:
        delivery.ack() if way == "ack" else delivery.give_back()
    assert redis.hkeys(UNACKED) == [delivery.tag.encode()]
    (line,) = logs
    assert line["error"] == (str(error) if isinstance(error, ArnoError) else repr(error))


@pytest.mark.parametrize("way", ["ack", "give_back"])
def test_what_is_done_with_is_in_nobody_s_hands(way: str, delivery: Delivery, redis: RedisClient) -> None:
    delivery.ack() if way == "ack" else delivery.give_back()
    assert redis.hlen(UNACKED) == 0
    assert redis.llen(Lane.BULK.queue) == (0 if way == "ack" else 1)


def test_whoever_works_on_it_is_told_that_it_was_let_go(
    delivery: Delivery, hands: Hands, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = hands_module.monotonic()
    monkeypatch.setattr(hands_module, "monotonic", lambda: now_s)
    now_s += LEASE_MAX_S - 1
    hands.renew()
    assert not delivery.let_go
    delivery.heard()
    now_s += LEASE_MAX_S - 1
    hands.renew()
    assert not delivery.let_go
    now_s += 2
    hands.renew()
    assert delivery.let_go


def test_what_it_gives_back_late_is_not_taken_from_who_has_it_now(delivery: Delivery, redis: RedisClient) -> None:
    redis.zadd("unacked_index", {delivery.tag: 1})
    other = Hands(redis, worker="other", key_prefix="", lease_s=60, lease_max_s=900, max_letters=10)
    assert other.sweep() == 1
    again = other.claim(queues(1))
    assert again
    delivery.give_back()
    delivery.ack()
    assert redis.hkeys(UNACKED) == [again.tag.encode()]
    assert not redis.exists(Lane.BULK.queue)


def test_the_stock_transport_lets_nothing_go() -> None:
    delivery = Delivery("message-1", Lane.BULK, "tag", None, Vitals())
    assert not delivery.let_go
    assert not delivery.give_back()
    delivery.ack()
