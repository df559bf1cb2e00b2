"""Merges a LoRA adapter into the weights while they are loaded: unmerged, it would cost a third product in each layer,
with every step."""

from pathlib import Path

import torch
from torch import Tensor

from arno_shared.checkpoint.adapter import Adapter
from arno_shared.errors import ModelUnusable
from arno_workers.engine.checkpoint.weights import Weights, tensors_in


def merge(weights: Weights, adapter: Adapter, folder: Path) -> None:
    """In float32, which what is merged stays in. A head that is hit is no longer the vocabulary's matrix, nor the other
    way round. `adapter` fits. Raises ModelUnusable."""
    tensors: dict[str, Tensor] = {}
    for file in adapter.files:
        tensors |= tensors_in(folder / file)
    for one in adapter.factors:
        change = tensors[one.up].float() @ tensors[one.down].float()
        base = tensors[one.base] if one.base else weights.tensors[one.weight]
        # A new tensor: what the head shared with the vocabulary stays as it was.
        merged = base.float() + one.scale * change
        if not torch.isfinite(merged).all():
            raise ModelUnusable(f"with the adapter's {one.down}, {one.weight} holds values that are not finite numbers")
        weights.tensors[one.weight] = merged
