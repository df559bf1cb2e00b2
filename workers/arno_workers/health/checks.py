"""What a worker depends on, looked at in the background every few seconds: whoever asks is answered at once."""

from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from time import monotonic
from typing import NamedTuple

from arno_shared.errors import AccessDenied, ArnoError, NotFound
from arno_shared.names import job_record_uri
from arno_shared.redis_client import RedisClient, redis_away
from arno_shared.storage import ObjectStore
from arno_shared.uris import redact

_EVERY_S = 2.0
_PATIENCE_S = 2.0


class Verdict(NamedTuple):
    ok: bool
    reason: str = ""
    """Why not. Holds no secrets."""


class Check:
    """One thing, looked at again and again by a thread of its own; that thread may hang as long as it likes."""

    def __init__(self, name: str, look: Callable[[], None], stopping: Event) -> None:
        """`look` raises when something is wrong."""
        self._name, self._look, self._stopping = name, look, stopping
        self._verdict = Verdict(False, "not looked at yet")
        self._began_s: float | None = None

    def start(self) -> None:
        Thread(target=self._run, name=f"check-{self._name}", daemon=True).start()

    @property
    def verdict(self) -> Verdict:
        """What the last look found, unless the present one has gone on for too long."""
        began_s = self._began_s
        if began_s is not None and (waited_s := monotonic() - began_s) > _PATIENCE_S:
            return Verdict(False, f"no answer for {waited_s:.0f} s")
        return self._verdict

    def _run(self) -> None:
        while True:
            self._began_s = monotonic()
            self._verdict = self._find()
            self._began_s = None
            if self._stopping.wait(_EVERY_S):
                return

    def _find(self) -> Verdict:
        try:
            self._look()
        except Exception as error:
            return Verdict(False, redact(str(error) if isinstance(error, ArnoError) else repr(error)))
        return Verdict(True)


def house_checks(redis: RedisClient, store: ObjectStore, output_prefix: str) -> dict[str, Callable[[], None]]:
    """Redis answers, and so does the storage below `output_prefix`. Nothing is written."""

    def redis_answers() -> None:
        with redis_away():
            redis.ping()

    def storage_answers() -> None:
        # A look alone (HEAD) would not tell wrong credentials from an object that is missing.
        with suppress(NotFound, AccessDenied):
            store.get(job_record_uri(output_prefix), max_bytes=2**20)

    return {"redis": redis_answers, "storage": storage_answers}
