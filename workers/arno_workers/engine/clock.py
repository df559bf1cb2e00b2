"""Times the stages of the device's work: vision, encode, step."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeAlias

Observe: TypeAlias = Callable[[str, int, float], None]
"""Called with the stage, the size of its batch, and the seconds that it took."""


def unobserved(stage: str, size: int, seconds: float) -> None:
    """Nobody wants to know."""


class StageClock:
    """For a device that has done the work when the call returns."""

    def __init__(self, observe: Observe) -> None:
        self._observe = observe

    @contextmanager
    def stage(self, name: str, size: int) -> Iterator[None]:
        """Nothing is observed of a stage that fails."""
        began_s = perf_counter()
        yield
        self._observe(name, size, perf_counter() - began_s)


class DeviceStageClock(StageClock):
    """For a device to which work is handed, and which does it later: events in its own stream are its clock.

    They are read once the device has passed them, when a later stage ends, so that nobody waits for it.
    """

    def __init__(self, observe: Observe, new_event: Callable[[], Any]) -> None:
        """`new_event`: as `torch.cuda.Event`, with timing."""
        super().__init__(observe)
        self._new_event = new_event
        self._passing: deque[tuple[str, int, Any, Any]] = deque()

    @contextmanager
    def stage(self, name: str, size: int) -> Iterator[None]:
        began, ended = self._new_event(), self._new_event()
        began.record()
        yield
        ended.record()
        self._passing.append((name, size, began, ended))
        while self._passing and self._passing[0][3].query():
            passed, batch, first, last = self._passing.popleft()
            self._observe(passed, batch, first.elapsed_time(last) / 1000)
