"""The ledger's door. Each method is one atomic step in Redis, and raises HouseError when Redis is away."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from arno_shared import tracing
from arno_shared.dead_letters import DeadLetter, FiledLetter, LetterKind
from arno_shared.errors import InvalidRequest, JobConflict, JobNotFound, RedisRefused
from arno_shared.ledger.log import JobLog
from arno_shared.ledger.outcome import Found, Outcome, Suspect
from arno_shared.ledger.status import JobState, JobStatus
from arno_shared.ledger.verdict import Begun, Message, Opened, Verdict
from arno_shared.logs import get_logger
from arno_shared.messages import MAX_ATTEMPTS, MAX_CHUNKS, Chunk, Output
from arno_shared.names import (
    DEAD_LETTERS,
    DELAYED,
    JOBS,
    LIVE,
    TOPIC,
    UNACKED,
    Lane,
    attempt_field,
    job_keys,
    place_key,
    split_delayed_member,
    suspect_field,
    task_id,
)
from arno_shared.redis_client import RedisClient, redis_away
from arno_shared.settings import Settings
from arno_shared.topic import EVENT_TYPE

log = get_logger(__name__)

_SEND_WITHIN_S = 30
_TOMBSTONE_RETENTIONS = 10
"""How many times as long as an ended job in the ledger its tombstone stays."""
_SHARED_KEYS = (LIVE, DELAYED, DEAD_LETTERS, TOPIC, UNACKED)
"""What every script is given after a job's own keys."""


class Ledger(JobLog):
    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        super().__init__(redis)
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
                    "another job id and output",
                    asked_otherwise=True,
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
                standing = more[0] or "it was opened by messages of its own, was sent, or is no longer in the ledger"
                words = "choose another job id, or submit it as it was"
                raise JobConflict(
                    f"job {job_id!r} exists with other terms; {words}: {standing}",
                    asked_otherwise=True,
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
                raise JobConflict(
                    f"job {job_id!r} was submitted with more images; submit all of them again", asked_otherwise=True
                )
            case b"sealed":
                raise JobConflict(
                    f"job {job_id!r} was submitted whole, with other images: submit the same in the same order, or "
                    "choose another job id and output",
                    asked_otherwise=True,
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

    def resend(self, job_id: str) -> bool:
        """A job without a manifest goes on, whatever became of it, with what is kept of it here. False: nothing is."""
        return self._run("resend", job_id) is not None

    def begin(
        self,
        job_id: str,
        index: int | None,
        attempt: int,
        message: Message,
        output: Output,
        first_index: int | None = 0,
    ) -> Begun:
        """Whether a chunk is to be done, and its index when the message did not say. The same call made twice counts
        once. `first_index`: the first that a message may get which names none; None where nobody has looked."""
        house = index is not None and message.id == task_id(job_id, index, attempt)
        args = ("" if index is None else index, attempt, message.id, int(house), message.digest)
        more = (message.tag, MAX_CHUNKS, "" if first_index is None else first_index)
        verdict, settled_index, times, noted, given_up = self._run(
            "begin", job_id, *args, output.prefix, output.format, *more, place=output.prefix
        )
        positions = json.loads(noted).get("positions", ()) if noted else json.loads(given_up or "[]")
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
                json.dumps(chunk.positions) if chunk.positions else "",
                place=chunk.output.prefix,
            )
        )

    def replay(self, filed: FiledLetter) -> bool:
        """Makes the chunk of a letter due again. Returns whether the letter was still there.

        Raises JobConflict when its job was cancelled, or other work has its place, and InvalidRequest when it cannot be
        read, or was tried as often as can be: the letter stays."""
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
            chunk.digest if letter.kind is LetterKind.CHUNK else "",
            *_pairs(letter.failed_by_code),
            place=chunk.output.prefix,
        )
        if answer == b"cancelled":
            raise JobConflict(
                f"job {chunk.job_id!r} was cancelled, and takes no work: `arno resume {chunk.job_id}` brings it back; "
                f"dead letter {filed.entry_id} stays"
            )
        if answer == b"conflict":
            raise JobConflict(
                f"chunk {chunk.index} of job {chunk.job_id!r} is other work by now: submit the images of dead letter "
                f"{filed.entry_id} under another job id"
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
        return sum(self._run("abandon", job_id.decode("utf-8", "replace")) is not None for job_id in silent)

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

    def owner_of(self, prefix: str) -> str | None:
        """The id of the job that has its results below an output prefix, as far as is known here; it may be forgotten
        otherwise."""
        with redis_away():
            owner = self._redis.get(place_key(prefix))
        return None if owner is None else str(owner.decode())

    def jobs(self, limit: int) -> list[str]:
        """Ids of the jobs that producers opened, newest first."""
        with redis_away():
            return [job_id.decode() for job_id in self._redis.zrevrange(JOBS, 0, limit - 1)]

    def due(self, limit: int = 100) -> list["DueMessage"]:
        """Attempts whose time has come, for this caller to send. They come up again unless `sent` is called soon:
        sent twice is harmless, lost is not."""
        claim = self._redis.register_script(_script("claim_due"))
        with redis_away():
            entries = claim(keys=[DELAYED], args=[limit, _SEND_WITHIN_S])
        found = []
        for entry in entries:
            member = entry.decode("utf-8", "replace")
            try:
                found += self._due(member)
            except (RedisRefused, ValueError, KeyError, TypeError) as error:
                # Somebody else's, or a newer worker's: it keeps nobody from the others.
                log.error("what was put off cannot be read", what=member, error=repr(error))
        return found

    def _due(self, member: str) -> list["DueMessage"]:
        job_id, attempt = split_delayed_member(member)
        keys = job_keys(job_id)
        with redis_away():
            message = self._redis.hget(keys.put_off, attempt)
            if message is None and attempt == attempt_field(0, 1):
                message = self._redis.hget(keys.job, "message")
            if message is None:  # done or aged meanwhile
                self._redis.zrem(DELAYED, member)
                return []
        return [DueMessage.of(job_id, attempt, json.loads(message))]

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
class DueMessage:
    job_id: str
    attempt: str
    """`index.attempt`"""
    lane: Lane
    message: dict[str, Any]
    """As it was noted, perhaps by a newer worker: it is sent as it is."""
    traceparent: str | None = None
    """Of the attempt that it follows, where that was traced."""

    @classmethod
    def of(cls, job_id: str, attempt: str, noted: Mapping[str, Any]) -> "DueMessage":
        """Raises ValueError, KeyError or TypeError when it is none."""
        return cls(job_id, attempt, Lane(noted["lane"]), dict(noted["message"]), noted.get("traceparent"))

    @property
    def task_id(self) -> str:
        return f"{self.job_id}.{self.attempt}"


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
