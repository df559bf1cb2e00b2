"""Chunks run together; one that workers have died of runs alone.

Without it, a picture that kills the process takes the blame of its neighbours with it: they are in hand as often as it
is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition

_LOOK_EVERY_S = 0.2


class Quarantine:
    """Thread-safe. `wait` is called now and then while there is waiting to be done; what it raises is passed on."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._together = 0
        self._alone = False
        self._suspects_waiting = 0

    @contextmanager
    def together(self, wait: Callable[[], None]) -> Iterator[None]:
        """With others, while no suspect is there."""
        with self._changed:
            self._until(lambda: not self._alone and not self._suspects_waiting, wait)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self, wait: Callable[[], None]) -> Iterator[None]:
        """With nobody else in this worker."""
        with self._changed:
            self._suspects_waiting += 1
            try:
                self._until(lambda: not self._alone and not self._together, wait)
                self._alone = True
            finally:
                self._suspects_waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()

    def _until(self, ready: Callable[[], bool], wait: Callable[[], None]) -> None:
        while not ready():
            self._changed.wait(_LOOK_EVERY_S)
            wait()
