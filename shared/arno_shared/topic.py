"""The results topic: one CloudEvent for each committed chunk, in a Redis Stream of bounded length.

The stream is a pointer and storage is the truth: a reader that falls further behind than the stream is long misses
events, never results. It is told how many (`TopicReader.lost`).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache, lru_cache
from importlib.resources import files
from time import monotonic
from typing import Any, Literal, NamedTuple

import redis
from pydantic import ValidationError

from arno_shared.errors import HouseError
from arno_shared.logs import get_logger
from arno_shared.messages import describe_invalid
from arno_shared.names import TOPIC
from arno_shared.redis_client import RedisClient, redis_away
from arno_shared.results import ResultRow
from arno_shared.stored import StoredModel

EVENT_TYPE: Literal["arno.chunk.completed.v1"] = "arno.chunk.completed.v1"

MAX_FAILED_BYTES = 16 * 1024
"""Of `ChunkCompleted.failed`, as JSON: 1,024 failed images with long URIs would be megabytes, and the topic keeps a
hundred thousand events."""

log = get_logger(__name__)

_Entry = tuple[bytes, dict[bytes, bytes]]
"""Its id and its fields."""


class FailedImage(StoredModel):
    """`uri` has no user info and no query string."""

    uri: str
    id: str | None = None
    code: str


def bounded_failures(failures: Iterable[FailedImage]) -> tuple[FailedImage, ...]:
    """Those that an event lists: in order, each that fits into what is left of `MAX_FAILED_BYTES`. One that does not
    is left out whole: half a URI names nothing."""
    listed, room_bytes = [], MAX_FAILED_BYTES
    for failure in failures:
        size_bytes = len(failure.model_dump_json().encode()) + len(",")
        if size_bytes <= room_bytes:
            listed.append(failure)
            room_bytes -= size_bytes
    return tuple(listed)


class Counts(StoredModel):
    """Images of the chunk: done, failed for good, and put off into a later attempt."""

    ok: int
    failed: int
    put_off: int


class ChunkCompleted(StoredModel):
    """`failed` lists the images that failed, 16 KiB of them at most: `counts.failed` counts all, and those that are not
    listed stand in the result object alone."""

    job_id: str
    index: int
    attempt: int
    result_uri: str
    counts: Counts
    failed: tuple[FailedImage, ...] = ()
    """At most `MAX_FAILED_BYTES` (`bounded_failures`): `counts.failed - len(failed)` images are not listed."""
    results: tuple[ResultRow, ...] | None = None
    """The rows themselves, when they were asked for (`output.inline`) and are small."""


def dataschema(version: int) -> str:
    """Of an event whose rows are of this version, or of older ones."""
    return f"urn:arno:chunk-completed:v{version}"


class ChunkEvent(StoredModel):
    """A CloudEvents 1.0 envelope (structured JSON). `id` is the same whenever the same chunk is committed."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: Literal["arno.chunk.completed.v1"] = EVENT_TYPE
    subject: str
    time: datetime
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str = dataschema(1)
    data: ChunkCompleted


class Lag(NamedTuple):
    """How far a group is behind. What is None cannot be told, as before Redis 7, which does not count entries."""

    waiting: int | None
    """Events that the group has not been given yet, and still can be."""
    pending: int
    """Events that were given to one of its consumers and not acknowledged."""
    lost: int | None
    """`TopicReader.lost`"""


class TopicReader:
    """Reads the topic as one consumer of a consumer group: each event goes to one consumer of the group.

    An event stays pending until `ack`; what another consumer left pending for `stale_s` is taken over. An entry that
    cannot be read, being no event or one of another type, is acknowledged, logged and counted in `skipped`.
    """

    def __init__(
        self, redis: RedisClient, group: str, consumer: str, *, from_start: bool = True, stale_s: float = 60
    ) -> None:
        self._redis, self._group, self._consumer = redis, group, consumer
        self._start_id = "0" if from_start else "$"
        self._stale_ms = int(stale_s * 1000)
        # A server that lets us wait for longer than the socket does would look as if it were away.
        socket_timeout_s = redis.connection_pool.connection_kwargs.get("socket_timeout")
        self._patience_s = socket_timeout_s / 2 if socket_timeout_s else float("inf")
        self._give = redis.register_script(_script())
        self.skipped = 0
        """Entries that this reader could not read."""
        self.lost: int | None = 0
        """Events that the stream was trimmed of before the group had been given them, or before whoever had been given
        them acknowledged, as far as `read` of this reader was the first to notice: add up those of a group. Their
        results are in storage. None once some may have been lost and the server cannot tell how many."""

    def read(self, count: int = 100, block_s: float = 1.0) -> list[tuple[str, ChunkEvent]]:
        """Up to `count` events with their entry ids; empty when none came within `block_s`. Raises HouseError."""
        deadline_s = monotonic() + block_s
        while True:
            left_s = deadline_s - monotonic()
            events = self._readable(self._read(count, min(left_s, self._patience_s)))
            if events or monotonic() >= deadline_s:
                return events

    def _read(self, count: int, block_s: float) -> list[_Entry]:
        # The topic may be lost while we wait for it; the next look makes it anew.
        with redis_away(), _passing("NOGROUP", "UNBLOCKED"):
            if given := self._given(count):
                return given
            # Only here, where nothing is left: one waiter is woken for each event. BLOCK 0 would wait for ever.
            block_ms = max(1, int(block_s * 1000))
            answer = self._redis.xreadgroup(self._group, self._consumer, {TOPIC: ">"}, count=count, block=block_ms)
            return [entry for _, entries in _streams(answer) for entry in entries]
        return []

    def _given(self, count: int) -> list[_Entry]:
        """What was left pending, or what is new. Takes note of what was lost."""
        entries, trimmed, lapsed = self._give(
            keys=[TOPIC], args=[self._group, self._consumer, count, self._stale_ms, self._start_id]
        )
        # Should the topic be lost, all that comes after that is new to the group.
        self._start_id = "0"
        if trimmed < 0 and self.lost is not None:
            self.lost = None
            log.warning("the server cannot tell how many events this group has missed", group=self._group)
        self._lose(trimmed, "this group read them")
        self._lose(lapsed, "a consumer that had them acknowledged them")
        return [(entry_id, dict(zip(flat[::2], flat[1::2], strict=True))) for entry_id, flat in entries]

    def _lose(self, events: int, before: str) -> None:
        if events > 0:
            log.warning(f"{events} events were trimmed before {before}: the results are in storage", group=self._group)
            self.lost = None if self.lost is None else self.lost + events

    def _readable(self, entries: Sequence[_Entry]) -> list[tuple[str, ChunkEvent]]:
        events = list(_events(entries))
        read = {entry_id for entry_id, _ in events}
        if unreadable := [entry_id.decode() for entry_id, _ in entries if entry_id.decode() not in read]:
            self.skipped += len(unreadable)
            # Where Redis is away, they are skipped again; the others of the batch are not withheld.
            with suppress(HouseError):
                self.ack(unreadable)
        return events

    def ack(self, entry_ids: Sequence[str]) -> None:
        """Raises HouseError."""
        if entry_ids:
            with redis_away():
                self._redis.xack(TOPIC, self._group, *entry_ids)

    def lag(self) -> Lag:
        """Takes nothing, and notices no loss. Raises HouseError."""
        with redis_away(), self._redis.pipeline() as step:
            if not self._redis.exists(TOPIC):
                return Lag(0, 0, self.lost)
            stream, groups = step.xinfo_stream(TOPIC).xinfo_groups(TOPIC).execute()
        for group in groups:
            if group["name"] == self._group.encode():
                return Lag(_waiting(stream, group), group["pending"], self.lost)
        return Lag(0 if self._start_id == "$" else stream["length"], 0, self.lost)


def _waiting(stream: dict[str, Any], group: dict[str, Any]) -> int | None:
    """Entries that the group has not been given yet, by what the server says of both."""
    last, length = _ordered(group["last-delivered-id"]), int(stream["length"])
    if not length or last == _ordered(stream["last-generated-id"]):
        return 0
    if last < _ordered(stream["first-entry"][0]):
        return length
    counted = group.get("lag")
    # Servers that lost count, of a group that others read, say more than there is.
    return counted if counted is not None and counted <= length else None


def _ordered(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)


def latest_entry_id(redis: RedisClient) -> str:
    """Of the newest event, for `entries_after`. Raises HouseError."""
    with redis_away():
        newest = redis.xrevrange(TOPIC, count=1)
    return newest[0][0].decode() if newest else "0-0"


def entries_after(redis: RedisClient, entry_id: str, count: int = 200) -> list[tuple[str, ChunkEvent]]:
    """The events that came after that one, for readers that are in no group: nobody waits. Entries that cannot be read
    are passed over. Raises HouseError."""
    while True:
        with redis_away():
            entries = redis.xrange(TOPIC, min=f"({entry_id}", count=count)
        events = list(_events(entries))
        if events or len(entries) < count:
            return events
        entry_id = entries[-1][0].decode()


@contextmanager
def _passing(*codes: str) -> Iterator[None]:
    """Lets the server's errors of these codes pass in silence."""
    try:
        yield
    except redis.ResponseError as error:
        if not str(error).startswith(codes):
            raise


def _streams(answer: Any) -> Iterator[tuple[bytes, Any]]:
    """redis-py gives a list of pairs over RESP2, a dict over RESP3, whose values are wrapped once more."""
    if isinstance(answer, dict):
        yield from (
            (name, entries[0] if entries and isinstance(entries[0], list) else entries)
            for name, entries in answer.items()
        )
    else:
        yield from answer or []


def _events(entries: Iterable[_Entry]) -> Iterator[tuple[str, ChunkEvent]]:
    """Those that can be read."""
    for entry_id, fields in entries:
        try:
            yield entry_id.decode(), ChunkEvent.model_validate_json(fields[b"event"])
        except KeyError:
            _warn_of_unreadable(entry_id.decode(), "it has no field `event`")
        except ValidationError as error:
            _warn_of_unreadable(entry_id.decode(), describe_invalid(error, within="event"))


@lru_cache(maxsize=1024)
def _warn_of_unreadable(entry_id: str, why: str) -> None:
    """Once for each entry, though it be looked at by many readers: that is what is cached."""
    log.warning("an entry of the topic cannot be read and is passed over", entry_id=entry_id, why=why)


@cache
def _script() -> str:
    return (files("arno_shared") / "topic_read.lua").read_text()
