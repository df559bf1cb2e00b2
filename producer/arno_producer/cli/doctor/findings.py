"""What the doctor finds: one line each."""

from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing is broken."""
    FAILED = "failed"


class Finding(NamedTuple):
    check: str
    verdict: Verdict
    says: str
    mend: str = ""
    """What to do about it."""
