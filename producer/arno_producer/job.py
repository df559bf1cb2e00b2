"""A job, as its producer sees it: how far it is, what came out, and how to stop it."""

from collections.abc import Iterator
from time import monotonic, sleep
from typing import NamedTuple

from arno_shared.errors import JobConflict
from arno_shared.ledger import TERMINAL_STATES, JobState, JobStatus, Ledger, indices_of
from arno_shared.names import part_uri
from arno_shared.parts import decode_part
from arno_shared.results import ResultRow, Status
from arno_shared.storage import ObjectStore

_POLL_S = 0.3
_WINDOW_CHUNKS = 8192
"""Chunks whose bits are fetched and compared at a time: 1 kB."""


class Job:
    def __init__(self, job_id: str, ledger: Ledger, store: ObjectStore) -> None:
        self.id = job_id
        self._ledger, self._store = ledger, store

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def status(self) -> JobStatus:
        """Raises JobNotFound, HouseError."""
        return self._ledger.status(self.id)

    def wait(self, timeout_s: float | None = None) -> JobStatus:
        """The status once the job is done or cancelled. Raises TimeoutError when it is not by then."""
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
        return self._ledger.cancel(self.id)

    def pause(self) -> JobState:
        """The job stands still: chunks in hand are finished, others are kept until `unpause`. Returns the state that it
        is in now. Raises JobNotFound, and JobConflict when the job has ended."""
        return self._movable(self._ledger.pause(self.id), "paused")

    def unpause(self) -> JobState:
        """A paused job goes on. Returns the state that it is in now. Raises as `pause` does."""
        return self._movable(self._ledger.unpause(self.id), "resumed")

    def _movable(self, state: JobState, moved: str) -> JobState:
        if state in TERMINAL_STATES:
            raise JobConflict(f"job {self.id!r} is {state.value}, and cannot be {moved}")
        return state

    def results(self) -> Iterator[ResultRow]:
        """The result rows, from storage, as chunks commit; ends when the job does. Submission order is not kept.

        Each image comes once; when it was given up and replayed meanwhile, only what became of it last.
        Raises NotFound when a result object has been deleted.
        """
        seen: dict[int, bytes] = {}
        read_retries: set[tuple[int, int]] = set()
        while True:
            # Asked for before the parts are, so that none is committed in between and missed.
            status = self.status()
            retries = self._ledger.committed_retries(self.id)
            for index in self._new_chunks(status.chunks, seen):
                yield from self.rows_of(status, index, 1, retries)
            for index, attempt in sorted(retries - read_retries):
                yield from self.rows_of(status, index, attempt, retries)
            read_retries |= retries
            if status.finished:
                return
            sleep(_POLL_S)

    def _new_chunks(self, chunks: int, seen: dict[int, bytes]) -> Iterator[int]:
        """Chunks committed since the last look; `seen` holds each window's bits as they were then."""
        for first in range(0, chunks, _WINDOW_CHUNKS):
            bits = self._ledger.committed_bits(self.id, first, _WINDOW_CHUNKS)
            before = seen.get(first, b"")
            if bits != before:
                seen[first] = bits
                fresh = bytes(
                    now & ~then & 0xFF for now, then in zip(bits, before.ljust(len(bits), b"\0"), strict=True)
                )
                yield from indices_of(fresh, first)

    def later_attempts(self) -> set[tuple[int, int]]:
        """`(index, attempt)` of those that are committed."""
        return self._ledger.committed_retries(self.id)

    def settled_chunks(self, first: int, count: int) -> dict[int, bool]:
        """Which of the chunks `first … first + count - 1` have ended, and whether they have a result object."""
        # Asked for first: a chunk that was given up may be committed after all, and never the other way round.
        buried = self._ledger.buried_indices(self.id)
        committed = self._ledger.committed_indices(self.id, first, count)
        return {index: False for index in buried if first <= index < first + count} | dict.fromkeys(committed, True)

    def rows_of(
        self, status: JobStatus, index: int, attempt: int, retries: set[tuple[int, int]]
    ) -> Iterator[ResultRow]:
        """The rows of a committed attempt, but for those that a later one has superseded."""
        rows = self._part(status, index, attempt)
        if (index, attempt + 1) not in retries:
            yield from rows
            return
        superseded = {(row.image.uri, row.image.id) for row in self._part(status, index, attempt + 1)}
        for row in rows:
            if row.status is Status.OK or (row.image.uri, row.image.id) not in superseded:
                yield row

    def _part(self, status: JobStatus, index: int, attempt: int) -> list[ResultRow]:
        uri = part_uri(status.output_prefix, index, attempt, status.output_format)
        return decode_part(self._store.get(uri), status.output_format)


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
