"""What became of one chunk's images, as the result objects of its attempts say."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from arno_shared.ledger import Found
from arno_shared.messages import Chunk
from arno_shared.names import Lane
from arno_shared.places import is_given_up, places_of
from arno_shared.results import ResultRow, Status


@dataclass(frozen=True, slots=True)
class _Attempt:
    chunk: Chunk
    ok: int
    failed: dict[int, str]
    """Place in the chunk as it was first sent → code, without those that a later attempt was made of."""


class History:
    """Attempts are added one after the other, from the first."""

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk
        self._attempts: list[_Attempt] = []
        self._waiting: list[int] = list(range(len(chunk.images)))
        """Places of the images that the next attempt is of: those that were put off."""
        self._given_up: list[int] = []
        """Where there are none, the next attempt is of those that were given up, if they are replayed: an attempt never
        puts some off and gives others up."""

    def __bool__(self) -> bool:
        return bool(self._attempts)

    @property
    def next(self) -> Chunk:
        """The attempt that comes next, of the images that were put off, or given up and perhaps replayed; perhaps of
        none."""
        if not self._attempts:
            return self._chunk
        only = self._chunk.only(self._waiting or self._given_up)
        return only.model_copy(update={"attempt": self._attempts[-1].chunk.attempt + 1})

    def add(self, rows: Sequence[ResultRow]) -> bool:
        """The rows of the next attempt. Whether they can be: if not, nothing is added."""
        attempt = self.next
        found = places_of(attempt, rows) if all(row.answers(attempt) for row in rows) else None
        if found is None:
            return False
        tried = self._waiting or self._given_up
        places = [tried[place] for place in found]
        for before in self._attempts:
            for place in tried:
                before.failed.pop(place, None)
        failed = {
            place: row.error.code
            for place, row in zip(places, rows, strict=True)
            if row.status is Status.FAILED and row.error
        }
        self._attempts.append(_Attempt(attempt, len(rows) - len(failed), failed))
        self._given_up = sorted(place for place, row in zip(places, rows, strict=True) if is_given_up(row))
        self._waiting = sorted(set(tried) - set(places))
        return True

    def found(self, lane: Lane) -> Iterator[tuple[Chunk, Found]]:
        """What to restore: later attempts in their order, and the first one last. With the last attempt comes the one
        that is still to be made."""
        put_off = self.next if self._waiting else None
        for attempt in [*self._attempts[1:], *self._attempts[:1]]:
            is_last = attempt is self._attempts[-1]
            by_code = Counter(attempt.failed.values())
            yield attempt.chunk, Found(attempt.ok, by_code, put_off if is_last else None, lane)
