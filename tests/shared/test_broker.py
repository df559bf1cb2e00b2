"""What guards delivery is set as it must be, and a message that is sent lies in its lane's list."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import QueueNotFound

from arno_shared.broker import Sender, celery_app, node_names, queue_bytes, queue_length
from arno_shared.delayed import release_due
from arno_shared.errors import HouseError
from arno_shared.ledger import Ledger, Outcome
from arno_shared.messages import Chunk, ImageRef, Output, Prompt, parse_message
from arno_shared.names import Lane
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import BrokerSettings, Settings
from arno_shared.topic import ChunkCompleted, ChunkEvent, Counts

CHUNK = Chunk(
    images=(ImageRef(uri="https://me:hunter2@host/a.jpg?sig=hunter2"),),
    prompts=(Prompt(task="<OD>"),),
    output=Output(prefix="s3://results/run-7/"),
    job_id="run-7",
    index=12,
)


@pytest.fixture
def settings(valkey_url: str) -> Settings:
    return Settings(redis_url=valkey_url)


@pytest.fixture
def redis(settings: Settings) -> Iterator[RedisClient]:
    with connect(settings) as client:
        yield client


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    with celery_app(settings) as app:
        yield app


@pytest.fixture
def sender(app: Celery) -> Sender:
    return Sender(app)


def envelope(redis: RedisClient, lane: Lane) -> dict[str, Any]:
    (entry,) = redis.lrange(lane.queue, 0, -1)
    return json.loads(entry)


def body(redis: RedisClient, lane: Lane) -> list[Any]:
    return json.loads(base64.b64decode(envelope(redis, lane)["body"]))


# Settings


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("accept_content", ["json"], "pickle from a broker that others write to runs their code"),
        ("task_serializer", "json", "any language can read and write it"),
        ("task_acks_late", True, "a message acknowledged before its chunk is committed can be lost"),
        ("task_reject_on_worker_lost", True, "a worker that died in a task did not do it"),
        ("task_ignore_result", True, "results are objects in storage; a result backend would grow without end"),
        (
            "worker_prefetch_multiplier",
            1,
            "what is hoarded by one worker is missing at another, and repeats when it dies",
        ),
        ("broker_connection_retry_on_startup", True, "a worker that starts before the broker waits for it"),
        ("broker_connection_max_retries", None, "a worker never gives the broker up"),
        ("broker_channel_error_retry", True, "a full broker must not end the worker"),
        ("worker_enable_remote_control", True, "without its socket a dead broker goes unnoticed"),
        ("worker_cancel_long_running_tasks_on_connection_loss", False, "threads cannot be cancelled"),
        ("task_create_missing_queues", False, "a misspelt queue would be a list that nobody reads"),
        ("worker_hijack_root_logger", False, "Celery's own logging would not redact secrets"),
        ("worker_send_task_events", False, "events cost CPU for each message"),
        ("task_send_sent_event", False, "events cost CPU for each message"),
        ("task_default_queue", "arno.bulk", "a message without a queue must reach a worker"),
        ("result_backend", None, "nothing reads it"),
        ("task_time_limit", None, "threads ignore it, and a process pool would drop the message"),
        ("task_always_eager", False, "a message goes through the broker"),
    ],
)
def test_what_guards_delivery_is_set(name: str, value: Any, why: str) -> None:
    assert celery_app(Settings()).conf[name] == value, why


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("queue_order_strategy", "priority", "interactive comes before bulk, strictly"),
        ("priority_steps", [0], "one list for each queue, so that its length is one LLEN"),
        ("socket_timeout", 7.0, "a frozen server must not hang a worker for ever"),
        ("socket_connect_timeout", 3.0, "nor an unreachable one"),
        ("visibility_timeout", 600, "it is the lease, which is the user's to set"),
    ],
)
def test_the_transport_is_set(name: str, value: Any, why: str) -> None:
    broker = BrokerSettings(lease_s=600, socket_timeout_s=7, connect_timeout_s=3)
    assert celery_app(Settings(broker=broker)).conf.broker_transport_options[name] == value, why


def test_messages_of_the_dead_come_back_soon_after_their_time_is_up() -> None:
    options = celery_app(Settings()).conf.broker_transport_options
    assert options["unacked_restore_interval"] <= 10
    assert options["unacked_mutex_expire"] <= 30


def test_events_are_sent_when_flower_is_to_see_them() -> None:
    conf = celery_app(Settings(broker=BrokerSettings(task_events=True))).conf
    assert conf.worker_send_task_events
    assert conf.task_send_sent_event


def test_interactive_stands_before_bulk_among_the_queues() -> None:
    names = [queue.name for queue in celery_app(Settings()).conf.task_queues]
    assert names == ["arno.interactive", "arno.interactive.v2", "arno.bulk", "arno.bulk.v2"]


def test_what_older_workers_left_to_newer_ones_waits_in_its_lane(redis: RedisClient) -> None:
    redis.lpush("arno.bulk.v2", "{}", "{}")
    assert [queue_length(redis, lane) for lane in (Lane.BULK, Lane.INTERACTIVE)] == [2, 0]
    assert queue_bytes(redis, Lane.BULK) > 0


def test_the_app_does_not_become_everybodys() -> None:
    from celery import current_app

    assert celery_app(Settings()) is not current_app._get_current_object()


# Sending


@pytest.mark.parametrize("lane", Lane)
def test_a_chunk_that_is_sent_lies_in_its_lane_alone(lane: Lane, sender: Sender, redis: RedisClient) -> None:
    sender.send_chunk(CHUNK, lane)
    assert {each: queue_length(redis, each) for each in Lane} == {each: int(each is lane) for each in Lane}
    args, kwargs, _ = body(redis, lane)
    assert args == []
    assert Chunk.model_validate(kwargs) == CHUNK
    assert parse_message(args, kwargs).index == 12


def test_a_message_goes_through_the_default_exchange_which_no_flush_can_unbind(
    sender: Sender, redis: RedisClient
) -> None:
    for _ in range(2):
        sender.send_chunk(CHUNK, Lane.BULK)
        assert queue_length(redis, Lane.BULK) == 1
        assert envelope(redis, Lane.BULK)["properties"]["delivery_info"] == {"exchange": "", "routing_key": "arno.bulk"}
        redis.flushall()


def test_the_same_chunk_is_the_same_message(sender: Sender, redis: RedisClient) -> None:
    sender.send_chunk(CHUNK, Lane.BULK)
    assert envelope(redis, Lane.BULK)["headers"]["id"] == "run-7.12.1"


def test_what_flower_shows_of_a_message_holds_no_secrets(sender: Sender, redis: RedisClient) -> None:
    sender.send_raw(Lane.BULK, "arno.annotate", ["https://me:hunter2@host/?sig=hunter2"], CHUNK.to_wire())
    headers = envelope(redis, Lane.BULK)["headers"]
    assert "hunter2" not in json.dumps(headers)
    assert headers["kwargsrepr"] == "job=run-7 chunk=12 images=1 prompts=<OD>"


def test_any_arguments_can_be_sent_as_they_were(sender: Sender, redis: RedisClient) -> None:
    sender.send_raw(Lane.INTERACTIVE, "other.task", [1, "ä"], {"x": [None]})
    assert envelope(redis, Lane.INTERACTIVE)["headers"]["task"] == "other.task"
    assert body(redis, Lane.INTERACTIVE)[:2] == [[1, "ä"], {"x": [None]}]


def test_a_message_neither_expires_nor_waits(sender: Sender, redis: RedisClient) -> None:
    sender.send_chunk(CHUNK, Lane.BULK)
    headers = envelope(redis, Lane.BULK)["headers"]
    assert (headers["expires"], headers["eta"], headers["timelimit"]) == (None, None, [None, None])


def test_a_misspelt_queue_is_refused(app: Celery) -> None:
    with pytest.raises(QueueNotFound):
        app.send_task("arno.annotate", queue="arno.bluk")


def test_a_message_for_no_queue_of_its_own_reaches_the_bulk_lane(app: Celery, redis: RedisClient) -> None:
    app.send_task("arno.annotate", args=["s3://photos/a.jpg", "<OD>"])
    assert [queue_length(redis, lane) for lane in (Lane.BULK, Lane.INTERACTIVE)] == [1, 0]


def test_a_broker_that_is_away_is_an_error_of_the_house_without_its_password() -> None:
    with celery_app(Settings(redis_url="redis://me:hunter2@127.0.0.1:1/0")) as app:
        # Waiting for it to come back takes a minute, which is not what is asked here.
        app.conf.task_publish_retry = False
        with pytest.raises(HouseError, match="Redis cannot be used") as away:
            Sender(app).send_chunk(CHUNK, Lane.BULK)
        assert "hunter2" not in str(away.value)


def test_the_length_of_a_queue_that_cannot_be_asked_is_an_error_of_the_house() -> None:
    with pytest.raises(HouseError):
        queue_length(connect(Settings(redis_url="redis://127.0.0.1:1/0")), Lane.BULK)


def test_no_workers_are_an_empty_list(app: Celery) -> None:
    assert node_names(app, timeout_s=0.01) == []


# Releasing


def put_off(ledger: Ledger, lane: Lane) -> None:
    """A chunk whose only image is to be tried again, at once."""
    event = ChunkEvent(
        id="run-7/12",
        source="/arno/gpu0",
        subject="run-7",
        time=datetime.now(UTC),
        data=ChunkCompleted(
            job_id="run-7", index=12, attempt=1, result_uri="s3://r/p", counts=Counts(ok=0, failed=0, put_off=1)
        ),
    )
    assert ledger.commit(CHUNK, Outcome(event=event, put_off=CHUNK.retry_of(CHUNK.images), lane=lane))


@pytest.mark.parametrize("lane", Lane)
def test_what_is_due_is_sent_to_the_lane_it_came_from(
    lane: Lane, sender: Sender, redis: RedisClient, settings: Settings
) -> None:
    ledger = Ledger(redis, settings)
    put_off(ledger, lane)
    assert [release_due(ledger, sender), release_due(ledger, sender)] == [1, 0]
    _, kwargs, _ = body(redis, lane)
    assert Chunk.model_validate(kwargs) == CHUNK.retry_of(CHUNK.images)


def test_what_could_not_be_sent_is_due_again(redis: RedisClient, settings: Settings) -> None:
    ledger = Ledger(redis, settings)
    put_off(ledger, Lane.BULK)

    class AwaySender(Sender):
        def send_message(self, *_: object) -> None:
            raise HouseError("away")

    with celery_app(settings) as app, pytest.raises(HouseError):
        release_due(ledger, AwaySender(app))
    assert redis.zrange("arno:delayed", 0, -1) == [b"run-7/12.2"]
