"""Attention of channels to channels, and its projection, in products that read the fused projection where it lies."""

import torch
from torch import Tensor


def channel_products(qkv: Tensor, groups: int, proj_weight: Tensor, proj_bias: Tensor) -> Tensor:
    """(n, places, C): what `channel_attention` gives between its two projections, and the second of them.

    qkv: (n, places, 3 · C), contiguous; the last is (3, groups, C / groups); proj_weight: (C, C); proj_bias: (C,).

    Queries are multiplied with keys of all groups, though only a group's own count: tensor cores do that sooner than
    anyone sorts groups apart. What a place sees, and the projection of that, are both linear in its values, so that
    they are one matrix for each picture, no larger than the projection's.

    In half precision the weights' logits are rounded once, after they were scaled; then the weights; then that matrix,
    where `channel_attention` rounds what is seen.
    """
    count, places, _ = qkv.shape
    queries, keys, values = qkv.chunk(3, -1)
    width = queries.shape[-1] // groups
    # Scaled within the product: over many places the sums would leave float16's range.
    logits = torch.baddbmm(qkv.new_zeros(()), queries.transpose(1, 2), keys, beta=0, alpha=places**-0.5)
    of_groups = logits.view(count, groups, width, groups, width).diagonal(dim1=1, dim2=3).movedim(-1, 1)
    weights = torch.softmax(of_groups, -1, dtype=torch.float32).to(qkv.dtype)
    projected = weights.transpose(-1, -2) @ proj_weight.t().reshape(groups, width, -1)
    return torch.baddbmm(proj_bias, values, projected.flatten(1, 2))
