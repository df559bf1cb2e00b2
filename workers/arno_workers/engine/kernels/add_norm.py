"""A residual's sum and the norm that follows, in one pass."""

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

_WARP_ELEMENTS = 256
"""What a warp holds of a row: 8 elements a thread, in half precision as much as one instruction reads."""

_MOST_WARPS = 16


def add_norm(x: Tensor, branch: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float) -> Tensor:
    """(…, C), as x: the norm of x + branch over the last dimension.

    x, branch: (…, C), contiguous; norm_weight, norm_bias: (C,). float32 within; rounded are the sum, as torch rounds
    it, and the result.
    """
    normed = x.new_empty(x.shape)
    width = x.shape[-1]
    block = triton.next_power_of_2(width)
    _add_norm[(x.numel() // width,)](
        x,
        branch,
        norm_weight,
        norm_bias,
        normed,
        eps,
        WIDTH=width,
        BLOCK=block,
        num_warps=min(_MOST_WARPS, max(1, block // _WARP_ELEMENTS)),
    )
    return normed


def reference(x: Tensor, branch: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x + branch, x.shape[-1:], norm_weight, norm_bias, eps)


@triton.jit
def _add_norm(
    x: tl.tensor,
    branch: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    normed: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program for a row."""
    start = tl.program_id(0).to(tl.int64) * WIDTH
    column = tl.arange(0, BLOCK)
    exists = column < WIDTH
    values = tl.load(x + start + column, mask=exists, other=0.0).to(tl.float32)
    values += tl.load(branch + start + column, mask=exists, other=0.0).to(tl.float32)
    values = values.to(x.dtype.element_ty).to(tl.float32)
    mean = tl.sum(values, 0) / WIDTH
    # Beyond the row there are zeros, which are no part of the variance.
    centred = tl.where(exists, values - mean, 0.0)
    variance = tl.sum(centred * centred, 0) / WIDTH
    scale = tl.load(norm_weight + column, mask=exists, other=0.0).to(tl.float32)
    shift = tl.load(norm_bias + column, mask=exists, other=0.0).to(tl.float32)
    values = centred * tl.rsqrt(variance + eps) * scale + shift
    tl.store(normed + start + column, values.to(x.dtype.element_ty), mask=exists)
