"""Celery gets Arno's transport, on a kombu that it was written for; what is sent is what everybody sends."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import kombu
import pytest
from kombu import Connection, Consumer
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from arno_shared.broker import Sender, celery_app
from arno_shared.dead_letters import DeadLetters
from arno_shared.delivery.channel import Channel
from arno_shared.delivery.hands import Hands
from arno_shared.delivery.transport import Transport
from arno_shared.errors import HouseError, IncompatibleKombu, InternalError, RedisRefused
from arno_shared.names import UNACKED, UNACKED_INDEX, Lane, arrivals, queues
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import BrokerSettings, Settings

STOCK = BrokerSettings(transport="stock")


@pytest.fixture
def settings(valkey_url: str) -> Settings:
    return Settings(redis_url=valkey_url)


@pytest.fixture
def redis(settings: Settings) -> Iterator[RedisClient]:
    with connect(settings) as client:
        yield client


# Compatibility


@pytest.mark.parametrize("version", [(5, 6, 2), (5, 8, 0), (6, 0, 0), (4, 7, 1)])
def test_a_kombu_of_another_version_is_refused(version: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kombu, "VERSION", kombu.version_info_t(*version, "", ""))
    monkeypatch.setattr(kombu, "__version__", ".".join(map(str, version)))
    with pytest.raises(IncompatibleKombu) as refused:
        celery_app(Settings())
    assert f"kombu {'.'.join(map(str, version))} is installed" in str(refused.value)
    assert "pip install 'kombu>=5.7,<5.8'" in str(refused.value)


@pytest.mark.parametrize("version", [(5, 7, 0, "", ""), (5, 7, 99, "", ""), (5, 7, 1, "rc", "1")])
def test_a_later_patch_of_the_same_version_is_taken(version: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kombu, "VERSION", kombu.version_info_t(*version))
    celery_app(Settings())


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (kombu_redis.Channel, "_brpop_start"),
        (kombu_redis.Channel, "_basic_cancel"),
        (kombu_redis.MultiChannelPoller, "_register_BRPOP"),
        (kombu_redis.MultiChannelPoller, "maybe_restore_messages"),
        (kombu_redis.Transport, "register_with_event_loop"),
        (virtual.QoS, "can_consume"),
        (virtual.QoS, "restore_unacked_once"),
        (virtual.Transport, "_deliver"),
    ],
)
@pytest.mark.parametrize("change", ["missing", "changed"])
def test_a_kombu_whose_methods_have_moved_is_refused(
    owner: type, method: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change == "missing":
        for kin in [kin for kin in owner.__mro__ if method in vars(kin)]:
            monkeypatch.delattr(kin, method)
    else:
        monkeypatch.setattr(owner, method, lambda self, something, new: None)
    with pytest.raises(IncompatibleKombu, match=rf"{owner.__name__}\.{method} .*pip install 'kombu>=5\.7,<5\.8'"):
        celery_app(Settings())


def test_all_that_the_transport_overrides_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What kombu calls on its own: but for constructors, which take whatever comes, and its public consuming."""
    from arno_shared.delivery.channel import _Claiming
    from arno_shared.delivery.compatibility import _OVERRIDDEN
    from arno_shared.delivery.qos import HandsQoS

    looked_at = {(owner, name) for owner, methods in _OVERRIDDEN.items() for name in methods}
    for mine, theirs in (
        (_Claiming, kombu_redis.Channel),
        (HandsQoS, kombu_redis.QoS),
        (Transport.__mro__[1], kombu_redis.Transport),
    ):
        overridden = {name for name, it in vars(mine).items() if callable(it) and hasattr(theirs, name)}
        for name in overridden - {"__init__", "basic_consume", "QoS"}:
            owners = [owner for owner in theirs.__mro__ if (owner, name) in looked_at]
            assert owners or name == "restore_visible", f"{theirs.__name__}.{name} may move without notice"


def test_stock_transport_works_with_any_kombu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kombu, "VERSION", kombu.version_info_t(9, 9, 9, "", ""))
    celery_app(Settings(broker=STOCK))


# Which transport


def test_celery_has_the_atomic_transport_unless_told_otherwise(settings: Settings) -> None:
    with celery_app(settings) as app, app.connection_for_read() as connection:
        assert type(connection.transport) is Transport
        assert type(connection.default_channel) is Channel


def test_stock_is_kombus_own(settings: Settings) -> None:
    with celery_app(settings.model_copy(update={"broker": STOCK})) as app, app.connection_for_read() as connection:
        assert type(connection.transport) is kombu_redis.Transport
        assert type(connection.default_channel) is kombu_redis.Channel


# Sending


def without_what_differs_each_time(raw: bytes) -> bytes:
    raw = re.sub(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", b"UUID", raw)
    raw = re.sub(rb'"sent_at": [0-9.]+', b'"sent_at": 0', raw)
    return re.sub(rb'"origin": "[^"]*"', b'"origin": ""', raw)


@pytest.mark.parametrize("lane", Lane)
def test_what_is_sent_is_what_stock_sends_byte_for_byte(settings: Settings, redis: RedisClient, lane: Lane) -> None:
    for broker in (BrokerSettings(), STOCK):
        with celery_app(settings.model_copy(update={"broker": broker})) as app:
            Sender(app).send_raw(lane, "arno.annotate", ["ä", 1.5], {"images": [], "none": None}, "run-7.12.1")
    stock, atomic = map(without_what_differs_each_time, redis.lrange(lane.queue, 0, -1))
    assert atomic == stock


# Taking, without a worker: a connection of the transport, asked by hand


class Consuming:
    """A connection that takes messages into `hands`, `credit` of them at a time."""

    def __init__(self, settings: Settings, hands: Hands, credit: int) -> None:
        self.app = celery_app(settings, hands)
        self.connection: Connection = self.app.connection_for_read()
        self.messages: list[kombu.Message] = []
        self.channel = self.connection.channel()
        self.channel.basic_qos(0, credit, False)
        bound = [queue(self.channel) for queue in self.app.conf.task_queues]
        self.consumer = Consumer(self.channel, bound, on_message=self.messages.append, auto_declare=False)
        self.consumer.consume()

    def turn(self) -> list[str]:
        """One turn of the event loop; the names of all messages so far."""
        self.channel._look_again_at_s = 0.0
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=0.01)
        return [json.loads(message.body) for message in self.messages]


@pytest.fixture
def hands(redis: RedisClient) -> Hands:
    return Hands(redis, worker="w", key_prefix="", lease_s=60, lease_max_s=900, max_letters=100)


@pytest.fixture
def consume(settings: Settings, hands: Hands) -> Iterator[Callable[..., Consuming]]:
    made: list[Consuming] = []

    def make(credit: int = 2) -> Consuming:
        made.append(Consuming(settings, hands, credit))
        return made[-1]

    yield make
    for consuming in made:
        consuming.connection.close()
        consuming.app.close()


def message(name: str, **changes: object) -> str:
    properties = {
        "delivery_tag": f"tag-of-{name}",
        "delivery_info": {"exchange": "", "routing_key": Lane.BULK.queue},
        "delivery_mode": 2,
        "priority": 0,
    }
    envelope: dict[str, object] = {
        "body": json.dumps(name),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {},
        "properties": properties,
    }
    return json.dumps(envelope | changes)


@contextmanager
def without_scripts(redis: RedisClient) -> Iterator[None]:
    """The server's user may not run any."""
    redis.execute_command("ACL", "SETUSER", "default", "-@scripting")
    try:
        yield
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "+@all")


def send(redis: RedisClient, *names: str, lane: Lane = Lane.BULK) -> None:
    for name in names:
        redis.lpush(lane.queue, message(name))


def test_no_more_is_taken_than_may_be_held_and_interactive_first(
    consume: Callable[..., Consuming], hands: Hands, redis: RedisClient
) -> None:
    send(redis, "b1", "b2")
    send(redis, "i1", lane=Lane.INTERACTIVE)
    consuming = consume(credit=2)
    assert consuming.turn() == consuming.turn() == ["i1", "b1"]
    assert (redis.llen(Lane.BULK.queue), redis.hlen(UNACKED)) == (1, 2)
    hands.ack(consuming.messages[0].delivery_tag)
    assert consuming.turn() == ["i1", "b1", "b2"]


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("how", ["acknowledged", "rejected for good"])
def test_celery_cannot_end_a_message_that_is_in_hand(
    how: str, closed: bool, consume: Callable[..., Consuming], hands: Hands, redis: RedisClient
) -> None:
    """It acknowledges whatever its task was, and whoever is done with a message has taken it out of hand before."""
    send(redis, "m", "n")
    consuming = consume()
    consuming.turn()
    done, not_done = (message.delivery_tag for message in consuming.messages)
    qos = consuming.channel.qos
    if closed:
        consuming.channel.close()
    hands.ack(done)
    for tag in (done, not_done):
        qos.ack(tag) if how == "acknowledged" else qos.reject(tag, requeue=False)
    assert redis.lrange(Lane.BULK.queue, 0, -1) == [message("n").encode()]
    assert not redis.exists(UNACKED, UNACKED_INDEX)
    assert not hands.held


def test_what_is_not_given_back_because_redis_refuses_comes_again_when_its_lease_is_over(
    consume: Callable[..., Consuming], hands: Hands, redis: RedisClient
) -> None:
    send(redis, "m")
    consuming = consume()
    consuming.turn()
    (tag,) = hands.held
    with without_scripts(redis):
        consuming.channel.qos.reject(tag, requeue=True)
        # As Celery does in the end, whatever its task was.
        consuming.channel.qos.ack(tag)
    assert redis.hkeys(UNACKED) == redis.zrange(UNACKED_INDEX, 0, -1) == [tag.encode()]
    assert not hands.held, "nobody renews its lease"


def test_credit_is_what_is_held_over_all_connections(
    consume: Callable[..., Consuming], hands: Hands, redis: RedisClient
) -> None:
    """Threads go on with what they have when a connection is lost, and what they have counts."""
    send(redis, "a", "b", "c")
    lost = consume(credit=2)
    lost.turn()
    lost.connection.close()
    after = consume(credit=2)
    assert after.turn() == []
    hands.ack(lost.messages[0].delivery_tag)
    assert after.turn() == ["c"]


def test_what_is_in_hand_when_a_connection_is_lost_is_not_given_to_others(
    consume: Callable[..., Consuming], redis: RedisClient
) -> None:
    send(redis, "a", "b")
    consuming = consume()
    consuming.turn()
    consuming.connection.close()
    assert (redis.llen(Lane.BULK.queue), redis.hlen(UNACKED)) == (0, 2)


def test_what_a_worker_that_stops_has_not_begun_goes_back_at_once(
    consume: Callable[..., Consuming], hands: Hands, redis: RedisClient
) -> None:
    send(redis, "a", "b")
    consuming = consume()
    consuming.turn()
    hands.begin(consuming.messages[0].delivery_tag)
    hands.stopping = True
    consuming.connection.close()
    assert [json.loads(json.loads(raw)["body"]) for raw in redis.lrange(Lane.BULK.queue, 0, -1)] == ["b"]
    assert redis.hkeys(UNACKED) == [consuming.messages[0].delivery_tag.encode()]


@pytest.mark.parametrize(("stopping", "order"), [(False, ["b", "a"]), (True, ["a", "b"])])
def test_what_is_rejected_is_tried_again_behind_others_and_by_others_first(
    stopping: bool, order: list[str], consume: Callable[..., Consuming], hands: Hands, redis: RedisClient
) -> None:
    send(redis, "a", "b")
    consuming = consume(credit=1)
    consuming.turn()
    hands.stopping = stopping
    consuming.messages[0].reject(requeue=True)
    assert [json.loads(json.loads(raw)["body"]) for raw in reversed(redis.lrange(Lane.BULK.queue, 0, -1))] == order


def test_what_kombu_cannot_take_apart_is_a_dead_letter(
    consume: Callable[..., Consuming], redis: RedisClient, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = message("odd", headers=7)
    no_utf8 = message("https://host/?sig=secret odd").encode().replace(b"odd", b"\xff")
    no_json = message("odd").replace('"headers": {}', '"headers": 0x1f')
    for raw in (odd, no_utf8, no_json):
        redis.lpush(Lane.BULK.queue, raw)
    send(redis, "good")
    consuming = consume(credit=1)
    assert consuming.turn() == ["good"]
    letters = [filed.letter for filed in DeadLetters(redis, 10).list()]
    assert [letter.code for letter in letters] == ["undecodable"] * 3
    assert [letter.raw for letter in letters] == [odd, no_utf8.decode("utf-8", "backslashreplace"), no_json]
    assert "secret" not in "".join(letter.reason for letter in letters) + capsys.readouterr().out
    assert redis.hlen(UNACKED) == 1


@pytest.mark.parametrize("error", [HouseError("away"), RedisRefused("no"), InternalError("of another type")])
def test_a_server_that_is_away_costs_patience_and_nothing_else(
    error: Exception,
    consume: Callable[..., Consuming],
    hands: Hands,
    redis: RedisClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send(redis, "m")
    consuming = consume()
    with monkeypatch.context() as away:

        def claim(_: object) -> None:
            raise error

        away.setattr(hands, "claim", claim)
        assert consuming.turn() == []
        assert consuming.channel._pause_s > 0
    assert consuming.turn() == ["m"]
    assert consuming.channel._pause_s == 0


def test_leases_are_swept_by_whoever_consumes(consume: Callable[..., Consuming], redis: RedisClient) -> None:
    dead = Hands(redis, worker="dead", key_prefix="", lease_s=60, lease_max_s=900, max_letters=100)
    send(redis, "m")
    claimed = dead.claim(queues(1))
    assert claimed
    consuming = consume()
    redis.zadd(UNACKED_INDEX, {claimed.tag: redis.time()[0] - 61})
    consuming.connection.transport.cycle.maybe_restore_messages()
    assert consuming.turn() == ["m"]
    assert not redis.exists(arrivals(Lane.BULK.queue))
