"""Celery and kombu, configured in this one file; every setting with its reason.

How a message is taken, held and given back is `arno_shared.delivery`. What a worker does about its lease and about
itself is in `arno_workers`: `consumer/lease.py`, `consumer/unreadable.py`, `health/watchdog.py`.
"""

import json
from time import time
from typing import Any
from urllib.parse import quote

from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError
from redis import exceptions

from arno_shared import tracing
from arno_shared.delivery.compatibility import check_kombu
from arno_shared.delivery.hands import Hands, sweep_every_s
from arno_shared.errors import ArnoError, HouseError
from arno_shared.messages import SCHEMA_VERSION, Chunk
from arno_shared.names import TASK_NAME, Lane, lists, queues, task_id
from arno_shared.redis_answers import arno_error
from arno_shared.redis_client import RedisClient, connection_options, redis_away
from arno_shared.redis_url import Host, RedisUrl, parse_redis_url
from arno_shared.settings import Settings
from arno_shared.summary import summary_of

_ENVELOPE_BYTES = 1024
"""What surrounds a message's body, which travels as base64: headers, properties, and a node of Redis's list."""


def celery_app(settings: Settings, hands: Hands | None = None) -> Celery:
    """The Celery app that producers send through and workers consume with, into their `hands`. Connects to nothing yet.

    Raises IncompatibleKombu, and ValueError when the URL is wrong.
    """
    url = parse_redis_url(settings.redis_url)
    app = Celery("arno", broker=_broker_url(url), set_as_current=False)
    if settings.broker.transport == "atomic":
        check_kombu()
        transport = "SentinelTransport" if url.kind == "sentinel" else "Transport"
        app.conf.broker_transport = f"arno_shared.delivery.transport:{transport}"
    if url.tls:
        app.conf.broker_use_ssl = {"ssl_cert_reqs": "required", **url.tls_options}
    app.conf.update(
        # JSON only: a broker that others can write to must not be able to run code in a worker.
        accept_content=["json"],
        task_serializer="json",
        # Acknowledged after the task returned, and not when the process died in it.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # Results are objects in storage and events in the topic.
        task_ignore_result=True,
        # Each thread of the pool runs one chunk; no further ones are hoarded behind them.
        worker_prefetch_multiplier=1,
        # Celery's own events cost 0.3 to 0.5 ms of CPU a message; Flower needs them.
        worker_send_task_events=settings.broker.task_events,
        task_send_sent_event=settings.broker.task_events,
        # Never give the broker up: it comes back.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Survive a broker that is full, or that has become a replica.
        broker_channel_error_retry=True,
        # Flower, and `arno doctor`, ask over it.
        worker_enable_remote_control=True,
        # Threads cannot be cancelled; their chunks are finished and acknowledged over the new connection.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # What is still in hand after a reconnection is counted by the transport.
        worker_enable_prefetch_count_reduction=False,
        # Hides a dropped connection; whoever sends waits out what takes longer, and can be told to stop.
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1},
        broker_transport_options={
            **_sentinel_options(url),
            **connection_options(settings, url),
            "hands": hands,
            "global_keyprefix": settings.key_prefix,
            # How soon a dead worker's messages are noticed once their lease is over; kombu's default is minutes.
            "unacked_restore_interval": sweep_every_s(settings.broker.lease_s),
            "unacked_restore_throttle": 1,
            # The next two are for the stock transport.
            "visibility_timeout": settings.broker.lease_s,
            "unacked_mutex_expire": 10,
            # Interactive before bulk, strictly; one Redis list for each queue, so that its length is one LLEN.
            "queue_order_strategy": "priority",
            "priority_steps": [0],
        },
        # Each queue has an exchange of its own: sharing one, every message would reach every lane.
        task_queues=[Queue(name, Exchange(name), routing_key=name) for name in queues(SCHEMA_VERSION)],  # type: ignore[no-untyped-call]
        task_default_queue=Lane.BULK.queue,
        # A misspelt queue is an error, not a list that nobody reads.
        task_create_missing_queues=False,
        # The program that runs the worker configures logging.
        worker_hijack_root_logger=False,
        enable_utc=True,
    )
    return app


def _broker_url(url: RedisUrl) -> str:
    """Without options: Celery is given them apart, as it would read them in its own way."""
    scheme = "sentinel" if url.kind == "sentinel" else "rediss" if url.tls else "redis"
    login = f"{quote(url.user or '', '')}:{quote(url.password or '', '')}@" if url.user or url.password else ""
    # Of sentinels, the others are among the options.
    return f"{scheme}://{login}{_address(url.hosts[0])}/{url.db}"


def _address(host: Host) -> str:
    name, port = host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _sentinel_options(url: RedisUrl) -> dict[str, Any]:
    if url.kind == "server":
        return {}
    return {
        "sentinels": [_address(host) for host in url.hosts],
        "master_name": url.master,
        "sentinel_kwargs": {"username": "default", "password": url.password} if url.password else {},
    }


class Sender:
    """Puts messages on the lanes' queues, over one held connection. Thread-safe."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def send_chunk(self, chunk: Chunk, lane: Lane) -> None:
        """Enqueues a chunk. Raises HouseError; the message may have arrived all the same, which is harmless."""
        self.send_message(chunk.to_wire(), lane, task_id(chunk.job_id, chunk.index, chunk.attempt))

    def send_message(self, message: dict[str, Any], lane: Lane, task_id: str, traceparent: str | None = None) -> None:
        """Enqueues a chunk as it travels; `traceparent` is of the trace that it belongs to, or the caller's own.

        Raises as `send_chunk` does.
        """
        with tracing.span(
            "arno.send",
            "producer",
            parent=traceparent,
            messaging__system="redis",
            messaging__operation__type="send",
            messaging__destination__name=lane.queue,
            messaging__message__id=task_id,
        ):
            self.send_raw(lane, TASK_NAME, [], message, task_id)

    def send_raw(
        self, lane: Lane, task: str, args: list[Any], kwargs: dict[str, Any], task_id: str | None = None
    ) -> None:
        """Enqueues any arguments, as they are. Raises HouseError."""
        own = tracing.traceparent()
        try:
            with redis_away():
                self._app.send_task(
                    task,
                    args=args,
                    kwargs=kwargs,
                    task_id=task_id,
                    # Naming the queue alone publishes through the default exchange, which needs no binding in Redis.
                    queue=lane.queue,
                    # For whoever wants to know how long the oldest message has waited.
                    headers={"sent_at": round(time(), 3), **({"traceparent": own} if own else {})},
                    # What Flower shows, and whoever else reads events: no URIs, which may be presigned.
                    argsrepr="",
                    kwargsrepr=str(summary_of(args, kwargs)),
                )
        except OperationalError as error:
            raise _arno_error(error) from error


def check_broker(app: Celery) -> None:
    """Opens a connection as sending does. Raises HouseError."""
    try:
        with redis_away(), app.connection_for_write() as connection:
            connection.connect()
    except OperationalError as error:
        raise _arno_error(error) from error


def queue_length(redis: RedisClient, lane: Lane) -> int:
    """Messages that wait in a lane, those in workers' hands not counted. Raises HouseError."""
    with redis_away():
        return sum(int(redis.llen(name)) for name in _lists(lane))


def queue_bytes(redis: RedisClient, lane: Lane) -> int:
    """About how much memory the messages take that wait in a lane; 0 where the server does not let us ask. Raises
    HouseError."""
    with redis_away(), redis.pipeline(transaction=False) as asking:
        for name in _lists(lane):
            asking.memory_usage(name)
        return sum(size for size in asking.execute(raise_on_error=False) if isinstance(size, int))


def _lists(lane: Lane) -> list[str]:
    """Also where older workers left messages to newer ones."""
    return [name for queue in lane.queues(SCHEMA_VERSION) for name in lists(queue)]


def message_bytes(message: dict[str, Any]) -> int:
    """About how much memory a chunk, as it travels, takes while it waits in a lane."""
    return _ENVELOPE_BYTES + len(json.dumps(message)) * 4 // 3


def node_names(app: Celery, timeout_s: float = 1.0) -> list[str]:
    """Names of the workers that answer within `timeout_s`. Raises HouseError."""
    try:
        answers = _ping(app, timeout_s)
    except HouseError:
        # Asked once more: a kept connection may have been dropped while nobody used it.
        answers = _ping(app, timeout_s)
    return sorted(name for answer in answers for name in answer)


def _ping(app: Celery, timeout_s: float) -> list[dict[str, Any]]:
    try:
        with redis_away():
            answers: list[dict[str, Any]] = app.control.ping(timeout=timeout_s)
    except OperationalError as error:
        raise _arno_error(error) from error
    return answers


def _arno_error(error: OperationalError) -> ArnoError:
    """What kombu made of an error of Redis's or of the network."""
    cause = error.__cause__
    return arno_error(cause if isinstance(cause, exceptions.RedisError) else exceptions.ConnectionError(str(error)))
