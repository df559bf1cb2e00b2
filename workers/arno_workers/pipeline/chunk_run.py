"""A chunk in flight: which of its images have settled, and how."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock

from arno_shared.errors import ItemError
from arno_shared.messages import Chunk, ImageRef
from arno_shared.names import Lane
from arno_workers.engine import Answered


@dataclass(slots=True)
class Item:
    """One image on its way through a worker. Sizes in pixels, times in milliseconds."""

    run: "ChunkRun"
    position: int
    tries: int = 0
    """Tries that failed transiently."""
    house_waits: int = 0
    """Times that storage was away; these count as nobody's tries."""
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    fetch_ms: float = 0.0
    decode_ms: float = 0.0
    answered: Answered | None = None
    error: ItemError | None = None

    @property
    def image(self) -> ImageRef:
        return self.run.chunk.images[self.position]

    def settle(self, outcome: Answered | ItemError) -> None:
        if isinstance(outcome, ItemError):
            self.error = outcome
        else:
            self.answered = outcome
        self.run.settled_one()


@dataclass(slots=True)
class ChunkRun:
    chunk: Chunk
    lane: Lane
    heard: Callable[[], None] = lambda: None
    """Called whenever there is a sign of life: an image settled, or waits for the house."""
    trace: str | None = None
    """The traceparent of the span that its images run in."""
    items: list[Item] = field(init=False)
    settled: Event = field(default_factory=Event)
    _unsettled: int = field(init=False)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.items = [Item(self, position) for position in range(len(self.chunk.images))]
        self._unsettled = len(self.items)

    def spent_ms(self) -> dict[str, float]:
        """What its images spent in each stage, together, as attributes of a span."""
        answered = [item.answered for item in self.items if item.answered]
        return {
            "arno__fetch_ms": round(sum(item.fetch_ms for item in self.items), 2),
            "arno__decode_ms": round(sum(item.decode_ms for item in self.items), 2),
            "arno__wait_ms": round(sum(one.wait_ms for one in answered), 2),
            "arno__model_ms": round(sum(one.model_ms for one in answered), 2),
        }

    def settled_one(self) -> None:
        self.heard()
        with self._lock:
            self._unsettled -= 1
            if not self._unsettled:
                self.settled.set()
