"""Keeps a worker's entry in Redis fresh, for `arno workers` and `arno doctor`."""

import os
from collections.abc import Callable
from threading import Event, Thread

from arno_shared import __version__
from arno_shared.logs import get_logger
from arno_shared.messages import SCHEMA_VERSION
from arno_shared.presence import SAY_EVERY_S, WorkerState, announce, withdraw
from arno_shared.redis_client import RedisClient
from arno_shared.results import ModelFacts
from arno_shared.uris import redact
from arno_workers.health.vitals import Vitals

log = get_logger(__name__)

_LEAVE_WITHIN_S = 2.0
_LINE_CHARACTERS = 300


class Presence:
    """A thread that says every few seconds how the worker is. Nobody's work waits for it, or fails with it."""

    def __init__(
        self, redis: RedisClient, vitals: Vitals, *, worker: str, device: str, model: ModelFacts, health: str
    ) -> None:
        """`health`: the address of the health pages."""
        self.model = model
        """What was asked for; whoever loads the replica sets what it is."""
        self.provenance = ""
        """What was read of it, and from where; set likewise."""
        self.execution: Callable[[], str] = str
        """How the replica computes; set likewise."""
        self._redis, self._vitals = redis, vitals
        self._worker, self._device, self._health = worker, device, health
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Takes the worker's leave. Where Redis is away it is not waited for: the entry ages."""
        self._stopping.set()
        self._thread.join(_LEAVE_WITHIN_S)

    def _run(self) -> None:
        is_heard = True
        while not self._stopping.is_set():
            is_heard = self._say(was_heard=is_heard)
            self._stopping.wait(SAY_EVERY_S)
        try:
            withdraw(self._redis, self._worker)
        except Exception as error:
            log.warning("the worker leaves unannounced", error=str(error))

    def _say(self, *, was_heard: bool) -> bool:
        """Whether Redis took it. An outage is logged once."""
        try:
            announce(self._redis, self._state())
        except Exception as error:
            if was_heard:
                log.warning("the worker cannot say that it is there", error=str(error))
            return False
        if not was_heard:
            log.info("the worker says again that it is there")
        return True

    def _state(self) -> WorkerState:
        vitals, model = self._vitals, self.model
        return WorkerState(
            worker=self._worker,
            device=self._device,
            model=redact(model.id),
            revision=model.revision,
            dtype=model.dtype,
            adapter=redact(model.adapter or ""),
            adapter_revision=model.adapter_revision or "",
            provenance=_line(self.provenance),
            execution=_line(self.execution()),
            phase=vitals.phase.value,
            ailment=redact(vitals.ailment),
            pid=os.getpid(),
            version=__version__,
            schema_version=SCHEMA_VERSION,
            health=self._health,
            started_at=vitals.started_at,
            last_commit_at=vitals.last_commit_at,
            chunks_in_flight=vitals.chunks_in_flight,
            chunks_committed=vitals.chunks_committed,
            images_done=vitals.images_done,
        )


def _line(text: str) -> str:
    """Errors that it tells of may be long, and of many lines."""
    return " ".join(redact(text).split())[:_LINE_CHARACTERS]
