"""The task's body: whatever is thrown, and wherever, its message is done, or somebody gets it again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery.exceptions import Reject
from kombu import Connection

from arno_shared import logs, tracing
from arno_shared.broker import celery_app
from arno_shared.delivery.hands import Hands
from arno_shared.delivery.qos import HandsQoS
from arno_shared.errors import HouseError, RedisRefused
from arno_shared.names import TASK_NAME, UNACKED, UNACKED_INDEX, Lane, queues
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from arno_workers.consumer import tasks
from arno_workers.consumer.tasks import GIVEN_BACK, register
from arno_workers.health.vitals import Vitals
from arno_workers.pipeline.delivery import Delivery
from arno_workers.pipeline.patience import Drained

QUEUE = Lane.BULK.queue
MESSAGE = b'{"properties": {"delivery_tag": "t"}}'
THROWN = (RuntimeError("unforeseen"), HouseError("away"), MemoryError(), SystemExit(3), KeyboardInterrupt(), Drained())
thrown = pytest.mark.parametrize("error", THROWN, ids=lambda error: type(error).__name__)


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_LAST_RESORT_PAUSE_S", 0.0)
    # As a worker writes them: tracebacks for people take a second each.
    logs.configure("info")


class Handler:
    """Stands for the pipeline."""

    def __init__(self, does: Callable[[Delivery], str]) -> None:
        self._does, self.asked = does, 0

    def handle(self, args: object, kwargs: object, delivery: Delivery) -> str:
        self.asked += 1
        return self._does(delivery)


class Worker:
    """Holds one message, and runs its task as a thread of Celery's pool does."""

    def __init__(self, url: str, redis: RedisClient, hands: Hands | None) -> None:
        settings = Settings(redis_url=url)
        self.redis, self.hands, self.app = redis, hands, celery_app(settings, hands)
        self.connection: Connection = self.app.connection_for_read()
        redis.lpush(QUEUE, MESSAGE)
        claimed = hands.claim(queues(1)) if hands is not None else None
        self.tag = claimed.tag if claimed else "t"

    def run(self, handler: Handler) -> str:
        register(self.app, handler, self.hands, Vitals())  # type: ignore[arg-type]
        task = self.app.tasks[TASK_NAME]
        task.push_request(
            id="message-1",
            delivery_info={"routing_key": QUEUE},
            properties={"delivery_tag": self.tag},
            args=[],
            kwargs={},
        )
        try:
            return str(task.run())
        finally:
            task.pop_request()

    def acknowledge(self) -> None:
        """As Celery does, whatever became of the task."""
        HandsQoS(self.connection.channel()).ack(self.tag)

    @property
    def message_is(self) -> str:
        waits, held = self.redis.llen(QUEUE), self.redis.hlen(UNACKED)
        assert waits + held <= 1
        assert not held or self.redis.zcard(UNACKED_INDEX), "its lease never ends"
        return "waiting" if waits else "in hand" if held else "done"


@pytest.fixture
def worker(valkey_url: str, redis: RedisClient) -> Iterator[Worker]:
    hands = Hands(redis, worker="w", key_prefix="", lease_s=60, lease_max_s=900, max_letters=10)
    worker = Worker(valkey_url, redis, hands)
    yield worker
    worker.connection.close()
    worker.app.close()


def raising(error: BaseException) -> Callable[..., Any]:
    def throw(*_: object, **__: object) -> Any:
        raise error

    return throw


def test_a_message_is_in_hand_until_its_handler_has_returned_and_done_then(worker: Worker) -> None:
    seen: list[str] = []

    def does(_: Delivery) -> str:
        seen.append(worker.message_is)
        return "8 ok"

    assert worker.run(Handler(does)) == "8 ok"
    assert seen == ["in hand"]
    assert worker.message_is == "done"
    worker.acknowledge()
    assert worker.message_is == "done"


@thrown
def test_what_a_handler_throws_gives_the_message_back(error: BaseException, worker: Worker) -> None:
    assert worker.run(Handler(raising(error))) == GIVEN_BACK
    worker.acknowledge()
    assert worker.message_is == "waiting"


@pytest.mark.parametrize("place", ["begin", "give_back of the delivery", "give_back of the hands"])
@thrown
def test_what_is_thrown_on_the_way_back_loses_nothing(
    place: str, error: BaseException, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker.hands is not None
    handler = Handler(raising(Drained()))
    with monkeypatch.context() as thrower:
        if place == "begin":
            thrower.setattr(Delivery, "begin", raising(error))
        elif place == "give_back of the hands":
            thrower.setattr(worker.hands, "give_back", raising(error))
        else:
            thrower.setattr(worker.hands, "_let_go", raising(error))
        assert worker.run(handler) == GIVEN_BACK
    worker.acknowledge()
    assert worker.message_is == "waiting"


@thrown
def test_what_is_thrown_when_a_message_is_acknowledged_brings_it_again(
    error: BaseException, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunk is committed, and whoever gets it finds that."""
    with monkeypatch.context() as thrower:
        thrower.setattr(worker.hands, "ack", raising(error))
        assert worker.run(Handler(lambda _: "8 ok")) == "8 ok"
    worker.acknowledge()
    assert worker.message_is == "waiting"


@pytest.mark.parametrize("when", ["before", "after"])
@thrown
def test_what_a_trace_throws_costs_no_message(
    when: str, error: BaseException, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def span(*_: object, **__: object) -> Iterator[tracing.Span]:
        if when == "before":
            raise error
        yield tracing._NOTHING
        raise error

    monkeypatch.setattr(tracing, "span", span)
    handler = Handler(lambda _: "8 ok")
    assert worker.run(handler) == (GIVEN_BACK if when == "before" else "8 ok")
    worker.acknowledge()
    assert (worker.message_is, handler.asked) == (("waiting", 0) if when == "before" else ("done", 1))


@pytest.mark.parametrize("ends", ["drained", "an error", "done", "forwarded"])
def test_a_server_whose_user_may_run_no_scripts_for_a_while_loses_nothing(
    ends: str, worker: Worker, redis: RedisClient
) -> None:
    def does(delivery: Delivery) -> str:
        redis.execute_command("ACL", "SETUSER", "default", "-@scripting")
        if ends == "drained":
            raise Drained
        if ends == "an error":
            raise RuntimeError("unforeseen")
        if ends == "forwarded":
            with pytest.raises(RedisRefused):
                delivery.forward("arno.bulk.v2")
            raise Drained
        return "8 ok"

    try:
        outcome = worker.run(Handler(does))
        worker.acknowledge()
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "+@all")
    if ends == "done":
        assert (outcome, worker.message_is) == ("8 ok", "done")
        return
    assert (outcome, worker.message_is) == (GIVEN_BACK, "in hand")
    assert worker.hands is not None
    redis.zadd(UNACKED_INDEX, {worker.tag: 1})
    worker.hands.renew()
    assert worker.hands.sweep() == 1, "nobody renews its lease"
    assert worker.message_is == "waiting"


def test_a_message_that_was_given_back_before_its_turn_is_not_begun(worker: Worker) -> None:
    assert worker.hands is not None
    worker.hands.give_back([worker.tag])
    handler = Handler(lambda _: "8 ok")
    assert worker.run(handler) == GIVEN_BACK
    worker.acknowledge()
    assert (worker.message_is, handler.asked) == ("waiting", 0)


# The stock transport, to which only Celery can give a message back


@thrown
def test_with_the_stock_transport_what_is_not_done_is_rejected(
    error: BaseException, valkey_url: str, redis: RedisClient
) -> None:
    with pytest.raises(Reject) as rejected:
        Worker(valkey_url, redis, None).run(Handler(raising(error)))
    assert rejected.value.requeue


def test_with_the_stock_transport_what_is_done_is_returned(valkey_url: str, redis: RedisClient) -> None:
    assert Worker(valkey_url, redis, None).run(Handler(lambda _: "8 ok")) == "8 ok"


def test_with_the_stock_transport_what_a_trace_throws_costs_no_message(
    valkey_url: str, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "span", raising(RuntimeError("no trace")))
    with pytest.raises(Reject) as rejected:
        Worker(valkey_url, redis, None).run(Handler(lambda _: "8 ok"))
    assert rejected.value.requeue
