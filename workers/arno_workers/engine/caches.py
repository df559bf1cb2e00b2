"""What the decoder remembers of each slot: keys and values of its picture and prompt, and of what it has said.

Beams share the cross-attention cache, and nothing is moved when they change places: a beam that takes over another's
past reads it where it stands (see `Beams.lineage`).
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Room(NamedTuple):
    """How long what stands in a slot may be."""

    prompt_tokens: int
    """Of the picture and its prompt."""
    tokens: int
    """Of the answer, its start token included."""


class SlotCaches:
    """L layers, S slots, H heads, P picture and prompt tokens, T generated tokens, W beams, D head width."""

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        heads: int,
        width: int,
        beams: int,
        room: Room,
        most: Room,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        """With `room` at first, and `most` when longer ones come. One more than `slots`: for requests that are none,
        with which a batch is padded."""
        self.room, self._most = room, most
        self.heads, self.width, self.dtype = heads, width, dtype
        self.moves = 0
        """How often the tensors have been replaced by longer ones; who knows their addresses must look."""
        # Zeros, not what happens to be there: masked positions are multiplied by 0, and 0 × NaN is NaN.
        zeros = partial(torch.zeros, dtype=dtype, device=device)
        cross = (layers, slots + 1, heads, room.prompt_tokens, width)
        # One place more than there are tokens: for a slot to write in that is done.
        own = (layers, slots + 1, heads, room.tokens + 1, beams, width)
        self.cross_keys, self.cross_values = zeros(cross), zeros(cross)
        self.cross_bias = zeros((slots + 1, 1, 1, room.prompt_tokens))
        # (S + 1,): how much of them counts.
        self.cross_length = torch.zeros(slots + 1, dtype=torch.long, device=device)
        self.own_keys, self.own_values = zeros(own), zeros(own)

    @staticmethod
    def bytes_per_slot(*, layers: int, heads: int, width: int, beams: int, room: Room, dtype: torch.dtype) -> int:
        return 2 * layers * heads * width * (room.prompt_tokens + (room.tokens + 1) * beams) * dtype.itemsize

    def make_room(self, prompt_tokens: int, tokens: int) -> None:
        """So that prompts and answers of these lengths fit; what is in the caches stays."""
        if prompt_tokens > self.room.prompt_tokens:
            length = min(2 * prompt_tokens, self._most.prompt_tokens)
            self.cross_keys, self.cross_values = _longer(self.cross_keys, length), _longer(self.cross_values, length)
            self.cross_bias = F.pad(self.cross_bias, (0, length - self.room.prompt_tokens), value=-torch.inf)
            self.room, self.moves = self.room._replace(prompt_tokens=length), self.moves + 1
        if tokens > self.room.tokens:
            length = min(2 * tokens, self._most.tokens)
            self.own_keys, self.own_values = _longer(self.own_keys, length + 1), _longer(self.own_values, length + 1)
            self.room, self.moves = self.room._replace(tokens=length), self.moves + 1

    def clear(self, slots: Tensor) -> None:
        """For when something got in that spreads: 0 × NaN is NaN."""
        for cache in (self.cross_keys, self.cross_values, self.own_keys, self.own_values):
            cache.index_fill_(1, slots, 0)

    def fill(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Writes cross-attention keys and values, (L, n, H, prompt tokens, D), of new requests into `slots`, (n,)."""
        length = keys.shape[3]
        self.make_room(length, 0)
        self.cross_keys[:, slots, :, :length] = keys
        self.cross_values[:, slots, :, :length] = values
        # With numbers of the host in their place, assignments by index would wait for the device.
        self.cross_bias[..., :length].index_fill_(0, slots, 0)
        self.cross_bias[..., length:].index_fill_(0, slots, -torch.inf)
        self.cross_length.index_fill_(0, slots, length)


def _longer(cache: Tensor, length: int) -> Tensor:
    """With room for `length` in its fourth dimension."""
    longer = cache.new_zeros((*cache.shape[:3], length, *cache.shape[4:]))
    longer[:, :, :, : cache.shape[3]] = cache
    return longer
