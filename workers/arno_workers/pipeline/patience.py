"""Waiting out the house: Redis or storage is away, and nobody's work fails for it."""

import random
from collections.abc import Callable
from threading import Event
from time import monotonic
from typing import TypeVar

from arno_shared.errors import HouseError
from arno_shared.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_SIGN_EVERY_S = 1.0
"""Somebody may watch whether anything moves."""


class Drained(Exception):
    """The worker is stopping and this chunk is not done: its message goes back to the queue."""


class LetGo(Drained):
    """Nothing was heard of a chunk for so long that its lease was let go: others may have its message."""


class Drain:
    """Whether the worker is to stop, and until when chunks in flight may take to finish."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._begun = Event()
        self._deadline_s = float("inf")

    def begin(self) -> None:
        self._end_at(monotonic() + self._grace_s)

    def end_now(self) -> None:
        """For when nothing in flight can finish any more."""
        self._end_at(monotonic())

    def _end_at(self, deadline_s: float) -> None:
        self._deadline_s = min(self._deadline_s, deadline_s)
        self._begun.set()

    def check(self) -> None:
        """Raises Drained once the time is up."""
        if monotonic() >= self._deadline_s:
            raise Drained

    def pause(self, seconds: float) -> None:
        """Waits, less when the worker begins to stop. Raises Drained once the time is up."""
        if self._begun.is_set():
            # No longer woken by the event: look at the deadline often.
            Event().wait(min(seconds, 0.2))
        else:
            self._begun.wait(seconds)
        self.check()


def until_back(call: Callable[[], T], what: str, drain: Drain, waiting: Callable[[], None] = lambda: None) -> T:
    """What `call` returns, however long the house is away; `waiting` is called now and then meanwhile.

    Raises Drained, and whatever else `call` raises.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except HouseError as error:
            log.warning("waiting", what=what, error=str(error), pause_s=round(pause_s, 1))
            _pause(pause_s * random.uniform(0.7, 1.3), drain, waiting)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _pause(seconds: float, drain: Drain, waiting: Callable[[], None]) -> None:
    until_s = monotonic() + seconds
    while (left_s := until_s - monotonic()) > 0:
        waiting()
        drain.pause(min(left_s, _SIGN_EVERY_S))
