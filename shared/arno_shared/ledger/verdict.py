"""What the ledger says of a message that asks for a chunk, and of a job that is opened."""

from dataclasses import dataclass
from enum import StrEnum

from arno_shared.ledger.status import JobState


class Verdict(StrEnum):
    GO = "go"
    COMMITTED = "committed"
    UNSURE = "unsure"
    """Its index is committed: only the result object can tell whether by this chunk."""
    CANCELLED = "cancelled"
    PAUSED = "paused"
    UNNUMBERED = "unnumbered"
    """It names no index, and the ledger knows of none that was given: what stands in storage may."""
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
