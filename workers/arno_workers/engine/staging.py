"""Between host and device without waiting: through pinned memory, on CUDA.

torch's allocator of pinned memory knows of the copies that read it, and gives a block away again only when they are
done: nobody has to hold on to a picture until it has arrived.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor


def pin(picture: NDArray[Any], device: str) -> Tensor:
    """A picture, uint8 (height, width, 3), where the device can fetch it. From any thread."""
    held = torch.from_numpy(picture)
    return held.pin_memory() if is_cuda(device) else held


class Uploads(Protocol):
    def upload(self, pictures: Sequence[Tensor]) -> AbstractContextManager[Tensor]:
        """A context in which these pictures are on the device: uint8 (pictures, height, width, 3)."""
        ...


class Stacked:
    """Where the host's memory is the device's."""

    @contextmanager
    def upload(self, pictures: Sequence[Tensor]) -> Iterator[Tensor]:
        yield torch.stack(list(pictures))


class CopyStream:
    """Pinned pictures are copied while the device computes: there are two places for a batch, of which one is filled
    while the other is read."""

    def __init__(self, most: int, height: int, width: int, device: str) -> None:
        """`most`: pictures in a batch."""
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._places = [torch.empty((most, height, width, 3), dtype=torch.uint8, device=device) for _ in range(2)]
        self._read = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
        for read in self._read:
            # What was in this memory before may still be in use.
            read.record()
        self._turn = 0

    @contextmanager
    def upload(self, pictures: Sequence[Tensor]) -> Iterator[Tensor]:
        place, read = self._places[self._turn], self._read[self._turn]
        self._turn = 1 - self._turn
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(read)
            for row, picture in zip(place[: len(pictures)], pictures, strict=True):
                row.copy_(picture, non_blocking=True)
        torch.cuda.current_stream().wait_stream(self._stream)
        try:
            yield place[: len(pictures)]
        finally:
            read.record()


class Arrival:
    """Tensors on their way to the host, which comes for them when they are there."""

    def __init__(self, *tensors: Tensor) -> None:
        self._event: Any = None
        self._tensors = tensors
        if is_cuda(tensors[0].device):
            self._tensors = tuple(torch.empty_like(each, device="cpu", pin_memory=True) for each in tensors)
            for here, there in zip(self._tensors, tensors, strict=True):
                here.copy_(there, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def get(self) -> tuple[Tensor, ...]:
        """Waits for them."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensors


def whole_numbers(values: Sequence[int] | Sequence[Sequence[int]], device: str) -> Tensor:
    """On the device. `torch.tensor` would wait there until all that was queued before it is done."""
    numbers = torch.tensor(values, dtype=torch.long)
    return (numbers.pin_memory() if is_cuda(device) else numbers).to(device, non_blocking=True)


def is_cuda(device: str | torch.device) -> bool:
    return torch.device(device).type == "cuda"
