"""What the decoder remembers of each slot: keys and values of its picture and prompt, and of what it has said.

Static memory, made once. Beams share the cross-attention cache, and nothing is ever moved: a beam that takes over
another's past reads it where it stands (see `Beams.lineage`).
"""

import numpy as np
import torch
from torch import Tensor


class SlotCaches:
    """L layers, S slots, H heads, P picture and prompt tokens, T generated tokens, W beams, D head width."""

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        heads: int,
        width: int,
        prompt_tokens: int,
        tokens: int,
        beams: int,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        cross = (layers, slots, heads, prompt_tokens, width)
        own = (layers, slots, heads, tokens, beams, width)
        self.cross_keys, self.cross_values = (_zeros(cross, dtype, device) for _ in range(2))
        self.own_keys, self.own_values = (_zeros(own, dtype, device) for _ in range(2))
        self.cross_bias = _zeros((slots, 1, 1, prompt_tokens), dtype, device)

    @staticmethod
    def bytes_per_slot(
        *, layers: int, heads: int, width: int, prompt_tokens: int, tokens: int, beams: int, dtype: torch.dtype
    ) -> int:
        return 2 * layers * heads * width * (prompt_tokens + tokens * beams) * dtype.itemsize

    def fill(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Writes cross-attention keys and values, (L, n, H, prompt tokens, D), of new requests into `slots`, (n,)."""
        length = keys.shape[3]
        self.cross_keys[:, slots, :, :length] = keys
        self.cross_values[:, slots, :, :length] = values
        self.cross_bias[slots, :, :, :length] = 0
        self.cross_bias[slots, :, :, length:] = -torch.inf


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Zeros, not what happens to be there: masked positions are multiplied by 0, and 0 × NaN is NaN.

    On a CPU they are numpy's, which the system backs with memory only where something is written: long answers are
    rare, but every slot has room for one.
    """
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros((*shape[:-1], shape[-1] * dtype.itemsize), np.uint8)).view(dtype)
