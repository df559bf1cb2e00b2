"""A job's result rows in pages, for readers that come and go."""

import re
from typing import NamedTuple

from arno_producer.job import Job
from arno_shared.errors import InvalidRequest
from arno_shared.results import ResultRow

CURSOR_PATTERN = r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$"
FIRST_PAGE = "0.0.0"

_WINDOW_CHUNKS = 1024


class ResultsPage(NamedTuple):
    rows: list[ResultRow]
    next_cursor: str | None
    """Where the next page begins; None when there will be none."""


class _Place(NamedTuple):
    chunk: int
    """The first that was not read whole."""
    attempt: int
    """0 while first attempts are read; then how many of the later ones were read whole, and 1."""
    row: int
    """Rows of it that were read."""

    def cursor(self) -> str:
        return ".".join(map(str, self))

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
    """Up to `limit` rows from where `cursor` says, in the order of submission.

    A chunk that is not done yet ends the page: its rows are on the next. Rows of images that were put off come last,
    once the job has ended. Each image comes once; when it was given up and replayed after its page was read, what
    became of it last comes as well. Raises InvalidRequest (no such cursor), JobNotFound, HouseError, NotFound when a
    result object has been deleted.
    """
    place = _Place.of(cursor)
    rows: list[ResultRow] = []
    # Asked for before the parts are, so that none is committed in between and missed.
    status = job.status()
    retries = job.later_attempts()
    chunk, attempt, row = place
    settled: dict[int, bool] = {}
    known = chunk
    while attempt == 0 and len(rows) < limit:
        if chunk >= status.chunks:
            if not status.finished:
                break
            chunk, attempt, row = 0, 1, 0
            break
        if chunk >= known:
            settled, known = job.settled_chunks(chunk, _WINDOW_CHUNKS), chunk + _WINDOW_CHUNKS
        if settled.get(chunk):
            found = list(job.rows_of(status, chunk, 1, retries))
            taken = found[row : row + limit - len(rows)]
            rows += taken
            row += len(taken)
            if row >= len(found):
                chunk, row = chunk + 1, 0
        elif status.finished or chunk in settled:
            # Nothing will come of it: it was given up whole, or its job was cancelled.
            chunk, row = chunk + 1, 0
        else:
            break
    later = sorted(retries)
    while attempt and attempt <= len(later) and len(rows) < limit:
        found = list(job.rows_of(status, *later[attempt - 1], retries))
        taken = found[row : row + limit - len(rows)]
        rows += taken
        row += len(taken)
        if row >= len(found):
            attempt, row = attempt + 1, 0
    at_end = status.finished and attempt > len(later)
    return ResultsPage(rows, None if at_end else _Place(chunk, attempt, row).cursor())
