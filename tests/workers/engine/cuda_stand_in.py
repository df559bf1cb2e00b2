"""Stands in for CUDA on a CPU, as hard to please as the real one where it can be.

- A graph is a tape: what torch does while it is captured is recorded, with the very tensors, and done again when it is
  replayed; no Python runs then. What would wait for the device cannot be captured.
- A pool of memory lives as long as a graph that uses it, and nothing can be captured into one that is gone.
- Copies that need not be waited for are done no sooner than somebody waits for them: who reads too early reads what was
  there before.
- A capture fails where it is told to.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "item", "masked_select", "equal"}
"""What asks the device for a value."""


class Stream:
    def __init__(self) -> None:
        self.copies: list[Callable[[], None]] = []

    def synchronize(self) -> None:
        self.catch_up(len(self.copies))

    def wait_event(self, event: "Event") -> None:
        """Work is done in the order in which it is asked for."""

    def wait_stream(self, other: "Stream") -> None:
        other.catch_up(len(other.copies))

    def catch_up(self, count: int) -> None:
        with _disable_current_modes():
            for copy in self.copies[:count]:
                copy()
        del self.copies[:count]


class Graph:
    cuda: "StandInCuda"

    def __init__(self) -> None:
        self.tape: list[tuple[Any, Sequence[Any], dict[str, Any], Any]] | None = None

    def replay(self) -> None:
        assert self.tape is not None, "nothing was captured"
        self.cuda.replays += 1
        for function, args, kwargs, result in self.tape:
            again = function(*args, **kwargs)
            inputs = {_address(each) for each in _tensors((args, kwargs))}
            for old, new in zip(_tensors(result), _tensors(again), strict=True):
                if _address(old) not in inputs:
                    old.copy_(new)


class Event:
    cuda: "StandInCuda"

    def record(self) -> None:
        self._stream = self.cuda.stream
        self._before = len(self._stream.copies)
        self._asked = False

    def synchronize(self) -> None:
        self._stream.catch_up(min(self._before, len(self._stream.copies)))
        self._before = 0

    def query(self) -> bool:
        """Not done yet when it is asked for the first time."""
        asked, self._asked = self._asked, True
        return asked


class StandInCuda(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.default = self.stream = Stream()
        self.captures = self.replays = 0
        self.fails_at: int | None = None
        """How many captures go well before one fails."""
        self._capturing: Graph | None = None
        self._pools: dict[int, int] = {}
        self._pinned: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if self._capturing is not None:
            assert name not in WAITS, f"{name} waits for the device, which is not possible in a capture"
            result = func(*args, **kwargs)
            assert self._capturing.tape is not None
            self._capturing.tape.append((func, args, kwargs, result))
            return result
        if name == "copy_" and (kwargs.get("non_blocking") or args[2:3] == (True,)):
            target, source = args[0], args[1].clone()
            if self.stream is not self.default or _address(target) in self._pinned:
                self.stream.copies.append(lambda: func(target, source))
                return target
        return func(*args, **kwargs)

    def pinned(self, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
            tensor = make(*args, **kwargs)
            if pin_memory and tensor.numel():
                self._pinned.add(_address(tensor))
            return tensor

        return made

    def new_pool(self) -> int:
        self._pools[len(self._pools)] = -1
        return len(self._pools) - 1

    @contextmanager
    def graph(self, graph: Graph, pool: int, stream: Stream, **_: object) -> Iterator[None]:
        assert self._capturing is None, "two captures at a time"
        if self._pools[pool] == 0:
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
        if self.fails_at == self.captures:
            raise torch.OutOfMemoryError("CUDA out of memory, in the middle of a capture")
        self._pools[pool] = max(self._pools[pool], 0) + 1
        weakref.finalize(graph, self._leave, pool)
        self._capturing, graph.tape = graph, []
        try:
            yield
        finally:
            self._capturing = None
        self.captures += 1

    def _leave(self, pool: int) -> None:
        self._pools[pool] -= 1

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before


@contextmanager
def stand_in_cuda() -> Iterator[StandInCuda]:
    """torch.cuda, and what the engine asks for by the name of a device, are the stand-in's."""
    from arno_workers.engine import florence, slots, staging

    cuda = StandInCuda()
    # It keeps the constructors that it finds in torch when it is asked first.
    torch.utils._device._device_constructors()
    graph, event = (type(f"Bound{each.__name__}", (each,), {"cuda": cuda}) for each in (Graph, Event))
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name, value in (
            ("graph", cuda.graph),
            ("CUDAGraph", graph),
            ("Event", event),
            ("Stream", Stream),
            ("stream", cuda.on),
            ("current_stream", lambda: cuda.stream),
            ("current_device", lambda: 0),
            ("graph_pool_handle", cuda.new_pool),
        ):
            patch.setattr(torch.cuda, name, value)
        for name in ("ones", "empty", "empty_like"):
            patch.setattr(torch, name, cuda.pinned(getattr(torch, name)))
        patch.setattr(Tensor, "pin_memory", lambda self: self)
        patch.setattr(Tensor, "record_stream", lambda self, stream: None)
        for module in (florence, slots, staging):
            patch.setattr(module, "is_cuda", lambda _: True)
        stack.enter_context(cuda)
        yield cuda


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
