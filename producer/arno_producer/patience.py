"""Waiting out the house: a submission that has begun does not fail at once when Redis or storage is away."""

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

from arno_shared.errors import ArnoError, HouseError
from arno_shared.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


def until_back(call: Callable[[], T], patience_s: float) -> T:
    """What `call` returns. It is made again for up to `patience_s` while what it needs is away or too busy, so that it
    must be one that may be made twice.

    Raises HouseError when that time is over, and whatever else `call` raises.
    """
    give_up_s = None
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except ArnoError as error:
            if not error.retryable:
                raise
            give_up_s = give_up_s or monotonic() + patience_s
            left_s = give_up_s - monotonic()
            if left_s <= 0:
                raise HouseError(str(error)) from error
            log.warning("waiting", error=str(error), left_s=round(left_s))
            sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
