"""The connection to Redis or Valkey that everything but Celery's broker uses."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from arno_shared.key_prefix import client_class
from arno_shared.redis_answers import arno_error
from arno_shared.redis_url import RedisUrl, parse_redis_url
from arno_shared.settings import Settings

RedisClient: TypeAlias = Any
"""A `redis.Redis` that answers bytes. redis-py types its answers as awaitable or not, which no caller can use."""


def connect(settings: Settings) -> RedisClient:
    """A thread-safe client that puts the settings' prefix before every key; nothing is sent before its first command.

    Raises ValueError when the URL is wrong.
    """
    url = parse_redis_url(settings.redis_url)
    # One quick retry hides a dropped idle connection; longer outages are for the caller to wait out.
    options = {**connection_options(settings, url), "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), 1)}
    pool = _pool_of_the_master(url, options) if url.kind == "sentinel" else pool_of_one(url, options)
    return client_class(settings.key_prefix).from_pool(pool)


def connection_options(settings: Settings, url: RedisUrl) -> dict[str, Any]:
    """What Arno's own connections and Celery's are both told; the URL has the last word."""
    return {
        # A frozen server must not hang a worker or a producer for ever.
        "socket_timeout": settings.broker.socket_timeout_s,
        "socket_connect_timeout": settings.broker.connect_timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 10,
        **url.options,
    }


def pool_of_one(url: RedisUrl, options: dict[str, Any]) -> ConnectionPool:
    """Connections to one server."""
    ((host, port),) = url.hosts
    return ConnectionPool(
        connection_class=SSLConnection if url.tls else Connection,
        host=host,
        port=port,
        username=url.user,
        password=url.password,
        db=url.db,
        **options,
        **url.tls_options,
    )


def _pool_of_the_master(url: RedisUrl, options: dict[str, Any]) -> SentinelConnectionPool:
    """Connections to whichever server the sentinels call the master when each of them is opened."""
    connect_timeout_s = options["socket_connect_timeout"]
    asking = {
        # A part of connecting; the retry is the next sentinel.
        "socket_timeout": connect_timeout_s,
        "socket_connect_timeout": connect_timeout_s,
        "retry": Retry(NoBackoff(), 0),
        # By name: over RESP2, sentinels that have no password refuse one that comes alone.
        **({"username": "default", "password": url.password} if url.password else {}),
    }
    sentinels = Sentinel(url.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    return SentinelConnectionPool(  # type: ignore[no-untyped-call]
        url.master, sentinels, username=url.user, password=url.password, db=url.db, **options
    )


@contextmanager
def redis_away() -> Iterator[None]:
    """Lets no error of redis-py's out: each becomes HouseError (it may pass), RedisRefused, which is one (somebody must
    mend it), or InternalError (Redis was asked wrongly)."""
    try:
        yield
    except redis.RedisError as error:
        raise arno_error(error) from error
