"""Merges a LoRA adapter into the weights while they are loaded: unmerged, it would cost a third product in each layer,
with every step."""

from pathlib import Path

from torch import Tensor

from arno_shared.checkpoint.adapter import Adapter
from arno_shared.checkpoint.shapes import COPIES, VOCABULARY
from arno_shared.errors import ModelUnusable
from arno_workers.engine.checkpoint.weights import Weights, tensors_in


def merge(weights: Weights, adapter: Adapter, folder: Path) -> None:
    """In float32, which what is merged stays in. A head that is hit is no longer the vocabulary's matrix, nor the other
    way round. `adapter` fits. Raises ModelUnusable."""
    factors: dict[str, Tensor] = {}
    for file in adapter.files:
        factors |= tensors_in(folder / file)
    for one in adapter.factors:
        if one.weight in (VOCABULARY, *COPIES):
            raise ModelUnusable(f"the adapter's {one.down} adapts the vocabulary, which is not supported")
        change = factors[one.up].float() @ factors[one.down].float()
        # A new tensor: what the head shared with the vocabulary stays as it was.
        weights.tensors[one.weight] = weights.tensors[one.weight].float() + one.scale * change
