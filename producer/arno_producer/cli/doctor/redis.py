"""Is Redis there, and does it keep what it is given?"""

from collections.abc import Iterator

import redis

from arno_producer.cli.doctor.findings import Finding, Verdict
from arno_producer.client import Producer
from arno_shared.broker import check_broker
from arno_shared.errors import HouseError
from arno_shared.redis_client import redis_away

_OLDEST = (6, 2)


def check_redis(producer: Producer) -> Iterator[Finding]:
    """The first finding says whether Redis can be used at all, by Arno's own connections and by those that Celery sends
    messages over."""
    url = producer.settings.redis_url
    try:
        with redis_away():
            info = producer.redis.info()
        check_broker(producer.app)
    except (HouseError, redis.ResponseError) as error:
        yield Finding(
            "redis",
            Verdict.FAILED,
            f"{url}: {error}",
            "start Redis there, or set ARNO_REDIS_URL; user and password go in it",
        )
        return
    name, version = ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info["redis_version"])
    if tuple(map(int, info["redis_version"].split(".")[:2])) < _OLDEST:
        yield Finding(
            "redis", Verdict.FAILED, f"{name} {version} at {url} is too old", "use Redis 6.2, Valkey or newer"
        )
    else:
        yield Finding("redis", Verdict.OK, f"{name} {version} at {url}")
    yield _persistence(info["aof_enabled"])
    yield _eviction(info["maxmemory_policy"])


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
