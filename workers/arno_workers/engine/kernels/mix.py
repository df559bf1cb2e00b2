"""The depthwise convolution of a tower's block, with the sums before and after it and the norm that follows."""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

_NARROW = 128
"""Channels, at most, that 4 warps take; of more, 8 do."""

_NARROW_WARP_BYTES = 512
"""What a warp holds of one row of its program's strip: 16 bytes a thread, as much as one instruction reads."""

_WIDE_WARP_BYTES = 1024
"""The same of more channels, where it takes two instructions: of a longer strip, less is read for two programs."""

_REGISTERS = 255
"""A thread's, at most, and as many as there can be: with fewer, it computes before it has asked for all it needs."""


def laid(weight: Tensor) -> Tensor:
    """The weights of a depthwise 3×3 convolution, (C, 1, 3, 3), as `mix` reads them: (9, C), contiguous."""
    return weight.flatten(1).t().contiguous()


def mix(
    x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """y = convolution(s) + bias + s, where s = x + branch; and the norm of y over its channels.

    x, branch: (n, h, w, C), contiguous; weight: (9, C), from `laid`; the rest: (C,). Both results are as x. float32
    within; rounded are s, as torch rounds it, and the results.
    """
    count, height, width, channels = x.shape
    y, normed = torch.empty_like(x), torch.empty_like(x)
    block = triton.next_power_of_2(channels)
    warps, warp_bytes = (4, _NARROW_WARP_BYTES) if block <= _NARROW else (8, _WIDE_WARP_BYTES)
    places = max(1, warps * warp_bytes // (block * x.element_size()))
    _mix[(triton.cdiv(width, places), triton.cdiv(height, 4), count)](
        x,
        x if branch is None else branch,
        weight,
        bias,
        norm_weight,
        norm_bias,
        y,
        normed,
        height,
        width,
        eps,
        CHANNELS=channels,
        BRANCH=branch is not None,
        BLOCK_PLACES=places,
        BLOCK_CHANNELS=block,
        num_warps=warps,
        maxnreg=_REGISTERS,
    )
    return y, normed


def reference(
    x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    channels = x.shape[-1]
    s = x if branch is None else x + branch
    kernel = weight.t().reshape(channels, 1, 3, 3)
    y = F.conv2d(s.permute(0, 3, 1, 2), kernel, bias, padding=1, groups=channels).permute(0, 2, 3, 1) + s
    return y, F.layer_norm(y, (channels,), norm_weight, norm_bias, eps)


@triton.jit(do_not_specialize=["height", "width"])
def _mix(
    x: tl.tensor,
    branch: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    y: tl.tensor,
    normed: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    CHANNELS: tl.constexpr,
    BRANCH: tl.constexpr,
    BLOCK_PLACES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> None:
    """One program for four rows of a strip of places: it reads six, and each of them for up to three rows of y."""
    column = tl.program_id(0) * BLOCK_PLACES + tl.arange(0, BLOCK_PLACES)
    row = tl.program_id(1) * 4
    channel = tl.arange(0, BLOCK_CHANNELS)
    real = channel < CHANNELS
    picture = tl.program_id(2).to(tl.int64) * height * width * CHANNELS
    inside = column[:, None] * CHANNELS + channel[None, :]

    y0 = _of_channels(bias, channel, BLOCK_PLACES, CHANNELS)
    y1 = y0
    y2 = y0
    y3 = y0
    for across in tl.static_range(3):
        # Column by column of the 3×3, so that only three weights of a channel are held at once.
        above = _of_channels(weight + across * CHANNELS, channel, BLOCK_PLACES, CHANNELS)
        level = _of_channels(weight + (3 + across) * CHANNELS, channel, BLOCK_PLACES, CHANNELS)
        below = _of_channels(weight + (6 + across) * CHANNELS, channel, BLOCK_PLACES, CHANNELS)
        if across == 1:
            level += 1.0
        beside = column + (across - 1)
        exists = ((beside >= 0) & (beside < width))[:, None] & real[None, :]
        first = picture + (across - 1) * CHANNELS

        s = _sum(x, branch, first, inside, row - 1, height, width, exists, CHANNELS, BRANCH)
        y0 += s * above
        s = _sum(x, branch, first, inside, row, height, width, exists, CHANNELS, BRANCH)
        y0 += s * level
        y1 += s * above
        s = _sum(x, branch, first, inside, row + 1, height, width, exists, CHANNELS, BRANCH)
        y0 += s * below
        y1 += s * level
        y2 += s * above
        s = _sum(x, branch, first, inside, row + 2, height, width, exists, CHANNELS, BRANCH)
        y1 += s * below
        y2 += s * level
        y3 += s * above
        s = _sum(x, branch, first, inside, row + 3, height, width, exists, CHANNELS, BRANCH)
        y2 += s * below
        y3 += s * level
        s = _sum(x, branch, first, inside, row + 4, height, width, exists, CHANNELS, BRANCH)
        y3 += s * below

    scale = _of_channels(norm_weight, channel, BLOCK_PLACES, CHANNELS)
    shift = _of_channels(norm_bias, channel, BLOCK_PLACES, CHANNELS)
    exists = (column < width)[:, None] & real[None, :]
    _write(y, normed, y0, picture, inside, row, height, width, exists, scale, shift, eps, CHANNELS)
    _write(y, normed, y1, picture, inside, row + 1, height, width, exists, scale, shift, eps, CHANNELS)
    _write(y, normed, y2, picture, inside, row + 2, height, width, exists, scale, shift, eps, CHANNELS)
    _write(y, normed, y3, picture, inside, row + 3, height, width, exists, scale, shift, eps, CHANNELS)


@triton.jit
def _of_channels(
    vector: tl.tensor, channel: tl.tensor, BLOCK_PLACES: tl.constexpr, CHANNELS: tl.constexpr
) -> tl.tensor:
    """A number for each channel, in float32, once for each place: read by the threads that hold these channels, which
    costs less than what one thread reads and others get through shared memory."""
    place = tl.zeros((BLOCK_PLACES, 1), tl.int32)
    return tl.load(vector + place + channel[None, :], mask=place + channel[None, :] < CHANNELS, other=0.0).to(
        tl.float32
    )


@triton.jit
def _sum(
    x: tl.tensor,
    branch: tl.tensor,
    first: tl.tensor,
    inside: tl.tensor,
    row: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    exists: tl.tensor,
    CHANNELS: tl.constexpr,
    BRANCH: tl.constexpr,
) -> tl.tensor:
    """x + branch of one row of the strip, as torch rounds it; zeros outside of the picture."""
    start = first + row * width * CHANNELS
    here = exists & (row >= 0) & (row < height)
    s = tl.load(x + start + inside, mask=here, other=0.0).to(tl.float32)
    if BRANCH:
        s += tl.load(branch + start + inside, mask=here, other=0.0).to(tl.float32)
        s = s.to(x.dtype.element_ty).to(tl.float32)
    return s


@triton.jit
def _write(
    y: tl.tensor,
    normed: tl.tensor,
    values: tl.tensor,
    picture: tl.tensor,
    inside: tl.tensor,
    row: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    exists: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    eps: tl.tensor,
    CHANNELS: tl.constexpr,
) -> None:
    """One row of the strip, and its norm."""
    start = picture + row * width * CHANNELS
    here = exists & (row < height)
    tl.store(y + start + inside, values.to(y.dtype.element_ty), mask=here)
    mean = tl.sum(values, 1)[:, None] / CHANNELS
    # Beyond the channels there are zeros, which are no part of the variance.
    centred = tl.where(exists, values - mean, 0.0)
    variance = tl.sum(centred * centred, 1)[:, None] / CHANNELS
    values = centred * tl.rsqrt(variance + eps) * scale + shift
    tl.store(normed + start + inside, values.to(y.dtype.element_ty), mask=here)
