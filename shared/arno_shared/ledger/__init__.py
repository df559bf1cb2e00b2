"""The ledger: what is known of each job, in Redis, changed only by atomic scripts."""

from arno_shared.ledger.ledger import Ledger
from arno_shared.ledger.log import Commit, indices_of
from arno_shared.ledger.outcome import Found, Outcome, Suspect
from arno_shared.ledger.status import TERMINAL_STATES, JobState, JobStatus
from arno_shared.ledger.verdict import Begun, Message, Opened, Verdict

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
