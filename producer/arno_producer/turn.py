"""Whose turn it is to submit a job: of several that submit the same one at the same time, one sends it, and the others
wait until it has.

One that dies, or whose source is slow, loses its turn after some seconds. Then two may send, which is harmless: it is
why this need be no more than a lock that runs out.
"""

from contextlib import suppress
from types import TracebackType
from typing import Self

from redis.exceptions import LockError

from arno_shared.errors import HouseError
from arno_shared.names import turn_key
from arno_shared.redis_client import RedisClient, redis_away

LEASE_S = 15


class Turn:
    """Given up at the end of its block."""

    def __init__(self, redis: RedisClient, job_id: str) -> None:
        self._lock = redis.lock(turn_key(job_id), timeout=LEASE_S, blocking=False, thread_local=False)

    def take(self) -> bool:
        """Whether nobody else has it. Raises HouseError."""
        with redis_away():
            return bool(self._lock.acquire())

    def keep(self) -> None:
        """Called now and then by whoever sends. Raises HouseError."""
        with redis_away():
            try:
                self._lock.reacquire()
            except LockError:
                self._lock.acquire()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It runs out by itself where this does not come through.
        with suppress(HouseError), redis_away(), suppress(LockError):
            self._lock.release()
