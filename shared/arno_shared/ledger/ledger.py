"""The ledger's door. Each method is one atomic step in Redis, and raises HouseError when Redis is away."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple, TypeAlias

from arno_shared import tracing
from arno_shared.dead_letters import DeadLetter, FiledLetter, LetterKind
from arno_shared.errors import InvalidRequest, JobConflict, JobNotFound
from arno_shared.ledger.status import JobState, JobStatus
from arno_shared.messages import MAX_ATTEMPTS, MAX_CHUNKS, Chunk, Output
from arno_shared.names import (
    DEAD_LETTERS,
    DELAYED,
    ENDED,
    JOBS,
    LIVE,
    TOPIC,
    UNACKED,
    Lane,
    attempt_field,
    buried_field,
    job_keys,
    place_key,
    split_delayed_member,
    suspect_field,
    task_id,
)
from arno_shared.redis_client import RedisClient, redis_away
from arno_shared.settings import Settings
from arno_shared.topic import EVENT_TYPE, ChunkEvent

_SEND_WITHIN_S = 30
_TOMBSTONE_RETENTIONS = 10
"""How many times as long as an ended job in the ledger its tombstone stays."""
_SHARED_KEYS = (LIVE, DELAYED, DEAD_LETTERS, TOPIC, UNACKED)
"""What every script is given after a job's own keys."""

Suspect: TypeAlias = int | Literal["whole"]
"""What runs alone in a worker: an image, by its position in the chunk, or what a chunk is without any."""


class Verdict(StrEnum):
    GO = "go"
    COMMITTED = "committed"
    UNSURE = "unsure"
    """Its index is committed: only the result object can tell whether by this chunk."""
    CANCELLED = "cancelled"
    PAUSED = "paused"
    CONFLICT = "conflict"
    """Its job, its index or its output belongs to somebody else's work."""


@dataclass(frozen=True, slots=True)
class Message:
    """Who asks for a chunk, and for what: two messages that ask for different things are different work, whatever they
    call themselves."""

    id: str
    digest: str
    """Of what is asked."""
    tag: str
    """Under which it is in hand: a beginning is its holder's until that is gone."""


@dataclass(frozen=True, slots=True)
class Begun:
    verdict: Verdict
    index: int
    times: int
    """How often the chunk was begun without an end by holders that are gone, and this time: the others cost a worker
    each."""
    positions: tuple[int, ...] = ()
    """Of a later attempt: its images' places in the chunk as it was first sent, where they are known."""


@dataclass(frozen=True, slots=True)
class Opened:
    created: bool
    state: JobState
    """That it was in: one that had ended incomplete runs again."""
    sealed: bool
    """All of it was submitted before."""


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
        retention_s = settings.ledger_retention_s
        self._lives_s = (retention_s, _TOMBSTONE_RETENTIONS * retention_s, settings.ledger_abandon_s)
        self._max_events = settings.topic.max_events
        self._max_letters = settings.dead_letters.max_letters

    def open(
        self, job_id: str, terms: str, output: Output, lane: Lane, *, digest: str = "", owns: bool = False
    ) -> Opened:
        """Opens a job, or finds it as it stands: one that is paused or was cancelled stays so.

        `digest`: of all its images, where they are known. `owns`: its record in storage says that the prefix is its
        own. Raises JobConflict when the id or the prefix is of other work.
        """
        return self._open(job_id, terms, output, lane, digest, owns, goes_on=False)

    def revive(self, job_id: str, terms: str, output: Output, lane: Lane) -> Opened:
        """Opens a job that is to go on whatever became of it: what was cancelled, paused, given up whole or ended
        incomplete runs again. Raises JobConflict as `open` does."""
        opened = self._open(job_id, terms, output, lane, "", True, goes_on=True)
        self._run("revive", job_id, lane.value)
        return opened

    def _open(
        self, job_id: str, terms: str, output: Output, lane: Lane, digest: str, owns: bool, *, goes_on: bool
    ) -> Opened:
        args = (terms, output.prefix, output.format, lane.value, digest, int(owns), int(goes_on))
        answer = self._run("open", job_id, *args, place=output.prefix, more_keys=[JOBS])
        word, *more = (part.decode() for part in answer)
        match word:
            case "created":
                return Opened(True, JobState.RUNNING, False)
            case "standing":
                return Opened(False, JobState(more[0]), more[1] == "1")
            case "images":
                raise JobConflict(
                    f"job {job_id!r} was submitted with other images: submit the same in the same order, or choose "
                    "another job id and output"
                )
            case "place":
                raise JobConflict(
                    f"{output.prefix} holds the results of job {more[0]!r}; choose another output for job {job_id!r}"
                )
            case "was":
                raise JobConflict(
                    f"job {job_id!r} was {more[0]}: `arno resume {job_id}` brings it back, or choose another job id"
                )
            case _:
                standing = more[0] or "it was opened by messages of its own, or is no longer in the ledger"
                raise JobConflict(
                    f"job {job_id!r} exists with other terms; choose another job id, or submit it as it was: {standing}"
                )

    def announce(self, job_id: str, chunks: int, images: int) -> None:
        """How much was submitted so far. Raises JobNotFound, and JobConflict when it is sealed, with less."""
        self._announced(job_id, self._run("announce", job_id, chunks, images, 0, ""))

    def seal(self, job_id: str, chunks: int, images: int, digest: str) -> None:
        """All was submitted; `digest` is of all its images. Raises JobNotFound, and JobConflict when the ledger knows
        of more, or of others."""
        self._announced(job_id, self._run("announce", job_id, chunks, images, 1, digest))

    def _announced(self, job_id: str, answer: bytes) -> None:
        match answer:
            case b"gone":
                raise _not_found(job_id)
            case b"more":
                raise JobConflict(f"job {job_id!r} was submitted with more images; submit all of them again")
            case b"sealed":
                raise JobConflict(
                    f"job {job_id!r} was submitted whole, with other images: submit the same in the same order, or "
                    "choose another job id and output"
                )

    def expect(self, chunk: Chunk, lane: Lane) -> bool:
        """Opens a job of one chunk, whose sender is about to send it. False when it was sent before.

        From then on it is sent, by a worker should its sender die. Called again it does nothing. Raises JobConflict
        when the id, or the output, is of another job.
        """
        terms = hashlib.sha256(json.dumps(chunk.to_wire(), sort_keys=True).encode()).hexdigest()
        output, message = chunk.output, _delayed_message(chunk, lane)
        args = (terms, output.prefix, output.format, lane.value, len(chunk.images), message, _SEND_WITHIN_S)
        verdict = self._run("expect", chunk.job_id, *args, chunk.digest, place=output.prefix)
        if verdict == b"conflict":
            raise JobConflict(
                f"job {chunk.job_id!r} exists and is another, or {output.prefix} holds another's results; choose "
                "another job id and output"
            )
        return bool(verdict == b"send")

    def was_sent(self, job_id: str) -> None:
        """The message of a job of one chunk is in its queue."""
        self._run("sent", job_id, attempt_field(0, 1))

    def begin(self, job_id: str, index: int | None, attempt: int, message: Message, output: Output) -> Begun:
        """Whether a chunk is to be done, and its index when the message did not say. The same call made twice counts
        once."""
        house = index is not None and message.id == task_id(job_id, index, attempt)
        args = ("" if index is None else index, attempt, message.id, int(house), message.digest)
        verdict, settled_index, times, noted = self._run(
            "begin", job_id, *args, output.prefix, output.format, message.tag, MAX_CHUNKS, place=output.prefix
        )
        positions = json.loads(noted).get("positions", ()) if noted else ()
        return Begun(Verdict(verdict.decode()), int(settled_index), int(times), tuple(positions))

    def hand_back(self, chunk: Chunk, tag: str, what: Suspect | None = None) -> None:
        """The chunk, or what of it ran alone, goes back unfinished through no fault of its own: its beginning by the
        holder of this tag does not count."""
        self._run("hand_back", chunk.job_id, _begun_field(chunk, what), tag)

    def suspect(self, chunk: Chunk, what: Suspect, tag: str) -> int:
        """Says that it is about to run alone in a worker; how often it did so without an end, this time included."""
        return int(self._run("suspect", chunk.job_id, _begun_field(chunk, what), tag))

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
                chunk.index,
                chunk.attempt,
                len(chunk.images),
                chunk.output.prefix,
                chunk.output.format,
                chunk.digest,
                outcome.ok,
                failed,
                event,
                EVENT_TYPE,
                self._max_events,
                len(later.images) if later else 0,
                _delayed_message(later, outcome.lane) if later else "",
                outcome.put_off_delay_s,
                outcome.letter.model_dump_json() if outcome.letter else "",
                self._max_letters,
                *_pairs(outcome.failed_by_code),
                place=chunk.output.prefix,
            )
        )

    def is_committed(self, chunk: Chunk) -> bool:
        keys = job_keys(chunk.job_id)
        with redis_away():
            if chunk.attempt == 1:
                return bool(self._redis.getbit(keys.committed, chunk.index))
            return self._redis.zscore(keys.commits, attempt_field(chunk.index, chunk.attempt)) is not None

    def bury(self, chunk: Chunk, letter: DeadLetter) -> bool:
        """Gives the whole chunk up: it has no result object. Returns whether this call was the one."""
        return bool(
            self._run(
                "bury",
                chunk.job_id,
                chunk.index,
                chunk.attempt,
                len(chunk.images),
                chunk.output.prefix,
                chunk.output.format,
                # What could not be read cannot be compared.
                chunk.digest if chunk.prompts else "",
                letter.model_dump_json(),
                self._max_letters,
                place=chunk.output.prefix,
            )
        )

    def replay(self, filed: FiledLetter) -> bool:
        """Makes the chunk of a letter due again. Returns whether the letter was still there.

        Raises JobConflict when its job was cancelled, and InvalidRequest when it cannot be read, or was tried as often
        as can be: the letter stays."""
        letter = filed.letter
        chunk = letter.chunk()
        if letter.kind is LetterKind.IMAGES:
            if chunk.attempt >= MAX_ATTEMPTS:
                raise InvalidRequest(
                    f"dead letter {filed.entry_id} was tried {chunk.attempt} times, which is the most: submit its "
                    "images anew"
                )
            chunk = chunk.retry_of(chunk.images, chunk.positions)
        answer = self._run(
            "replay",
            chunk.job_id,
            filed.entry_id,
            letter.kind.value,
            chunk.index,
            letter.attempt,
            letter.images,
            _delayed_message(chunk, letter.lane),
            chunk.attempt,
            chunk.output.prefix,
            chunk.output.format,
            *_pairs(letter.failed_by_code),
            place=chunk.output.prefix,
        )
        if answer == b"cancelled":
            raise JobConflict(
                f"job {chunk.job_id!r} was cancelled, and takes no work: `arno resume {chunk.job_id}` brings it back; "
                f"dead letter {filed.entry_id} stays"
            )
        return bool(answer == b"replayed")

    def cancel(self, job_id: str) -> JobState:
        """Stops a running job: chunks not yet begun are dropped. Returns its state; raises JobNotFound."""
        return self._moved(job_id, self._run("cancel", job_id))

    def pause(self, job_id: str) -> JobState:
        """A running job stands still: chunks not yet begun are parked. Returns its state; raises JobNotFound."""
        return self._moved(job_id, self._run("pause", job_id))

    def unpause(self, job_id: str) -> JobState:
        """A paused job goes on, with what was parked. Returns its state; raises JobNotFound."""
        return self._moved(job_id, self._run("unpause", job_id))

    def abandon(self, limit: int = 100) -> int:
        """Ends jobs of which nothing was heard for too long, as incomplete; how many."""
        with redis_away():
            seconds, _ = self._redis.time()
            silent = self._redis.zrangebyscore(LIVE, "-inf", seconds, start=0, num=limit)
        return sum(self._run("abandon", job_id.decode()) is not None for job_id in silent)

    def park(self, chunk: Chunk, lane: Lane) -> bool:
        """Keeps a chunk of a paused job until that goes on; False when it goes on already."""
        field = attempt_field(chunk.index, chunk.attempt)
        return bool(self._run("park", chunk.job_id, field, _delayed_message(chunk, lane)))

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
                    noted = json.loads(message)
                    found.append(
                        DueMessage(job_id, attempt, Lane(noted["lane"]), noted["message"], noted.get("traceparent"))
                    )
        return found

    def sent(self, due: "DueMessage") -> None:
        self._run("sent", due.job_id, due.attempt)

    def _moved(self, job_id: str, state: bytes | None) -> JobState:
        if state is None:
            raise _not_found(job_id)
        return JobState(state.decode())

    def _run(self, script: str, job_id: str, *args: Any, place: str = "", more_keys: list[str] | None = None) -> Any:
        """`place`: the output prefix, in scripts that may open a job there."""
        if script not in self._scripts:
            self._scripts[script] = self._redis.register_script(_script("machine") + _script(script))
        keys = [*job_keys(job_id), *_SHARED_KEYS, *([place_key(place)] if place else ()), *(more_keys or ())]
        with redis_away():
            return self._scripts[script](keys=keys, args=[job_id, *self._lives_s, *args])


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


@dataclass(frozen=True, slots=True)
class DueMessage:
    job_id: str
    attempt: str
    """`index.attempt`"""
    lane: Lane
    message: dict[str, Any]
    """As it was noted, perhaps by a newer worker: it is sent as it is."""
    traceparent: str | None = None
    """Of the attempt that it follows, where that was traced."""

    @property
    def task_id(self) -> str:
        return f"{self.job_id}.{self.attempt}"


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


@cache
def _script(name: str) -> str:
    return (files("arno_shared.ledger") / "scripts" / f"{name}.lua").read_text()


def _delayed_message(chunk: Chunk, lane: Lane) -> str:
    message: dict[str, Any] = {"lane": lane.value, "message": chunk.to_wire()}
    if chunk.positions:
        message["positions"] = chunk.positions
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
