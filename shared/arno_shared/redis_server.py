"""Is this a server that Arno can work with?"""

import re

import redis as redis_py

from arno_shared.errors import RedisRefused
from arno_shared.redis_answers import NEWER, ONE_SERVER
from arno_shared.redis_client import RedisClient, redis_away

_OLDEST = (6, 2)


def check_server(redis: RedisClient) -> None:
    """Raises RedisRefused where it is too old or a cluster, and HouseError. Whoever may not ask is not refused."""
    with redis_away():
        try:
            info = redis.info()
        except redis_py.exceptions.NoPermissionError:
            return
    if info.get("cluster_enabled"):
        raise RedisRefused(f"Redis cannot be used: {ONE_SERVER}")
    # Valkey says there which Redis it is like.
    version = re.match(r"(\d+)\.(\d+)", str(info.get("redis_version")))
    if version and (int(version[1]), int(version[2])) < _OLDEST:
        raise RedisRefused(f"Redis {info['redis_version']} is too old: {NEWER}")
