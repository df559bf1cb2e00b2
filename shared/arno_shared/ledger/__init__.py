"""The ledger: what is known of each job, in Redis, changed only by atomic scripts."""

from arno_shared.ledger.ledger import (
    Begun,
    Commit,
    Found,
    Ledger,
    Message,
    Opened,
    Outcome,
    Suspect,
    Verdict,
    indices_of,
)
from arno_shared.ledger.status import TERMINAL_STATES, JobState, JobStatus

__all__ = [
    "TERMINAL_STATES",
    "Begun",
    "Commit",
    "Found",
    "JobState",
    "JobStatus",
    "Ledger",
    "Message",
    "Opened",
    "Outcome",
    "Suspect",
    "Verdict",
    "indices_of",
]
