"""Takes pictures from the host to the device: as bytes, through pinned memory, without waiting."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from arno_workers.engine import Pixels


class Staging:
    """Two buffers in turn: one is filled by the host while the other is still being copied."""

    def __init__(self, pictures: int, height: int, width: int, device: str) -> None:
        self._device = torch.device(device)
        self._on_cuda = self._device.type == "cuda"
        shape = (pictures, height, width, 3)
        self._buffers = [torch.empty(shape, dtype=torch.uint8, pin_memory=self._on_cuda) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in self._buffers] if self._on_cuda else []  # type: ignore[no-untyped-call]
        self._turn = 0

    def to_device(self, pictures: Sequence[Pixels]) -> Tensor:
        """uint8 (pictures, height, width, 3) on the device. On a CPU it is only good until the call after the next."""
        self._turn = 1 - self._turn
        buffer = self._buffers[self._turn][: len(pictures)]
        if self._on_cuda:
            # What stands in the buffer may be on its way still.
            self._copied[self._turn].synchronize()
        np.stack(pictures, out=buffer.numpy())
        if not self._on_cuda:
            return buffer
        on_device = buffer.to(self._device, non_blocking=True)
        self._copied[self._turn].record()
        return on_device
