"""A job's result rows in pages, for readers that come and go.

Of jobs that somebody submitted, first attempts come in the order of submission, and after them what the job's log has:
later attempts, and first ones that a reader may have passed over because they were given up. Of jobs of messages, whose
indices say nothing, everything comes by the log. The log only grows, so that a place in it stays what it is for as long
as Redis keeps its data. A cursor says where its reader is, and which entry of the log must still stand for that to be
true: when a fail-over, or the loss of Redis, has taken it, the cursor is stale.
"""

import re
from typing import NamedTuple

from arno_producer.job import Job
from arno_shared.errors import CursorStale, InvalidRequest
from arno_shared.ledger import Commit, JobStatus
from arno_shared.results import ResultRow

CURSOR_PATTERN = r"^[0-9]{1,9}\.[0-2]\.[0-9]{1,9}(\.[0-9]{1,16}){0,3}$"
FIRST_PAGE = "0.0.0"

_WINDOW = 1024
"""Chunks, or entries of the log, that are asked for at a time."""

_BY_INDEX, _BY_LOG_AFTER_INDEX, _BY_LOG = range(3)


class ResultsPage(NamedTuple):
    rows: list[ResultRow]
    next_cursor: str | None
    """Where the next page begins; None when there will be none."""


class _Place(NamedTuple):
    chunk: int
    """By index: the first that was not read whole."""
    order: int
    row: int
    """Rows read of that chunk, or of the log's next commit, those counted that are not shown."""
    at_us: int = 0
    """By the log: when the last entry was made that was read whole."""
    relied_us: int = 0
    """The latest entry of the log for which something was passed over."""
    hidden_us: int = 0
    """By index: the latest commit for which rows were not shown, as they have a next one. A ledger that is rebuilt
    finds it in storage."""

    def cursor(self) -> str:
        fields = list(self)
        while len(fields) > 3 and not fields[-1]:
            fields.pop()
        return ".".join(map(str, fields))

    @classmethod
    def of(cls, cursor: str) -> "_Place":
        try:
            return cls(*map(int, check_cursor(cursor).split(".")))
        except ValueError as error:
            raise InvalidRequest(str(error)) from None


def check_cursor(cursor: str) -> str:
    """Raises ValueError when no page of results made it."""
    if not re.fullmatch(CURSOR_PATTERN, cursor):
        raise ValueError("this cursor was not made by a page of results: follow the link of the page before")
    return cursor


def results_page(job: Job, cursor: str, limit: int) -> ResultsPage:
    """Up to `limit` rows from where `cursor` says: first attempts in the order of submission, then later ones in the
    order in which they were committed; of a job of messages, all in that order.

    A chunk that is not done yet ends the page: its rows are on the next. Each image comes once. One that was given up
    and replayed after its row was read comes again: of two rows of the same index and position, the one with more
    attempts counts.

    Raises InvalidRequest (no such cursor), CursorStale when the ledger was rebuilt since and what comes next is no
    longer known, JobNotFound, HouseError, NotFound when a result object has been deleted.
    """
    return _Reader(job, _Place.of(cursor), limit).page()


class _Reader:
    def __init__(self, job: Job, place: _Place, limit: int) -> None:
        self._job, self._limit = job, limit
        # Asked for before anything is read, so that nothing is committed in between and missed.
        self._status = job.status()
        self._place = _checked(job, self._status, place)
        self._rows: list[ResultRow] = []

    def page(self) -> ResultsPage:
        self._read_by_index()
        ended = self._read_log()
        return ResultsPage(self._rows, None if ended else self._place.cursor())

    @property
    def _room(self) -> int:
        return self._limit - len(self._rows)

    def _read_by_index(self) -> None:
        """To the last chunk, unless something ends the page."""
        status = self._status
        while self._place.order == _BY_INDEX and self._place.chunk < status.chunks:
            if not self._room or not self._read_window():
                return
        if self._place.order == _BY_INDEX and (status.sealed or status.finished):
            self._move(order=_BY_LOG_AFTER_INDEX)

    def _read_window(self) -> bool:
        """Whether all of it was read. It ends where a byte of the ledger's bitmap does, or with the last chunk."""
        first, ledger = self._place.chunk, self._job.ledger
        stop = min(self._status.chunks, (first + min(_WINDOW, self._room) + 7) // 8 * 8)
        found = dict(enumerate(ledger.first_attempts(self._job.id, first, stop - first), first))
        shown = [(index, 1) for index, chunk in found.items() if chunk.committed and chunk.logged_us is None]
        later = ledger.later_attempts(self._job.id, shown)
        for index, chunk in found.items():
            if (index, 1) in later:
                if not self._read_part(index, 1, later[index, 1]):
                    return False
                self._pass_to(index + 1)
            elif passed_us := chunk.logged_us or chunk.buried_us or chunk.ended_us:
                self._pass_to(index + 1, passed_us)
            elif self._status.finished:
                self._pass_to(index + 1)
            else:
                return False
        if chunk.ended_us and not chunk.committed and stop < self._status.chunks:
            # A job of a million chunks may have been cancelled at once.
            done = ledger.next_committed(self._job.id, stop)
            self._pass_to(self._status.chunks if done is None else min(done, self._status.chunks), chunk.ended_us)
        return True

    def _read_log(self) -> bool:
        """Whether there is nothing left, and there will be nothing."""
        while self._place.order != _BY_INDEX:
            entries = self._job.ledger.commits(self._job.id, self._place.at_us, min(_WINDOW, self._room or 1))
            if not entries:
                return self._status.finished
            later = self._job.ledger.later_attempts(self._job.id, [(e.index, e.attempt) for e in entries if e.attempt])
            for entry in entries:
                if entry.attempt and not self._read_part(entry.index, entry.attempt, later[entry.index, entry.attempt]):
                    # Rows of this very commit were read, if any.
                    if self._place.row:
                        self._rely_on(entry.at_us)
                    return False
                self._move(row=0, at_us=entry.at_us)
        return False

    def _read_part(self, index: int, attempt: int, later: list[Commit]) -> bool:
        """Whether all of it was read, from the place's row on."""
        if not self._room:
            return False
        rows = self._job.rows_of(self._status, index, attempt, later)
        for row in rows[self._place.row :]:
            if row is not None:
                if not self._room:
                    return False
                self._rows.append(row)
            elif self._place.order == _BY_INDEX:
                self._move(hidden_us=max(self._place.hidden_us, later[-1].at_us))
            else:
                self._rely_on(later[-1].at_us)
            self._move(row=self._place.row + 1)
        return True

    def _pass_to(self, chunk: int, relied_us: int = 0) -> None:
        self._move(chunk=chunk, row=0)
        self._rely_on(relied_us)

    def _rely_on(self, at_us: int) -> None:
        self._move(relied_us=max(self._place.relied_us, at_us))

    def _move(self, **where: int) -> None:
        self._place = self._place._replace(**where)


def _checked(job: Job, status: JobStatus, place: _Place) -> _Place:
    """The place, if what it relies on still stands. Raises CursorStale."""
    by_message = status.origin == "message"
    if by_message and place == _Place.of(FIRST_PAGE):
        return place._replace(order=_BY_LOG)
    relied_us, opened_us = max(place.at_us, place.relied_us), status.created_at.timestamp() * 1e6
    stands = (
        by_message == (place.order == _BY_LOG)
        and (not relied_us or job.ledger.has_logged(job.id, relied_us))
        and (not place.hidden_us or opened_us > place.hidden_us or job.ledger.has_logged(job.id, place.hidden_us))
    )
    if not stands:
        raise CursorStale(
            f"the ledger of job {job.id!r} was rebuilt since this cursor was made, and what comes after it is no "
            "longer known: begin again without a cursor"
        )
    return place
