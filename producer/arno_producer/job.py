"""A job, as its producer sees it: how far it is, what came out, and how to stop it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from time import monotonic, sleep
from typing import NamedTuple

from arno_shared.errors import JobConflict
from arno_shared.ledger import TERMINAL_STATES, Commit, JobState, JobStatus, Ledger, indices_of
from arno_shared.names import part_uri
from arno_shared.parts import decode_part
from arno_shared.places import superseded
from arno_shared.results import ResultRow
from arno_shared.storage import ObjectStore

_POLL_S = 0.3
_WINDOW_CHUNKS = 8192
"""Chunks whose bits are fetched and compared at a time: 1 kB."""
_WINDOW_PARTS = 256
"""Attempts whose later ones are asked for at a time."""


class Job:
    def __init__(self, job_id: str, ledger: Ledger, store: ObjectStore) -> None:
        self.id = job_id
        self._ledger, self._store = ledger, store

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def status(self) -> JobStatus:
        """Raises JobNotFound, HouseError."""
        return self.ledger.status(self.id)

    def wait(self, timeout_s: float | None = None) -> JobStatus:
        """The status once the job has ended. Raises TimeoutError when it is not by then."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while not (status := self.status()).finished:
            if deadline is not None and monotonic() >= deadline:
                raise TimeoutError(
                    f"job {self.id} is not finished after {timeout_s} s: {status.settled} of {status.images} images"
                )
            sleep(_POLL_S)
        return status

    def cancel(self) -> JobState:
        """Stops a running job: chunks that no worker has begun are dropped. Returns the state that it is in now."""
        return self.ledger.cancel(self.id)

    def pause(self) -> JobState:
        """The job stands still: chunks in hand are finished, others are kept until `unpause`. Returns the state that it
        is in now. Raises JobNotFound, and JobConflict when the job has ended."""
        return self._movable(self.ledger.pause(self.id), "paused")

    def unpause(self) -> JobState:
        """A paused job goes on. Returns the state that it is in now. Raises as `pause` does."""
        return self._movable(self.ledger.unpause(self.id), "resumed")

    def _movable(self, state: JobState, moved: str) -> JobState:
        if state in TERMINAL_STATES:
            raise JobConflict(f"job {self.id!r} is {state.value}, and cannot be {moved}")
        return state

    def results(self) -> Iterator[ResultRow]:
        """The result rows, from storage, as chunks commit; ends when the job does. Submission order is not kept.

        Each image comes once. One that was given up and replayed after its row came, comes again: of two rows of the
        same index and position, the one with more attempts counts. Raises JobNotFound, HouseError, and NotFound when a
        result object has been deleted.
        """
        given = _Given()
        while True:
            # Asked for before the parts are, so that none is committed in between and missed.
            status = self.status()
            for window in self._committed(status, given):
                later = self.ledger.later_attempts(self.id, window)
                for index, attempt in window:
                    rows = self.rows_of(status, index, attempt, later[index, attempt])
                    yield from (row for row in rows if row is not None)
            if status.finished:
                return
            sleep(_POLL_S)

    def _committed(self, status: JobStatus, given: "_Given") -> Iterator[list[tuple[int, int]]]:
        """`(index, attempt)` of what was committed since the last look, some at a time."""
        # The log of a job of messages has first attempts too, and their indices may be anything.
        if status.origin != "message":
            for first in range(0, self.ledger.committed_chunks(self.id), _WINDOW_CHUNKS):
                fresh = given.firsts(first, self.ledger.committed_bits(self.id, first, _WINDOW_CHUNKS))
                while window := list(islice(fresh, _WINDOW_PARTS)):
                    yield [(index, 1) for index in window]
        if not self.ledger.has_logged(self.id, given.at_us):
            # It was rebuilt, and may have anything before that.
            given.at_us = 0
        while entries := self.ledger.commits(self.id, given.at_us, _WINDOW_PARTS):
            given.at_us = entries[-1].at_us
            yield [(entry.index, entry.attempt) for entry in entries if given.takes(entry)]

    def rows_of(self, status: JobStatus, index: int, attempt: int, later: Sequence[Commit]) -> list[ResultRow | None]:
        """The rows of a committed attempt; None in place of those that have a next one in a later attempt."""
        rows = self._part(status, index, attempt)
        gone = superseded(rows, [row for commit in later for row in self._part(status, index, commit.attempt)])
        return [None if number in gone else row for number, row in enumerate(rows)]

    def _part(self, status: JobStatus, index: int, attempt: int) -> list[ResultRow]:
        uri = part_uri(status.output_prefix, index, attempt, status.output_format)
        return decode_part(self._store.get(uri), status.output_format)


class _Given:
    """Which attempts' rows were given. What a fail-over forgets, and workers commit again, is not given again."""

    def __init__(self) -> None:
        self.at_us = 0
        """Of the log's last entry that was read."""
        self._firsts: dict[int, int] = defaultdict(int)
        """First attempts, as the bits of one number for each window."""
        self._later: set[tuple[int, int]] = set()

    def firsts(self, first: int, bits: bytes) -> Iterator[int]:
        """Which of a window's committed chunks are new; see `Ledger.committed_bits`."""
        now = int.from_bytes(bits.ljust(_WINDOW_CHUNKS // 8, b"\0"), "big")
        fresh = now & ~self._firsts[first]
        self._firsts[first] |= now
        return indices_of(fresh.to_bytes(_WINDOW_CHUNKS // 8, "big"), first)

    def takes(self, entry: Commit) -> bool:
        """Whether an entry of the log has rows, and is new."""
        if entry.attempt == 1:
            first, bit = (
                entry.index - entry.index % _WINDOW_CHUNKS,
                1 << (_WINDOW_CHUNKS - 1 - entry.index % _WINDOW_CHUNKS),
            )
            is_new = not self._firsts[first] & bit
            self._firsts[first] |= bit
            return is_new
        is_new = bool(entry.attempt) and (entry.index, entry.attempt) not in self._later
        self._later.add((entry.index, entry.attempt))
        return is_new


class Sent(NamedTuple):
    """A job of one chunk."""

    job: Job
    duplicate: bool
    """It was sent before, and not now."""


class ResumedJob(Job):
    """A job that was resumed, and what was found and done of it: how many chunks were done already, and how many were
    enqueued."""

    def __init__(self, job_id: str, ledger: Ledger, store: ObjectStore, done_chunks: int, sent_chunks: int) -> None:
        super().__init__(job_id, ledger, store)
        self.done_chunks, self.sent_chunks = done_chunks, sent_chunks
