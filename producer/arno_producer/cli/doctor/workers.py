"""Who works, and what waits?"""

from collections.abc import Iterator

from arno_producer.cli.doctor.findings import Finding, Verdict
from arno_producer.client import Producer
from arno_shared.broker import node_names, queue_length
from arno_shared.names import DEAD_LETTERS, Lane
from arno_shared.redis_client import redis_away

_ANSWER_S = 1.0


def check_workers(producer: Producer) -> Iterator[Finding]:
    """Raises HouseError."""
    names = node_names(producer.app, _ANSWER_S)
    if names:
        yield Finding("workers", Verdict.OK, f"{len(names)} answered: {', '.join(names)}")
    else:
        yield Finding("workers", Verdict.NOTE, f"none answered within {_ANSWER_S:g} s", "start one: arno-worker")
    waiting = (f"{queue_length(producer.redis, lane):,} in {lane}" for lane in Lane)
    yield Finding("queues", Verdict.OK, f"chunks that wait: {', '.join(waiting)}")
    with redis_away():
        dead = producer.redis.xlen(DEAD_LETTERS)
    if dead:
        yield Finding("dead letters", Verdict.NOTE, f"{dead:,} wait", "arno dead list; then arno dead replay or purge")
    else:
        yield Finding("dead letters", Verdict.OK, "none")
