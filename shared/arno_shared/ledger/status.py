"""A job's status, as the ledger counts it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal, TypeAlias, cast

from arno_shared.messages import WireModel


class JobState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    """Chunks in hand are finished; others are kept until the job goes on."""
    CANCELLED = "cancelled"
    DONE = "done"
    INCOMPLETE = "incomplete"
    """Nothing was heard of it for long, its submission perhaps broke off: what is not done of it waits for nobody."""


TERMINAL_STATES = frozenset({JobState.CANCELLED, JobState.DONE, JobState.INCOMPLETE})

Origin: TypeAlias = Literal["producer", "sender", "message"]

_FAILED = "failed:"


class JobStatus(WireModel):
    """Counts are of images unless they say chunks. `images = ok + failed + put_off + dead + waiting`."""

    job_id: str
    state: JobState
    origin: Origin = "producer"
    """Who opened it: a producer, which has a manifest; the sender of its one chunk; or messages, its own or others'."""
    sealed: bool
    """Everything is submitted: `images` and `chunks` are final."""
    output_prefix: str
    output_format: str
    chunks: int
    chunks_committed: int
    images: int
    ok: int
    failed: int
    """Failed for good; each has a row that says why."""
    put_off: int
    """Failed transiently; waiting for a later attempt."""
    dead: int
    """In chunks that were dead-lettered whole, and so have no rows."""
    failed_by_code: dict[str, int]
    created_at: datetime
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        return self.state in TERMINAL_STATES

    @property
    def settled(self) -> int:
        """Images that nothing more will happen to."""
        return self.ok + self.failed + self.dead

    @classmethod
    def from_hash(cls, job_id: str, fields: Mapping[bytes, bytes]) -> "JobStatus":
        text = {key.decode(): value.decode() for key, value in fields.items()}

        def number(field: str) -> int:
            return int(text.get(field, 0))

        def time(field: str) -> datetime:
            return datetime.fromtimestamp(float(text[field]), UTC)

        return cls(
            job_id=job_id,
            state=JobState(text["state"]),
            origin=cast(Origin, text["origin"]),
            sealed=text["sealed"] == "1",
            output_prefix=text["prefix"],
            output_format=text["format"],
            chunks=number("chunks"),
            chunks_committed=number("committed"),
            images=number("images"),
            ok=number("ok"),
            failed=number("failed"),
            put_off=number("put_off"),
            dead=number("dead"),
            failed_by_code={
                key.removeprefix(_FAILED): int(value)
                for key, value in sorted(text.items())
                if key.startswith(_FAILED) and int(value) > 0
            },
            created_at=time("created_at"),
            finished_at=time("finished_at") if "finished_at" in text else None,
        )
