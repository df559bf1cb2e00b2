"""What the decoder remembers of each slot: keys and values of its picture and prompt, and of what it has said.

Beams share the cross-attention cache, and nothing is moved when they change places: a beam that takes over another's
past reads it where it stands (see `Beams.lineage`).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

_FIRST_TOKENS = 64


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
        """Room for the longest prompts and answers; on a CPU, for short ones until longer ones come.

        On CUDA, where graphs know their addresses, memory must not move.
        """
        self._most = (prompt_tokens, tokens)
        if torch.device(device).type == "cpu":
            prompt_tokens, tokens = min(prompt_tokens, _FIRST_TOKENS), min(tokens, _FIRST_TOKENS)
        # Zeros, not what happens to be there: masked positions are multiplied by 0, and 0 × NaN is NaN.
        zeros = partial(torch.zeros, dtype=dtype, device=device)
        cross, own = (layers, slots, heads, prompt_tokens, width), (layers, slots, heads, tokens, beams, width)
        self.cross_keys, self.cross_values = zeros(cross), zeros(cross)
        self.cross_bias = zeros((slots, 1, 1, prompt_tokens))
        self.own_keys, self.own_values = zeros(own), zeros(own)

    @staticmethod
    def bytes_per_slot(
        *, layers: int, heads: int, width: int, prompt_tokens: int, tokens: int, beams: int, dtype: torch.dtype
    ) -> int:
        return 2 * layers * heads * width * (prompt_tokens + tokens * beams) * dtype.itemsize

    def make_room(self, prompt_tokens: int, tokens: int) -> None:
        """So that prompts and answers of these lengths fit; what is in the caches stays."""
        most_prompt_tokens, most_tokens = self._most
        now = self.cross_bias.shape[3]
        if prompt_tokens > now:
            length = min(2 * prompt_tokens, most_prompt_tokens)
            self.cross_keys, self.cross_values = _longer(self.cross_keys, length), _longer(self.cross_values, length)
            self.cross_bias = F.pad(self.cross_bias, (0, length - now), value=-torch.inf)
        # One place more, where a slot writes that is done.
        if min(tokens + 1, most_tokens) > self.own_keys.shape[3]:
            length = min(2 * tokens, most_tokens)
            self.own_keys, self.own_values = _longer(self.own_keys, length), _longer(self.own_values, length)

    def fill(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Writes cross-attention keys and values, (L, n, H, prompt tokens, D), of new requests into `slots`, (n,)."""
        length = keys.shape[3]
        self.make_room(length, 0)
        self.cross_keys[:, slots, :, :length] = keys
        self.cross_values[:, slots, :, :length] = values
        self.cross_bias[slots, :, :, :length] = 0
        self.cross_bias[slots, :, :, length:] = -torch.inf


def _longer(cache: Tensor, length: int) -> Tensor:
    """With room for `length` in its fourth dimension."""
    longer = cache.new_zeros((*cache.shape[:3], length, *cache.shape[4:]))
    longer[:, :, :, : cache.shape[3]] = cache
    return longer
