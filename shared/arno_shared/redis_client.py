"""The connection to Redis or Valkey that everything but Celery's broker uses."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from arno_shared.errors import HouseError
from arno_shared.settings import Settings
from arno_shared.uris import redact

RedisClient: TypeAlias = Any
"""A `redis.Redis` that answers bytes. redis-py types its answers as awaitable or not, which no caller can use."""


def connect(settings: Settings) -> RedisClient:
    """A thread-safe client; nothing is sent before its first command."""
    return redis.Redis.from_url(
        settings.redis_url,
        socket_timeout=settings.broker.socket_timeout_s,
        socket_connect_timeout=settings.broker.connect_timeout_s,
        socket_keepalive=True,
        health_check_interval=10,
        # One quick retry hides a dropped idle connection; longer outages are for the caller to wait out.
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 1),
    )


@contextmanager
def redis_away() -> Iterator[None]:
    """Turns "cannot be reached, is loading, is full, is a replica" into HouseError; other answers pass."""
    try:
        yield
    except (
        redis.ConnectionError,
        redis.TimeoutError,
        redis.exceptions.OutOfMemoryError,
        redis.ReadOnlyError,
        redis.exceptions.MasterDownError,
    ) as error:
        raise HouseError(f"Redis cannot be used: {redact(str(error))}") from error
    except redis.ResponseError as error:
        if str(error).startswith(("OOM", "LOADING", "READONLY", "MASTERDOWN", "MISCONF", "NOREPLICAS")):
            raise HouseError(f"Redis cannot be used: {error}") from error
        raise
