"""CUDA graphs: what the device does in hundreds of small launches, recorded once for each shape and launched as one.

All of them are captured before the first work comes. A capture in the middle of it would stop everything for as long
as a hundred steps take, and one that fails (memory is short by then) can leave torch's allocator in a state in which
nothing works any more.
"""

from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, Protocol

import torch


class CaptureFailed(Exception):
    """Something cannot be recorded. The device works; nothing is captured."""


class Runner(Protocol):
    """How a stage is run: `run` is a function of nothing, which reads and writes tensors that stay where they are."""

    def capture(self, key: Hashable, run: Callable[[], Any]) -> None:
        """Prepares for `run`, which does whatever `key` says. Raises CaptureFailed."""
        ...

    def has(self, key: Hashable) -> bool: ...

    def run(self, key: Hashable, run: Callable[[], Any]) -> Any:
        """What it returns; tensors among it are overwritten by the next run with the same key."""
        ...

    def drop(self) -> bool:
        """Forgets what was captured; whether there was anything."""
        ...


class Called:
    """Calls it."""

    def capture(self, key: Hashable, run: Callable[[], Any]) -> None:
        """There is nothing to prepare."""

    def has(self, key: Hashable) -> bool:
        return False

    def run(self, key: Hashable, run: Callable[[], Any]) -> Any:
        return run()

    def drop(self) -> bool:
        return False


class Place:
    """Where graphs are captured that never run at the same time: they share the memory that they need in between.

    That of matrix products belongs to a stream, so that others, which may run beside them, have another place.
    """

    def __init__(self) -> None:
        self.stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()

    def leave(self) -> None:
        """After a capture that broke. torch before 2.12 leaves its allocator in the middle of it."""
        with suppress(AttributeError, RuntimeError):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self.pool)


class Graphs:
    """Replays it as a CUDA graph if it was captured, and calls it if not.

    What a graph relies on: all that it reads and writes lies in tensors that do not move; nothing in it waits for the
    device, or asks it for a value.
    """

    def __init__(self, place: Place) -> None:
        self._captured: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any]] = {}
        self._place = place

    def capture(self, key: Hashable, run: Callable[[], Any]) -> None:
        try:
            # Libraries set themselves up and kernels are compiled in the first call, which no graph may hold.
            run()
            graph = torch.cuda.CUDAGraph()
            # Other threads may use CUDA meanwhile; only this one's calls are recorded.
            with torch.cuda.graph(graph, self._place.pool, self._place.stream, capture_error_mode="thread_local"):
                result = run()
        except Exception as error:
            self._place.leave()
            self.drop()
            raise CaptureFailed(f"{key}: {type(error).__name__}: {error}") from error
        self._captured[key] = graph, result

    def has(self, key: Hashable) -> bool:
        return key in self._captured

    def run(self, key: Hashable, run: Callable[[], Any]) -> Any:
        if key not in self._captured:
            return run()
        graph, result = self._captured[key]
        graph.replay()
        return result

    def drop(self) -> bool:
        had_any = bool(self._captured)
        self._captured.clear()
        # A pool that nobody uses is gone for torch, though libraries may still have memory in it: capturing into it
        # again ends in an assertion of its allocator.
        self._place = Place()
        return had_any
