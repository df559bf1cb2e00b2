"""Dead letters: what was given up, kept with its reason so that it can be looked at, replayed or purged."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from arno_shared.errors import InvalidRequest
from arno_shared.logs import get_logger
from arno_shared.messages import AnyText, Chunk
from arno_shared.names import DEAD_LETTERS, TASK_NAME, Lane
from arno_shared.redis_client import RedisClient, redis_away
from arno_shared.stored import StoredModel

log = get_logger(__name__)

_ADD = """
-- First something that a server allows whose memory is full: then it allows the rest, and a letter is no more than the
-- message that it takes the place of.
redis.call('XDEL', KEYS[1], '0-1')
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'letter', ARGV[2])
"""


class LetterKind(StrEnum):
    MESSAGE = "message"
    """A message that does not validate; nothing of it was done."""
    CHUNK = "chunk"
    """A whole chunk that could not be committed; it has no result object."""
    IMAGES = "images"
    """The images of a chunk that failed transiently too many times; their rows say so."""


class DeadLetter(StoredModel):
    kind: LetterKind
    code: str
    reason: AnyText
    raw: AnyText
    """The message in full: JSON of `args` and `kwargs`, or the body as it came when that cannot be read."""
    task: str = TASK_NAME
    message_id: str | None = Field(default=None, exclude_if=lambda message_id: message_id is None)
    """Under which a `message` came: replayed, it is the same."""
    lane: Lane = Lane.BULK
    images: int = 0
    job_id: str | None = None
    index: int | None = None
    attempt: int | None = None
    positions: tuple[int, ...] = Field(default=(), exclude_if=lambda positions: not positions)
    """For `images`: their places in the chunk as it was first sent, where they are known."""
    failed_by_code: dict[str, int] = Field(default_factory=dict)
    """For `images`: how they are counted in the ledger."""
    worker: str
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def of_chunk(cls, kind: LetterKind, chunk: Chunk, raw: str | None = None, **fields: Any) -> "DeadLetter":
        """`raw`: its message as it came, where that is not what the chunk says."""
        return cls(
            kind=kind,
            raw=raw or json.dumps({"args": [], "kwargs": chunk.to_wire()}, ensure_ascii=False),
            images=len(chunk.images),
            job_id=chunk.job_id,
            index=chunk.index,
            attempt=chunk.attempt,
            positions=chunk.positions,
            **fields,
        )

    def chunk(self) -> Chunk:
        """What was given up. Raises InvalidRequest when this version cannot read it."""
        try:
            chunk = Chunk.model_validate(json.loads(self.raw)["kwargs"])
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(
                f"a dead letter of job {self.job_id!r} cannot be read by this version: replay it with the one that "
                "wrote it, or purge it"
            ) from error
        return chunk.model_copy(update={"positions": self.positions})


class FiledLetter(NamedTuple):
    entry_id: str
    letter: DeadLetter


def _read(entry_id: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter | None:
    """None when it is none, which keeps nobody from the others."""
    try:
        return DeadLetter.model_validate_json(fields[b"letter"])
    except (KeyError, ValidationError):
        log.warning("an entry of the dead letters is none", entry=entry_id.decode())
        return None


class DeadLetters:
    """The stream of dead letters, oldest first. It keeps the newest `max_letters`; rows of failed images stay."""

    def __init__(self, redis: RedisClient, max_letters: int) -> None:
        self._redis, self._max_letters = redis, max_letters
        self._add = redis.register_script(_ADD)

    def add(self, letter: DeadLetter) -> None:
        """Files a letter that belongs to no chunk. Raises HouseError."""
        with redis_away():
            self._add(keys=[DEAD_LETTERS], args=[self._max_letters, letter.model_dump_json()])

    def list(self, *, job_id: str | None = None, code: str | None = None) -> Iterator[FiledLetter]:
        """Letters of that job and code, in pages: constant memory. Raises HouseError."""
        start = "-"
        while True:
            with redis_away():
                page = self._redis.xrange(DEAD_LETTERS, min=start, count=500)
            for entry_id, fields in page:
                letter = _read(entry_id, fields)
                if letter is None:
                    continue
                if job_id in (None, letter.job_id) and code in (None, letter.code):
                    yield FiledLetter(entry_id.decode(), letter)
            if len(page) < 500:
                return
            start = f"({page[-1][0].decode()}"

    def remove(self, entry_id: str) -> bool:
        """Whether it was still there. Raises HouseError."""
        with redis_away():
            return bool(self._redis.xdel(DEAD_LETTERS, entry_id))
