"""Signs of life of a worker: written where things happen, read by its watchdog, its health pages and its presence."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from threading import Lock
from time import monotonic

_REFUSAL_HOLDS_S = 30.0
"""A consumer that was refused asks again within seconds; one that has not asked for so long is silent."""


class Phase(StrEnum):
    LOADING = "loading"
    """The replica is being loaded and warmed."""
    WORKING = "working"
    DRAINING = "draining"
    """Told to stop: what is in hand is finished or handed back."""


class Vitals:
    """Thread-safe. Ages are in seconds, by the clock that never jumps."""

    def __init__(self) -> None:
        self.phase = Phase.LOADING
        self.started_at = datetime.now(UTC)
        self.ailment = ""
        """Why the watchdog is about to end this worker; empty while all is well."""
        self.last_commit_at: datetime | None = None
        self.chunks_committed = 0
        self.images_done = 0
        """Images of committed chunks, ok or failed."""
        self.chunks_in_flight = 0
        self.room_chunks = 1
        """Chunks that may be in flight at a time."""
        self._lock = Lock()
        self._progressed_s = self._consumer_s = monotonic()
        self._refusal = ""
        self._refused_s = 0.0

    def progressed(self) -> None:
        """Something moved: an image settled, a step of the engine ended, the house was waited for."""
        self._progressed_s = monotonic()

    def consumer_beat(self) -> None:
        """Redis answered the consumer, be it that there is nothing to do."""
        self._consumer_s = monotonic()
        self._refusal = ""

    def consumer_refused(self, why: str) -> None:
        """Redis is away, or gave the consumer an answer that is none."""
        self._refusal, self._refused_s = why, monotonic()

    @property
    def refusal(self) -> str:
        """Why the consumer's last question was not answered; empty when it was, or when it has asked nothing since."""
        return self._refusal if monotonic() - self._refused_s < _REFUSAL_HOLDS_S else ""

    @property
    def progress_age_s(self) -> float:
        return monotonic() - self._progressed_s

    @property
    def consumer_age_s(self) -> float:
        """A consumer that has no room for more asks for nothing, and is well."""
        if self.chunks_in_flight >= self.room_chunks:
            self.consumer_beat()
        return monotonic() - self._consumer_s

    @contextmanager
    def chunk(self) -> Iterator[None]:
        """A chunk in flight."""
        with self._lock:
            self.chunks_in_flight += 1
        self.progressed()
        try:
            yield
        finally:
            with self._lock:
                self.chunks_in_flight -= 1
            self.progressed()

    def committed(self, images: int) -> None:
        with self._lock:
            self.chunks_committed += 1
            self.images_done += images
            self.last_commit_at = datetime.now(UTC)
