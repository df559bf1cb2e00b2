"""The results topic: one CloudEvent for each committed chunk, in a Redis Stream of bounded length.

The stream is a pointer and storage is the truth: a reader that falls further behind than the stream is long misses
events, never results.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from time import monotonic
from typing import Any, Literal

import redis

from arno_shared.messages import SCHEMA_VERSION, WireModel
from arno_shared.names import TOPIC
from arno_shared.redis_client import RedisClient, redis_away
from arno_shared.results import ResultRow

EVENT_TYPE: Literal["arno.chunk.completed.v1"] = "arno.chunk.completed.v1"


class FailedImage(WireModel):
    """`uri` has no user info and no query string."""

    uri: str
    id: str | None = None
    code: str


class Counts(WireModel):
    """Images of the chunk: done, failed for good, and put off into a later attempt."""

    ok: int
    failed: int
    put_off: int


class ChunkCompleted(WireModel):
    job_id: str
    index: int
    attempt: int
    result_uri: str
    counts: Counts
    failed: tuple[FailedImage, ...] = ()
    results: tuple[ResultRow, ...] | None = None
    """The rows themselves, when they were asked for (`output.inline`) and are small."""


class ChunkEvent(WireModel):
    """A CloudEvents 1.0 envelope (structured JSON). `id` is the same whenever the same chunk is committed."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: Literal["arno.chunk.completed.v1"] = EVENT_TYPE
    subject: str
    time: datetime
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str = f"urn:arno:chunk-completed:v{SCHEMA_VERSION}"
    data: ChunkCompleted


class TopicReader:
    """Reads the topic as one consumer of a consumer group: each event goes to one consumer of the group.

    An event stays pending until `ack`; what another consumer left pending for `stale_s` is taken over.
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

    def read(self, count: int = 100, block_s: float = 1.0) -> list[tuple[str, ChunkEvent]]:
        """Up to `count` events with their entry ids; empty when none came within `block_s`. Raises HouseError."""
        deadline_s = monotonic() + block_s
        while True:
            left_s = deadline_s - monotonic()
            if (events := self._read(count, min(left_s, self._patience_s))) or left_s <= self._patience_s:
                return events

    def _read(self, count: int, block_s: float) -> list[tuple[str, ChunkEvent]]:
        # The topic may be lost while we look at it or wait for it; the next look makes it anew.
        with redis_away(), _passing("NOGROUP", "UNBLOCKED", "ERR no such key"):
            self._create_group()
            _, stale, *_ = self._redis.xautoclaim(
                TOPIC, self._group, self._consumer, self._stale_ms, start_id="0-0", count=count
            )
            if stale:
                return list(_events(stale))
            # BLOCK 0 would wait for ever.
            block_ms = max(1, int(block_s * 1000))
            answer = self._redis.xreadgroup(self._group, self._consumer, {TOPIC: ">"}, count=count, block=block_ms)
            return [event for _, entries in _streams(answer) for event in _events(entries)]
        return []

    def ack(self, entry_ids: Sequence[str]) -> None:
        """Raises HouseError."""
        if entry_ids:
            with redis_away():
                self._redis.xack(TOPIC, self._group, *entry_ids)

    def _create_group(self) -> None:
        groups = self._redis.xinfo_groups(TOPIC) if self._redis.exists(TOPIC) else []
        if not any(group["name"] == self._group.encode() for group in groups):
            with _passing("BUSYGROUP"):  # another consumer made it in between
                self._redis.xgroup_create(TOPIC, self._group, id=self._start_id, mkstream=True)


def latest_entry_id(redis: RedisClient) -> str:
    """Of the newest event, for `entries_after`. Raises HouseError."""
    with redis_away():
        newest = redis.xrevrange(TOPIC, count=1)
    return newest[0][0].decode() if newest else "0-0"


def entries_after(redis: RedisClient, entry_id: str, count: int = 200) -> list[tuple[str, ChunkEvent]]:
    """The events that came after that one, for readers that are in no group: nobody waits. Raises HouseError."""
    with redis_away():
        return list(_events(redis.xrange(TOPIC, min=f"({entry_id}", count=count)))


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


def _events(entries: Any) -> Iterator[tuple[str, ChunkEvent]]:
    for entry_id, fields in entries:
        # A trimmed entry that was still pending comes without fields.
        if fields:
            yield entry_id.decode(), ChunkEvent.model_validate_json(fields[b"event"])
