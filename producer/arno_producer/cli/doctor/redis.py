"""Is Redis there, can Arno work with it, and does it keep what it is given?"""

from collections.abc import Iterator
from typing import Any

import redis

from arno_producer.cli.doctor.findings import Finding, Verdict
from arno_producer.client import Producer
from arno_shared.broker import check_broker
from arno_shared.errors import ArnoError, RedisRefused
from arno_shared.redis_client import redis_away
from arno_shared.redis_server import check_server


def check_redis(producer: Producer) -> Iterator[Finding]:
    """The first finding says whether Redis can be used at all, by Arno's own connections and by those that Celery sends
    messages over."""
    url = producer.settings.redis_url
    try:
        check_server(producer.redis)
        check_broker(producer.app)
        info = _info(producer)
    except ArnoError as error:
        mend = "mend it there" if isinstance(error, RedisRefused) else "start Redis there"
        yield Finding(
            "redis", Verdict.FAILED, f"{url}: {error}", f"{mend}, or set ARNO_REDIS_URL; user and password go in it"
        )
        return
    if not info:
        yield Finding("redis", Verdict.OK, f"it answers at {url}")
        yield Finding(
            "persistence and eviction",
            Verdict.NOTE,
            "not known: Redis does not let its user ask",
            "ACL SETUSER name +info in Redis",
        )
        return
    name, version = ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info["redis_version"])
    yield Finding("redis", Verdict.OK, f"{name} {version} at {url}")
    yield _persistence(info["aof_enabled"])
    yield _eviction(info["maxmemory_policy"])


def _info(producer: Producer) -> dict[str, Any]:
    """Empty where it may not be asked for."""
    with redis_away():
        try:
            return dict(producer.redis.info())
        except redis.exceptions.NoPermissionError:
            return {}


def _persistence(aof_enabled: int) -> Finding:
    if aof_enabled:
        return Finding("persistence", Verdict.OK, "append-only file")
    return Finding(
        "persistence",
        Verdict.NOTE,
        "no append-only file: when Redis restarts, queues and jobs are gone",
        "set appendonly yes in Redis; after a loss, submit again with the same job id and output",
    )


def _eviction(policy: str) -> Finding:
    if policy == "noeviction":
        return Finding("eviction", Verdict.OK, policy)
    return Finding(
        "eviction",
        Verdict.FAILED,
        f"maxmemory-policy is {policy}: when memory is short, Redis drops jobs in silence",
        "set maxmemory-policy noeviction in Redis",
    )
