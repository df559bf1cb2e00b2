"""What MinIO writes to Redis stays there until it is enqueued. That Redis is one server, with options as Arno's own."""

import json
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from arno_producer import Producer
from arno_producer.triggers import redis_events
from arno_producer.triggers.redis_events import RedisTrigger
from arno_producer.triggers.trigger import Handled, Trigger
from arno_shared.broker import queue_length
from arno_shared.errors import InvalidRequest
from arno_shared.names import Lane
from arno_shared.redis_client import RedisClient
from arno_shared.settings import ProducerSettings, Settings
from tests.producer.conftest import Hand
from tests.producer.sources.test_events import changed
from tests.producer.triggers.conftest import RULE, HouseFalls, Runs, eventually
from tests.servers import Valkey

Start = Callable[[Runs], Callable[[], None]]


@pytest.fixture
def trigger(producer: Producer) -> Callable[[str], RedisTrigger]:
    events = Trigger(producer, [RULE], CollectorRegistry())
    return lambda url: RedisTrigger(url, "minio", events, producer, [Lane.BULK], Event())


def test_the_server_may_be_given_with_options(trigger: Callable[[str], RedisTrigger], valkey_url: str) -> None:
    taking = trigger(f"{valkey_url}?client_name=minio&socket_timeout=2")
    assert taking._redis.client_getname() == "minio"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:hush@h/0?decode_responses=true", "--redis-url: the option decode_responses"),
        ("http://:hush@h", "--redis-url: it starts with redis://"),
        ("sentinel://:hush@h:26379/m", "--redis-url: MinIO writes to one server"),
    ],
)
def test_what_is_no_such_server_is_refused_in_words(
    url: str, words: str, trigger: Callable[[str], RedisTrigger]
) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        trigger(url)
    assert "hush" not in str(refused.value)


# What becomes of an event


@pytest.fixture
def minio(valkey_url: str) -> Iterator[RedisClient]:
    """The Redis that MinIO writes to."""
    with redis.Redis.from_url(valkey_url) as client:
        yield client


def told(key: str) -> bytes:
    """As MinIO writes it to a list."""
    records = changed("minio", "Records/0/s3/object/key", key)["Records"]
    return json.dumps([{"Event": records, "EventTime": "2026-03-01T10:20:30Z"}]).encode()


def kept(key: str) -> bytes:
    """As MinIO writes it to a hash."""
    return json.dumps(changed("minio", "Records/0/s3/object/key", key)).encode()


def keys(hand: Hand) -> list[str]:
    return [image.uri.rpartition("/")[2] for chunk in hand.take_all() for image in chunk.images]


@pytest.fixture
def taker(settings: Settings, stopping: Event, valkey_url: str) -> RedisTrigger:
    """Whose lane has room for one message."""
    narrow = Producer(settings.model_copy(update={"producer": ProducerSettings(high_water_messages=1)}))
    trigger = Trigger(narrow, [RULE], CollectorRegistry())
    return RedisTrigger(valkey_url, "minio", trigger, narrow, [RULE.lane], stopping)


@pytest.fixture
def falls(away: Valkey, away_settings: Settings) -> HouseFalls:
    return HouseFalls(away, Producer(away_settings), [RULE], CollectorRegistry())


def test_an_event_of_a_list_is_kept_until_it_is_enqueued_while_arnos_own_redis_is_away(
    minio: RedisClient,
    falls: HouseFalls,
    away: Valkey,
    away_settings: Settings,
    stopping: Event,
    start: Start,
    valkey_url: str,
) -> None:
    minio.rpush("minio", told("a.jpg"))
    start(RedisTrigger(valkey_url, "minio", falls, Producer(away_settings), [RULE.lane], stopping))
    eventually(lambda: falls.tries >= 3, "it is tried again and again")
    assert minio.lrange("minio.arno-taken", 0, -1) == [told("a.jpg")]
    away.start()
    eventually(lambda: not minio.exists("minio", "minio.arno-taken"), "it is removed")
    assert keys(Hand(away_settings)) == ["a.jpg"]


def test_an_event_of_a_hash_is_kept_until_it_is_enqueued_while_arnos_own_redis_is_away(
    minio: RedisClient,
    falls: HouseFalls,
    away: Valkey,
    away_settings: Settings,
    stopping: Event,
    start: Start,
    valkey_url: str,
) -> None:
    minio.hset("minio", "photos/a.jpg", kept("a.jpg"))
    start(RedisTrigger(valkey_url, "minio", falls, Producer(away_settings), [RULE.lane], stopping))
    eventually(lambda: falls.tries >= 3, "it is tried again and again")
    assert minio.hgetall("minio") == {b"photos/a.jpg": kept("a.jpg")}
    away.start()
    eventually(lambda: not minio.exists("minio"), "it is removed")
    assert keys(Hand(away_settings)) == ["a.jpg"]


def test_what_a_trigger_took_before_it_stopped_comes_first_when_the_next_one_starts(
    minio: RedisClient, taker: RedisTrigger, settings: Settings, hand: Hand, start: Start, valkey_url: str
) -> None:
    minio.rpush("minio", told("a.jpg"), told("b.jpg"), told("c.jpg"))
    stop = start(taker)
    eventually(lambda: queue_length(hand.redis, Lane.BULK), "one is enqueued, and there is no room for others")
    stop()
    assert minio.lrange("minio.arno-taken", 0, -1) + minio.lrange("minio", 0, -1) == [told("b.jpg"), told("c.jpg")]
    minio.lmove("minio", "minio.arno-taken", "LEFT", "RIGHT")
    assert keys(hand) == ["a.jpg"]
    end = Event()
    producer = Producer(settings)
    next_one = RedisTrigger(
        valkey_url, "minio", Trigger(producer, [RULE], CollectorRegistry()), producer, [RULE.lane], end
    )
    start(next_one)
    eventually(lambda: not minio.exists("minio", "minio.arno-taken"), "all are removed")
    end.set()
    assert sorted(keys(hand)) == ["b.jpg", "c.jpg"]


def test_what_stands_in_a_hash_stays_while_there_is_no_room(
    minio: RedisClient, taker: RedisTrigger, hand: Hand, start: Start
) -> None:
    minio.hset("minio", mapping={f"photos/{name}": kept(name) for name in ("a.jpg", "b.jpg")})
    stop = start(taker)
    eventually(lambda: queue_length(hand.redis, Lane.BULK), "one is enqueued, and there is no room for the other")
    stop()
    (done,) = keys(hand)
    assert minio.hkeys("minio") == [f"photos/{name}".encode() for name in ("a.jpg", "b.jpg") if name != done]


class Overwrites(Trigger):
    """While the first event is enqueued, its object is written anew."""

    def __init__(self, minio: RedisClient, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._minio = minio

    def handle(self, event: Any) -> Handled:
        if event == json.loads(kept("a.jpg")):
            self._minio.hset("minio", "photos/a.jpg", kept("b.jpg"))
        return super().handle(event)


def test_what_a_hash_says_by_then_of_the_same_object_is_not_removed_with_what_it_said_before(
    minio: RedisClient, producer: Producer, stopping: Event, hand: Hand, start: Start, valkey_url: str
) -> None:
    minio.hset("minio", "photos/a.jpg", kept("a.jpg"))
    trigger = Overwrites(minio, producer, [RULE], CollectorRegistry())
    start(RedisTrigger(valkey_url, "minio", trigger, producer, [RULE.lane], stopping))
    eventually(lambda: not minio.exists("minio"), "all is removed")
    assert keys(hand) == ["a.jpg", "b.jpg"]


def test_what_cannot_be_read_is_kept_apart_and_its_neighbours_are_enqueued(
    minio: RedisClient, producer: Producer, stopping: Event, hand: Hand, start: Start, valkey_url: str
) -> None:
    refused = [b"not JSON", b"[" * 100_000, b"{}"]
    minio.rpush("minio", *refused, told("a.jpg"))
    minio.hset("hash", mapping={"photos/x.jpg": b"not JSON", "photos/b.jpg": kept("b.jpg")})
    for key in ("minio", "hash"):
        trigger = Trigger(producer, [RULE], CollectorRegistry())
        start(RedisTrigger(valkey_url, key, trigger, producer, [RULE.lane], stopping))
        eventually(lambda key=key: not minio.exists(key, f"{key}.arno-taken"), "it is empty")  # type: ignore[misc]
    assert keys(hand) == ["a.jpg", "b.jpg"]
    assert minio.lrange("minio.arno-dead", 0, -1) == refused
    assert minio.lrange("hash.arno-dead", 0, -1) == [b"not JSON"]


def test_a_key_that_is_neither_a_list_nor_a_hash_is_refused(
    minio: RedisClient, trigger: Callable[[str], RedisTrigger], valkey_url: str
) -> None:
    minio.set("minio", "?")
    with pytest.raises(InvalidRequest, match="'minio' is a string"):
        trigger(valkey_url).run()


def test_minios_redis_may_be_away_for_a_while(
    away: Valkey, producer: Producer, stopping: Event, hand: Hand, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_events, "_IDLE_S", 0.05)
    away.kill()
    trigger = Trigger(producer, [RULE], CollectorRegistry())
    with capture_logs() as logs:
        start(RedisTrigger(away.url, "minio", trigger, producer, [RULE.lane], stopping))
        eventually(lambda: len(logs) >= 2, "it waits")
        away.start()
        with redis.Redis.from_url(away.url) as client:
            client.rpush("minio", told("a.jpg"))
            eventually(lambda: not client.exists("minio", "minio.arno-taken"), "it is removed")
    assert [log["pause_s"] for log in logs if log["event"] == "waiting"][:2] == [0.2, 0.4]
    assert keys(hand) == ["a.jpg"]
