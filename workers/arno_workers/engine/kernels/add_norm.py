"""A residual's sum and the norm that follows, in one pass."""

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

_WARP_ELEMENTS = 256
"""What a warp holds: 8 elements a thread, in half precision as much as one instruction reads."""

_ELEMENTS = 1024
"""What a program holds at least: several rows where they are short."""

_MOST_WARPS = 16


def add_norm(x: Tensor, branch: Tensor | None, norm_weight: Tensor, norm_bias: Tensor, eps: float) -> Tensor:
    """(…, C), as x: the norm of x + branch over the last dimension, or of x alone.

    x, branch: (…, C), contiguous; norm_weight, norm_bias: (C,). float32 within; rounded are the sum, as torch rounds
    it, and the result.
    """
    normed = x.new_empty(x.shape)
    width = x.shape[-1]
    count = x.numel() // width
    block = triton.next_power_of_2(width)
    rows = max(1, _ELEMENTS // block)
    _add_norm[(triton.cdiv(count, rows),)](
        x,
        x if branch is None else branch,
        norm_weight,
        norm_bias,
        normed,
        count,
        eps,
        BRANCH=branch is not None,
        WIDTH=width,
        ROWS=rows,
        BLOCK=block,
        num_warps=min(_MOST_WARPS, rows * block // _WARP_ELEMENTS),
    )
    return normed


def reference(x: Tensor, branch: Tensor | None, norm_weight: Tensor, norm_bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x if branch is None else x + branch, x.shape[-1:], norm_weight, norm_bias, eps)


@triton.jit(do_not_specialize=["count"])
def _add_norm(
    x: tl.tensor,
    branch: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    normed: tl.tensor,
    count: tl.tensor,
    eps: tl.tensor,
    BRANCH: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program for a few rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    at = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    exists = (row < count)[:, None] & (column < WIDTH)[None, :]
    values = tl.load(x + at, mask=exists, other=0.0).to(tl.float32)
    if BRANCH:
        values += tl.load(branch + at, mask=exists, other=0.0).to(tl.float32)
        values = values.to(x.dtype.element_ty).to(tl.float32)
    mean = tl.sum(values, 1)[:, None] / WIDTH
    # Beyond the row there are zeros, which are no part of the variance.
    centred = tl.where(exists, values - mean, 0.0)
    variance = tl.sum(centred * centred, 1)[:, None] / WIDTH
    scale = tl.load(norm_weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    shift = tl.load(norm_bias + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    values = centred * tl.rsqrt(variance + eps) * scale[None, :] + shift[None, :]
    tl.store(normed + at, values.to(x.dtype.element_ty), mask=exists)
