"""From the host to the device without waiting: through pinned memory, on CUDA.

torch's allocator of pinned memory knows of the copies that read it, and gives a block away again only when they are
done: nobody has to hold on to a picture until it has arrived.
"""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def pin(picture: NDArray[Any], device: str) -> Tensor:
    """A picture, uint8 (height, width, 3), where the device can fetch it. From any thread."""
    held = torch.from_numpy(picture)
    return held.pin_memory() if _is_cuda(device) else held


def to_device(pictures: Sequence[Tensor], device: str) -> Tensor:
    """Pinned pictures → uint8 (pictures, height, width, 3) on the device."""
    if not _is_cuda(device):
        return torch.stack(list(pictures))
    batch = torch.empty((len(pictures), *pictures[0].shape), dtype=torch.uint8, device=device)
    for place, picture in zip(batch, pictures, strict=True):
        place.copy_(picture, non_blocking=True)
    return batch


def whole_numbers(values: Sequence[int] | Sequence[Sequence[int]], device: str) -> Tensor:
    """On the device. `torch.tensor` would wait there until all that was queued before it is done."""
    numbers = torch.tensor(values, dtype=torch.long)
    return numbers.pin_memory().to(device, non_blocking=True) if _is_cuda(device) else numbers


def _is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"
