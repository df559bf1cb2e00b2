"""What became of one chunk's images, as the result objects of its attempts say."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from arno_shared.ledger import Found
from arno_shared.messages import Chunk, ImageRef
from arno_shared.names import Lane
from arno_shared.results import ResultRow, Status


@dataclass(frozen=True, slots=True)
class _Attempt:
    chunk: Chunk
    ok: int
    failed_by_code: Counter[str]
    """Without those that a later attempt has a row for."""


class History:
    """Attempts are added one after the other, from the first."""

    def __init__(self, chunk: Chunk) -> None:
        self._chunk = chunk
        self._attempts: list[_Attempt] = []
        self._missing = Counter(chunk.images)
        self._failures: dict[ImageRef, list[tuple[_Attempt, str]]] = defaultdict(list)
        """The attempts and codes of rows that say failed, and that nothing has superseded."""

    def __bool__(self) -> bool:
        return bool(self._attempts)

    @property
    def next(self) -> Chunk:
        """The attempt that comes next: of the images that have no row, which were put off; of none when the next one
        can only be of images that were given up and replayed."""
        if not self._attempts:
            return self._chunk
        return self._attempts[-1].chunk.retry_of(list(self._missing.elements()))

    def add(self, rows: Sequence[ResultRow]) -> bool:
        """The rows of the next attempt. Whether they can be: if not, nothing is added."""
        attempt = self.next
        images = Counter(row.asked_for for row in rows)
        # What has a row already was given up, and then replayed.
        replayed = images - self._missing
        if not all(row.answers(attempt) for row in rows) or any(
            times > len(self._failures[image]) for image, times in replayed.items()
        ):
            return False
        for image in replayed.elements():
            superseded, code = self._failures[image].pop()
            superseded.failed_by_code[code] -= 1
        self._add(attempt, rows)
        self._missing -= images
        return True

    def _add(self, chunk: Chunk, rows: Sequence[ResultRow]) -> None:
        failures = [(row.asked_for, row.error.code) for row in rows if row.status is Status.FAILED and row.error]
        attempt = _Attempt(chunk, len(rows) - len(failures), Counter(code for _, code in failures))
        for image, code in failures:
            self._failures[image].append((attempt, code))
        self._attempts.append(attempt)

    def found(self, lane: Lane) -> Iterator[tuple[Chunk, Found]]:
        """What to restore: the last attempt first, and with it the one that is still to be made."""
        put_off = self.next if self._missing else None
        for attempt in reversed(self._attempts):
            yield attempt.chunk, Found(attempt.ok, +attempt.failed_by_code, put_off, lane)
            put_off = None
