"""Who works: what each worker says of itself every few seconds, in Redis. Time is the server's, on no machine's clock.

A worker that says nothing more is silent at first, so that somebody sees that it died and what it was doing, and is
then forgotten. One that stops in good order takes its leave.
"""

import re
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from pydantic import ConfigDict, ValidationError

from arno_shared.messages import WireModel
from arno_shared.names import WORKERS, worker_key
from arno_shared.redis_client import RedisClient, redis_away

SAY_EVERY_S = 5.0
SILENT_AFTER_S = 30.0
FORGET_AFTER_S = 600

_LACK = re.compile(" but for |, without ")


class WorkerState(WireModel):
    """What a worker says of itself. Its times are by its own clock."""

    # Read by commands that may be older than the worker.
    model_config = ConfigDict(extra="ignore")

    worker: str
    """`name@host`"""
    device: str
    model: str
    revision: str
    dtype: str
    adapter: str = ""
    """The LoRA adapter that was merged into the model."""
    adapter_revision: str = ""
    provenance: str = ""
    """What was read of the model, and from where: its layout, and by which rules it answers; empty until it is
    loaded."""
    execution: str = ""
    """How its replica computes, in a few words; empty until it is loaded."""
    phase: str
    """loading, working or draining."""
    ailment: str = ""
    """Why its watchdog is about to end it."""
    pid: int
    version: str
    """Of Arno."""
    schema_version: int
    """The newest that it speaks."""
    health: str
    """`host:port`, where `/healthz` and `/readyz` answer."""
    started_at: datetime
    last_commit_at: datetime | None = None
    chunks_in_flight: int
    chunks_committed: int
    images_done: int
    """Images of committed chunks, ok or failed."""

    @property
    def computes(self) -> str:
        """`execution` without what it lacks: the two are the same where all that was asked for works."""
        return _LACK.split(self.execution, maxsplit=1)[0]


class SeenWorker(NamedTuple):
    worker: str
    seen_s_ago: float
    state: WorkerState | None
    """What it last said; None when this version of Arno cannot read it."""

    @property
    def silent(self) -> bool:
        """It died, or cannot reach Redis."""
        return self.seen_s_ago > SILENT_AFTER_S


def announce(redis: RedisClient, state: WorkerState) -> None:
    """Says that the worker is there, and how it is. Raises HouseError."""
    say = redis.register_script(_script())
    with redis_away():
        say(
            keys=[WORKERS, worker_key(state.worker)],
            args=[state.worker, state.model_dump_json(exclude_none=True), FORGET_AFTER_S],
        )


def withdraw(redis: RedisClient, worker: str) -> None:
    """The worker stops, in good order. Raises HouseError."""
    with redis_away():
        redis.zrem(WORKERS, worker)
        redis.delete(worker_key(worker))


def workers(redis: RedisClient) -> list[SeenWorker]:
    """Every worker heard of in the last `FORGET_AFTER_S`, by name. Raises HouseError."""
    with redis_away():
        heard = redis.zrange(WORKERS, 0, -1, withscores=True)
        # Asked after the scores, so that nobody was heard in the future.
        seconds, microseconds = redis.time()
        ages_s = {name.decode(): seconds + microseconds / 1e6 - at for name, at in heard}
        names = sorted(name for name, age_s in ages_s.items() if age_s < FORGET_AFTER_S)
        said = redis.mget([worker_key(name) for name in names]) if names else []
    return [SeenWorker(name, ages_s[name], _read(state)) for name, state in zip(names, said, strict=True)]


def _read(state: bytes | None) -> WorkerState | None:
    try:
        return WorkerState.model_validate_json(state or b"")
    except ValidationError:
        return None


@cache
def _script() -> str:
    return (files("arno_shared") / "presence.lua").read_text()
