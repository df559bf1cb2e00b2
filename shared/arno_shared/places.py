"""Which image of a chunk a row is of: a row is of one place in a chunk, and the same image may stand there twice."""

from collections.abc import Sequence

from arno_shared.messages import Chunk
from arno_shared.results import ResultRow


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
