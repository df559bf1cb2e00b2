"""Time passes in the server, for all that it keeps times of; nothing that is tested waits."""

from arno_shared.names import DELAYED, JOBS, LIVE, UNACKED_INDEX, WORKERS
from arno_shared.redis_client import RedisClient

_TIMED = (LIVE, DELAYED, UNACKED_INDEX, JOBS, WORKERS)
"""Sorted sets that are scored by times, in seconds."""

_PASS = """
local seconds = tonumber(ARGV[1])
for _, key in ipairs(KEYS) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -seconds, member) end
end
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left_ms = redis.call('PTTL', key)
  if left_ms >= 0 then redis.call('PEXPIRE', key, left_ms - 1000 * seconds) end
end
"""


def pass_time(redis: RedisClient, seconds: float) -> None:
    """What is due by then is due; what would be gone by then is gone."""
    redis.eval(_PASS, len(_TIMED), *_TIMED, int(seconds))
