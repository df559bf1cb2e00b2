"""Attention of a few queries over static caches."""

import torch
import torch.nn.functional as F
from torch import Tensor

from arno_workers.engine.beams import Beams
from arno_workers.engine.caches import SlotCaches
from arno_workers.engine.functions import Extent


def attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """(…, queries, D): softmax(queries · keys / √D + bias) · values.

    queries: (…, queries, D); keys, values: (…, keys, D); bias: broadcast to (…, queries, keys), -inf where a key does
    not count. In float32 as plain products, which with one to five queries are a third faster on a CPU; in half
    precision as torch's fused attention, which keeps in float32 what products would round on the way.
    """
    if queries.dtype != torch.float32:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    weights = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    return torch.softmax(weights + bias, -1) @ values


class MaskedAttention:
    """Reads as far as the longest prompt and the longest answer nearby reach, and masks what is not a beam's own."""

    def __init__(self, beams: Beams, caches: SlotCaches, extent: Extent, position: Tensor) -> None:
        self._caches, self._extent, self._position = caches, extent, position
        slots, tokens = extent.slots, extent.tokens
        width = beams.rules.num_beams
        self._place = (
            torch.arange(slots, device=position.device)[:, None],
            torch.arange(caches.heads, device=position.device)[None],
            position[:, None],
        )
        rows = torch.arange(width, device=position.device)
        # Every row of a slot is looked at by all of its beams, but each sees its own past alone.
        own_bias = torch.where(beams.lineage[:slots, :, :tokens, None] == rows, 0.0, -torch.inf)
        self._own_bias = own_bias.flatten(2)[:, None].to(caches.dtype)
        self._cross_bias = caches.cross_bias[:slots, ..., : extent.prompt_tokens]

    def own(self, layer: int, fused: Tensor) -> Tensor:
        slots = self._extent.slots
        split = fused.view(slots, -1, 3, self._caches.heads, self._caches.width)
        queries, new_keys, new_values = split.permute(2, 0, 3, 1, 4).unbind(0)
        keys, values = self._caches.own_keys[layer], self._caches.own_values[layer]
        keys[self._place] = new_keys
        values[self._place] = new_values
        seen, first = [], 0
        for last, tokens in self._extent.answers:
            some_keys, some_values = (cache[first:last, :, :tokens].flatten(2, 3) for cache in (keys, values))
            bias = self._own_bias[first:last, ..., : tokens * queries.shape[2]]
            seen.append(attend(queries[first:last], some_keys, some_values, bias))
            first = last
        return (seen[0] if len(seen) == 1 else torch.cat(seen)).transpose(1, 2).flatten(2)

    def cross(self, layer: int, queries: Tensor) -> Tensor:
        slots, length = self._extent.slots, self._extent.prompt_tokens
        keys = self._caches.cross_keys[layer, :slots, :, :length]
        values = self._caches.cross_values[layer, :slots, :, :length]
        split = queries.view(slots, -1, self._caches.heads, self._caches.width).transpose(1, 2)
        return attend(split, keys, values, self._cross_bias).transpose(1, 2).flatten(2)
