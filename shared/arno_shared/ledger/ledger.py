"""The ledger's door. Each method is one atomic step in Redis, and raises HouseError when Redis is away."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

from arno_shared import tracing
from arno_shared.dead_letters import DeadLetter, FiledLetter, LetterKind
from arno_shared.errors import JobConflict, JobNotFound
from arno_shared.ledger.status import JobState, JobStatus
from arno_shared.messages import Chunk, Output
from arno_shared.names import (
    DEAD_LETTERS,
    DELAYED,
    JOBS,
    TOPIC,
    Lane,
    attempt_field,
    delayed_member,
    job_keys,
    split_delayed_member,
    suspect_field,
)
from arno_shared.redis_client import RedisClient, redis_away
from arno_shared.settings import Settings
from arno_shared.topic import EVENT_TYPE, ChunkEvent

_SEND_WITHIN_S = 30

Suspect: TypeAlias = int | Literal["whole"]
"""What runs alone in a worker: an image, by its position in the chunk, or what a chunk is without any."""


class Verdict(StrEnum):
    GO = "go"
    COMMITTED = "committed"
    CANCELLED = "cancelled"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Begun:
    verdict: Verdict
    index: int
    times: int
    """How often the chunk was begun without an end, this time included: the others cost a worker each."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a chunk's images, to be committed."""

    event: ChunkEvent
    failed_by_code: Mapping[str, int] = field(default_factory=dict)
    put_off: Chunk | None = None
    """The next attempt, of the images that failed transiently."""
    put_off_delay_s: float = 0
    lane: Lane = Lane.BULK
    letter: DeadLetter | None = None
    """The images that failed transiently for the last time."""

    @property
    def ok(self) -> int:
        return self.event.data.counts.ok


@dataclass(frozen=True, slots=True)
class Found:
    """What a result object says became of its chunk's images."""

    ok: int
    failed_by_code: Mapping[str, int] = field(default_factory=dict)
    put_off: Chunk | None = None
    """The images that have no rows: the next attempt of the chunk."""
    lane: Lane = Lane.BULK
    put_off_delay_s: float = 0
    letter: None = None


class Ledger:
    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self._redis = redis
        self._scripts: dict[str, Any] = {}
        self._retention_s = settings.ledger_retention_s
        self._max_events = settings.topic.max_events
        self._max_letters = settings.dead_letters.max_letters

    def open(self, job_id: str, terms: str, output: Output, lane: Lane) -> bool:
        """Opens a job, or opens it again; whether it was there before.

        Raises JobConflict when the job stands with other terms.
        """
        verdict, standing = self._run(
            "open", job_id, [JOBS, DELAYED], terms, output.prefix, output.format, lane.value, job_id, self._retention_s
        )
        if verdict == b"conflict":
            raise JobConflict(
                f"job {job_id!r} exists with other terms; choose another job id, or submit it as it was: "
                + (standing.decode() or "it was opened by messages of its own, not by a producer")
            )
        return bool(verdict == b"resumed")

    def announce(self, job_id: str, chunks: int, images: int, *, sealed: bool) -> None:
        """How much was submitted so far; `sealed` says that this is all. Raises JobNotFound."""
        if not self._run("announce", job_id, [], chunks, images, int(sealed), self._retention_s):
            raise _not_found(job_id)

    def expect(self, chunk: Chunk, lane: Lane) -> bool:
        """Opens a job of one chunk, which its sender keeps until it is sent. False when it was sent before.

        Called again it does nothing, so that who died in between may send again. Raises JobConflict when the id is of
        another job.
        """
        terms = hashlib.sha256(json.dumps(chunk.to_wire(), sort_keys=True).encode()).hexdigest()
        output = chunk.output
        verdict = self._run(
            "expect",
            chunk.job_id,
            [],
            terms,
            output.prefix,
            output.format,
            lane.value,
            len(chunk.images),
            self._retention_s,
        )
        if verdict == b"conflict":
            raise JobConflict(f"job {chunk.job_id!r} exists, and is another; choose another job id")
        return bool(verdict == b"send")

    def was_sent(self, job_id: str) -> None:
        """The message of a job of one chunk is in its queue."""
        self._run("sent", job_id, [])

    def begin(self, job_id: str, index: int | None, attempt: int, message_id: str, output: Output, token: str) -> Begun:
        """Whether a chunk is to be done, and its index when the message did not say. `token` is this beginning's own:
        the same call made twice counts once."""
        verdict, settled_index, times = self._run(
            "begin",
            job_id,
            [],
            "" if index is None else index,
            attempt,
            message_id,
            output.prefix,
            output.format,
            token,
        )
        return Begun(Verdict(verdict.decode()), int(settled_index), int(times))

    def hand_back(self, chunk: Chunk, token: str, what: Suspect | None = None) -> None:
        """The chunk, or what of it ran alone, goes back unfinished through no fault of its own: the beginning with
        this token does not count."""
        self._run("hand_back", chunk.job_id, [], _begun_field(chunk, what), token)

    def suspect(self, chunk: Chunk, what: Suspect, token: str) -> int:
        """Says that it is about to run alone in a worker; how often it did so without an end, this time included."""
        return int(self._run("suspect", chunk.job_id, [], _begun_field(chunk, what), token))

    def acquit(self, chunk: Chunk, what: Suspect) -> None:
        """The worker survived it."""
        with redis_away():
            self._redis.hdel(job_keys(chunk.job_id).begun, _begun_field(chunk, what))

    def commit(self, chunk: Chunk, outcome: Outcome) -> bool:
        """Marks the chunk done, counts, publishes the event, puts off or gives up: once, however often it is called.

        Returns whether this call was the one.
        """
        event = outcome.event
        return self._commit(chunk, outcome, event.data.counts.failed, event.model_dump_json(exclude_none=True))

    def restore(self, chunk: Chunk, found: Found) -> bool:
        """Marks a chunk done whose result object was found after the loss of Redis. Counted as a commit is, and not
        announced: that happened when it was done. Returns whether the ledger did not know it."""
        return self._commit(chunk, found, sum(found.failed_by_code.values()), "")

    def _commit(self, chunk: Chunk, outcome: Outcome | Found, failed: int, event: str) -> bool:
        later = outcome.put_off
        return bool(
            self._run(
                "commit",
                chunk.job_id,
                [TOPIC, DELAYED, DEAD_LETTERS],
                chunk.index,
                chunk.attempt,
                len(chunk.images),
                chunk.output.prefix,
                chunk.output.format,
                outcome.ok,
                failed,
                event,
                EVENT_TYPE,
                self._max_events,
                self._retention_s,
                len(later.images) if later else 0,
                _delayed_message(later, outcome.lane) if later else "",
                delayed_member(later.job_id, later.index, later.attempt) if later else "",
                outcome.put_off_delay_s,
                outcome.letter.model_dump_json() if outcome.letter else "",
                self._max_letters,
                *_pairs(outcome.failed_by_code),
            )
        )

    def is_committed(self, chunk: Chunk) -> bool:
        keys = job_keys(chunk.job_id)
        with redis_away():
            if chunk.attempt == 1:
                return bool(self._redis.getbit(keys.committed, chunk.index))
            return bool(self._redis.sismember(keys.retried, attempt_field(chunk.index, chunk.attempt)))

    def bury(self, chunk: Chunk, letter: DeadLetter) -> bool:
        """Gives the whole chunk up: it has no result object. Returns whether this call was the one."""
        return bool(
            self._run(
                "bury",
                chunk.job_id,
                [DEAD_LETTERS],
                chunk.index,
                chunk.attempt,
                len(chunk.images),
                chunk.output.prefix,
                chunk.output.format,
                letter.model_dump_json(),
                self._max_letters,
                self._retention_s,
            )
        )

    def replay(self, filed: FiledLetter) -> bool:
        """Makes the chunk of a letter due again. Returns whether the letter was still there."""
        letter = filed.letter
        chunk = Chunk.model_validate(json.loads(letter.raw)["kwargs"])
        if letter.kind is LetterKind.IMAGES:
            chunk = chunk.retry_of(chunk.images)
        return bool(
            self._run(
                "replay",
                chunk.job_id,
                [DEAD_LETTERS, DELAYED],
                filed.entry_id,
                letter.kind.value,
                chunk.index,
                letter.attempt,
                letter.images,
                _delayed_message(chunk, letter.lane),
                delayed_member(chunk.job_id, chunk.index, chunk.attempt),
                chunk.attempt,
                chunk.output.prefix,
                chunk.output.format,
                *_pairs(letter.failed_by_code),
            )
        )

    def cancel(self, job_id: str) -> JobState:
        """Stops a running job: chunks not yet begun are dropped. Returns its state; raises JobNotFound."""
        return self._moved(job_id, self._run("cancel", job_id, [], self._retention_s))

    def pause(self, job_id: str) -> JobState:
        """A running job stands still: chunks not yet begun are parked. Returns its state; raises JobNotFound."""
        return self._moved(job_id, self._run("pause", job_id, []))

    def unpause(self, job_id: str) -> JobState:
        """A paused job goes on, with what was parked. Returns its state; raises JobNotFound."""
        return self._moved(job_id, self._run("unpause", job_id, [DELAYED], job_id))

    def park(self, chunk: Chunk, lane: Lane) -> bool:
        """Keeps a chunk of a paused job until that goes on; False when it goes on already."""
        field = attempt_field(chunk.index, chunk.attempt)
        return bool(self._run("park", chunk.job_id, [], field, _delayed_message(chunk, lane)))

    def status(self, job_id: str) -> JobStatus:
        """Raises JobNotFound."""
        with redis_away():
            fields = self._redis.hgetall(job_keys(job_id).job)
        if not fields:
            raise _not_found(job_id)
        return JobStatus.from_hash(job_id, fields)

    def jobs(self, limit: int) -> list[str]:
        """Ids of the jobs that producers opened, newest first."""
        with redis_away():
            return [job_id.decode() for job_id in self._redis.zrevrange(JOBS, 0, limit - 1)]

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

    def committed_retries(self, job_id: str) -> set[tuple[int, int]]:
        """`(index, attempt)` of the later attempts that are committed."""
        with redis_away():
            members = self._redis.smembers(job_keys(job_id).retried)
        return {(int(index), int(attempt)) for index, attempt in (member.split(b".") for member in members)}

    def due(self, limit: int = 100) -> list["DueMessage"]:
        """Attempts whose time has come, for this caller to send. They come up again unless `sent` is called soon:
        sent twice is harmless, lost is not."""
        claim = self._redis.register_script(_script("claim_due"))
        found = []
        with redis_away():
            for member in map(bytes.decode, claim(keys=[DELAYED], args=[limit, _SEND_WITHIN_S])):
                job_id, attempt = split_delayed_member(member)
                message = self._redis.hget(job_keys(job_id).put_off, attempt)
                if message is None:  # done or aged meanwhile
                    self._redis.zrem(DELAYED, member)
                else:
                    found.append(DueMessage(member, **json.loads(message)))
        return found

    def sent(self, due: "DueMessage") -> None:
        with redis_away():
            self._redis.zrem(DELAYED, due.member)

    def _moved(self, job_id: str, state: bytes | None) -> JobState:
        if state is None:
            raise _not_found(job_id)
        return JobState(state.decode())

    def _run(self, script: str, job_id: str, more_keys: list[str], *args: Any) -> Any:
        if script not in self._scripts:
            self._scripts[script] = self._redis.register_script(_script("settle") + _script(script))
        with redis_away():
            return self._scripts[script](keys=[*job_keys(job_id), *more_keys], args=args)


@dataclass(frozen=True, slots=True)
class DueMessage:
    member: str
    lane: str
    message: dict[str, Any]
    traceparent: str | None = None
    """Of the attempt that it follows, where that was traced."""


def indices_of(bits: bytes, first: int) -> Iterator[int]:
    """The chunks whose bits are set; see `Ledger.committed_bits`."""
    for offset, byte in enumerate(bits):
        if byte:
            yield from (first + offset * 8 + bit for bit in range(8) if byte & (0x80 >> bit))


@cache
def _script(name: str) -> str:
    return (files("arno_shared.ledger") / "scripts" / f"{name}.lua").read_text()


def _delayed_message(chunk: Chunk, lane: Lane) -> str:
    message: dict[str, Any] = {"lane": lane.value, "message": chunk.to_wire()}
    if own := tracing.traceparent():
        message["traceparent"] = own
    return json.dumps(message, ensure_ascii=False)


def _begun_field(chunk: Chunk, what: Suspect | None) -> str:
    if what is None:
        return attempt_field(chunk.index, chunk.attempt)
    return suspect_field(chunk.index, chunk.attempt, what)


def _pairs(counts: Mapping[str, int]) -> list[str | int]:
    return [part for pair in counts.items() for part in pair]


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no job {job_id!r} in the ledger; `arno status` lists the jobs it knows")
