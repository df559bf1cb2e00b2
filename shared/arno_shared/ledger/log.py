"""What readers ask of a job: which chunks are committed, and in which order what came out that has no other order."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from arno_shared.names import ENDED, attempt_field, buried_field, job_keys
from arno_shared.redis_client import RedisClient, redis_away


@dataclass(frozen=True, slots=True)
class Commit:
    """An entry of a job's log."""

    at_us: int
    """When it was made, and its name: no other entry has the same."""
    index: int = 0
    attempt: int = 0
    """0 where it is not of a commit, and has no rows."""


class FirstAttempt(NamedTuple):
    """How a chunk's first attempt stands; times (µs) are of entries of the job's log."""

    committed: bool
    logged_us: int | None
    """It was committed out of order: its rows come by the log."""
    buried_us: int | None
    """The chunk was given up whole. Should it be committed after all, its rows come by the log."""
    ended_us: int | None
    """Its job ended without being done. What was not committed by then comes by the log, if at all."""


class JobLog:
    """Raises HouseError when Redis is away."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    def committed_bits(self, job_id: str, first: int, count: int) -> bytes:
        """Bitmap of the chunks `first … first + count - 1` whose first attempt is committed; `first` is a multiple
        of 8, the highest bit of a byte is its first chunk, and zero bytes at the end are missing."""
        with redis_away():
            bits: bytes = self._redis.getrange(job_keys(job_id).committed, first // 8, (first + count - 1) // 8)
        return bits

    def committed_indices(self, job_id: str, first: int, count: int) -> set[int]:
        """Which of the chunks `first … first + count - 1` have their first attempt committed."""
        start = first - first % 8
        bits = self.committed_bits(job_id, start, first + count - start)
        return {index for index in indices_of(bits, start) if first <= index < first + count}

    def buried_indices(self, job_id: str) -> set[int]:
        """Of the chunks whose first attempt was given up whole."""
        with redis_away():
            fields = [field.decode() for field in self._redis.hkeys(job_keys(job_id).buried)]
        return {int(field.removesuffix(".1")) for field in fields if field.endswith(".1")}

    def committed_chunks(self, job_id: str) -> int:
        """One more than the highest index of a chunk that may be committed."""
        with redis_away():
            return 8 * int(self._redis.strlen(job_keys(job_id).committed))

    def first_attempts(self, job_id: str, first: int, count: int) -> list["FirstAttempt"]:
        """Of the chunks `first … first + count - 1`, as they stand at one moment."""
        keys, indices = job_keys(job_id), range(first, first + count)
        names = [name for index in indices for name in (attempt_field(index, 1), buried_field(index))]
        with redis_away(), self._redis.pipeline() as step:
            step.getrange(keys.committed, first // 8, (first + count - 1) // 8)
            step.zmscore(keys.commits, [ENDED, *names])
            bits, (ended, *noted) = step.execute()
        committed = set(indices_of(bits, first - first % 8))
        return [
            FirstAttempt(index in committed, _us(logged), _us(buried), _us(ended))
            for index, logged, buried in zip(indices, noted[::2], noted[1::2], strict=True)
        ]

    def next_committed(self, job_id: str, index: int) -> int | None:
        """The first chunk from `index` on, which is a multiple of 8, whose first attempt is committed."""
        with redis_away():
            found = int(self._redis.bitpos(job_keys(job_id).committed, 1, index // 8))
        return None if found < 0 else found

    def commits(self, job_id: str, after_us: int, count: int) -> list["Commit"]:
        """The next `count` entries of the job's log, after that of this time: see `JobKeys.commits`. New ones come at
        the end, for as long as Redis keeps its data."""
        with redis_away():
            log = job_keys(job_id).commits
            entries = self._redis.zrangebyscore(log, f"({after_us}", "+inf", 0, count, withscores=True)
        return [_commit(name.decode(), int(at)) for name, at in entries]

    def has_logged(self, job_id: str, at_us: int) -> bool:
        """Whether the job's log still has the entry of this time; so it has all that were before it."""
        with redis_away():
            return bool(self._redis.zcount(job_keys(job_id).commits, at_us, at_us))

    def later_attempts(self, job_id: str, attempts: Iterable[tuple[int, int]]) -> dict[tuple[int, int], list["Commit"]]:
        """Of each `(index, attempt)`, the later attempts at its chunk that are committed, in their order."""
        later: dict[tuple[int, int], list[Commit]] = {each: [] for each in attempts}
        asked = list(later)
        while asked:
            nexts = [(index, attempt + len(later[index, attempt]) + 1) for index, attempt in asked]
            with redis_away():
                times = self._redis.zmscore(job_keys(job_id).commits, [attempt_field(*each) for each in nexts])
            for each, commit, at in zip(asked, nexts, times, strict=True):
                if at is not None:
                    later[each].append(Commit(int(at), *commit))
            asked = [each for each, at in zip(asked, times, strict=True) if at is not None]
        return later


def indices_of(bits: bytes, first: int) -> Iterator[int]:
    """The chunks whose bits are set; see `Ledger.committed_bits`."""
    for offset, byte in enumerate(bits):
        if byte:
            yield from (first + offset * 8 + bit for bit in range(8) if byte & (0x80 >> bit))


def _us(score: float | None) -> int | None:
    return None if score is None else int(score)


def _commit(name: str, at_us: int) -> Commit:
    index, _, attempt = name.partition(".")
    return Commit(at_us, int(index), int(attempt)) if attempt.isdigit() else Commit(at_us)
