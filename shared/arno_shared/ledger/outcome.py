"""What the ledger is told of a chunk: what became of its images, or what of it is suspect."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from arno_shared.dead_letters import DeadLetter
from arno_shared.messages import Chunk
from arno_shared.names import Lane
from arno_shared.topic import ChunkEvent

Suspect: TypeAlias = int | Literal["whole"]
"""What runs alone in a worker: an image, by its position in the chunk, or what a chunk is without any."""


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
