"""Which image of a chunk a row is of: a row is of one place in a chunk, and the same image may stand there twice."""

from collections.abc import Sequence, Set
from itertools import islice

from arno_shared.errors import ConnectionFailed, Throttled, Timeout, Unavailable, WorkerLost
from arno_shared.messages import Chunk
from arno_shared.results import ResultRow

GIVEN_UP = frozenset(error.code for error in (Timeout, Throttled, Unavailable, ConnectionFailed, WorkerLost))
"""A row that says so is of an image that is a dead letter as well: before its last attempt it would have no row."""


def is_given_up(row: ResultRow) -> bool:
    """Whether its image is a dead letter, which may be replayed."""
    return row.error is not None and row.error.code in GIVEN_UP


def places_of(chunk: Chunk, rows: Sequence[ResultRow]) -> list[int] | None:
    """The index among the chunk's images of the one that each row is of; None when some row is of none of them.

    By its position where chunk and row know it. Rows that were written before there were positions, and attempts of
    which nobody knows them any more, go by what was asked for: the first image that fits and that no other row is of.
    """
    positions = {chunk.position(place): place for place in range(len(chunk.images))}
    known = None not in positions
    free = list(range(len(chunk.images)))
    places: dict[int, int] = {}
    # Those that know first: what is left is for the others.
    for number, row in sorted(enumerate(rows), key=lambda each: each[1].position is None):
        if known and row.position is not None:
            fitting = [positions[row.position]] if row.position in positions else []
        else:
            fitting = free
        place = next((place for place in fitting if place in free and chunk.images[place] == row.asked_for), None)
        if place is None:
            return None
        free.remove(place)
        places[number] = place
    return [places[number] for number in range(len(rows))]


def superseded(rows: Sequence[ResultRow], later: Sequence[ResultRow]) -> Set[int]:
    """Which of an attempt's rows, by their index, those of the later attempts at the chunk are the next of.

    By position where both know it. Where one does not, a row goes by what was asked for, and takes the place of one
    that was given up, each of another: nothing else is ever tried again once it has a row.
    """
    gone: set[int] = set()
    # Those that know first: what is left is for the others.
    for row in sorted(later, key=lambda row: row.position is None):
        before = (number for number, before in enumerate(rows) if number not in gone and _follows(before, row))
        gone.update(islice(before, 1))
    return gone


def _follows(before: ResultRow, row: ResultRow) -> bool:
    if before.position is not None and row.position is not None:
        return before.position == row.position
    return is_given_up(before) and before.asked_for == row.asked_for
