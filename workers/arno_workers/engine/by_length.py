"""The decoder's attention that reads of each slot what is there: its prompt, each beam's own past, and no further."""

import torch
from torch import Tensor

from arno_workers.engine.beams import Beams
from arno_workers.engine.caches import SlotCaches
from arno_workers.engine.functions import Extent
from arno_workers.engine.kernels.cross_attention import cross_attention
from arno_workers.engine.kernels.own_attention import own_attention


class AttentionByLength:
    """As MaskedAttention. A slot that is done reads nothing, and gets zeros."""

    def __init__(self, beams: Beams, caches: SlotCaches, extent: Extent, position: Tensor) -> None:
        slots = extent.slots
        self._caches, self._slots = caches, slots
        self._lineage = beams.lineage[:slots]
        done = beams.done[:slots]
        self._own_length = torch.where(done, 0, position + 1)
        self._cross_length = torch.where(done, 0, caches.cross_length[:slots])

    def own(self, layer: int, fused: Tensor) -> Tensor:
        caches = self._caches
        return own_attention(fused, caches.own_keys[layer], caches.own_values[layer], self._lineage, self._own_length)

    def cross(self, layer: int, queries: Tensor) -> Tensor:
        caches = self._caches
        return cross_attention(queries, caches.cross_keys[layer], caches.cross_values[layer], self._cross_length)
