"""What waits, what is in hand, and what was given up?"""

from collections.abc import Iterator

from arno_producer.cli.doctor.findings import Finding, Verdict
from arno_shared.broker import queue_length
from arno_shared.names import DEAD_LETTERS, UNACKED, Lane
from arno_shared.presence import workers
from arno_shared.redis_client import RedisClient, redis_away

_NEWEST_VERSION = 9
"""Of the schema, as far as anybody looks."""


def check_queues(redis: RedisClient) -> Iterator[Finding]:
    """Raises HouseError."""
    waiting = ", ".join(f"{queue_length(redis, lane):,} in {lane}" for lane in Lane)
    with redis_away():
        in_hand = redis.hlen(UNACKED)
        dead = redis.xlen(DEAD_LETTERS)
    yield Finding("queues", Verdict.OK, f"chunks that wait: {waiting}; in workers' hands: {in_hand:,}")
    yield from _newer_messages(redis)
    if dead:
        yield Finding("dead letters", Verdict.NOTE, f"{dead:,} wait", "arno dead list; then arno dead replay or purge")
    else:
        yield Finding("dead letters", Verdict.OK, "none")


def _newer_messages(redis: RedisClient) -> Iterator[Finding]:
    """Messages that were left to newer workers: they wait in queues of their own."""
    spoken = max((seen.state.schema_version for seen in workers(redis) if seen.state and not seen.silent), default=0)
    for version in range(2, _NEWEST_VERSION + 1):
        with redis_away():
            waiting = {lane: redis.llen(lane.queue_for(version)) for lane in Lane}
        if any(waiting.values()):
            says = ", ".join(f"{count:,} wait in {lane}" for lane, count in waiting.items() if count)
            mend = f"start workers that speak schema version {version}" if version > spoken else ""
            yield Finding(f"messages of schema version {version}", Verdict.NOTE, says, mend)
