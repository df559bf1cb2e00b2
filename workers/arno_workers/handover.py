"""Hands things over from many threads to a few, a bounded number at a time."""

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Condition
from time import sleep
from typing import Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """`put` blocks when `max_items` wait; `take` returns all there is, up to as many as it is asked for.

    A `SimpleQueue` does the work: it is written in C, and a picture that costs a fifth of a millisecond to decode
    should not cost as much to hand over. Python's own locks are taken only by those who find the queue full.
    """

    def __init__(self, max_items: int, taken: Callable[[], int] = lambda: 0) -> None:
        """`taken`: how many were taken that count as waiting still; whoever lowers it calls `wake`."""
        self._items: SimpleQueue[T | None] = SimpleQueue()
        self._max_items, self._taken = max_items, taken
        self._room = Condition()
        self._blocked = 0

    def put(self, item: T) -> None:
        """Blocks while too many wait."""
        if self._is_full():
            self._wait_for_room()
        self._items.put(item)

    def put_at_once(self, item: T) -> None:
        """Never blocks, however many wait: for what takes no room."""
        self._items.put(item)

    def take(self, max_items: int = 1, linger_s: float = 0) -> list[T]:
        """Blocks until there is something; empty once it is closed and drained. When less than `max_items` is there,
        it waits `linger_s` once for more."""
        first = self._items.get()
        if first is None:
            self._items.put(None)
            return []
        if linger_s and self._items.qsize() < max_items - 1:
            sleep(linger_s)
        return [first, *self._drain(max_items - 1)]

    def take_now(self) -> list[T]:
        """All there is, without waiting for more."""
        return self._drain(self._items.qsize())

    def wake(self) -> None:
        """Lets those who are blocked look again."""
        if self._blocked:
            with self._room:
                self._room.notify_all()

    def close(self) -> None:
        self._items.put(None)

    def _drain(self, max_items: int) -> list[T]:
        batch: list[T] = []
        with suppress(Empty):
            while len(batch) < max_items:
                item = self._items.get_nowait()
                if item is None:
                    self._items.put(None)
                    break
                batch.append(item)
        self.wake()
        return batch

    def _is_full(self) -> bool:
        return self._items.qsize() + self._taken() >= self._max_items

    def _wait_for_room(self) -> None:
        with self._room:
            self._blocked += 1
            while self._is_full():
                # Not for ever: room may have been made between the look and the wait.
                self._room.wait(0.05)
            self._blocked -= 1
