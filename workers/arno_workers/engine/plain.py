"""The functions between the products, in plain torch: what they mean, and how a CPU computes them.

Everything in the tower stays (picture, row, column, channel), so that norms and linear layers read neighbours and
convolutions take it as channels-last, and channel attention gets contiguous operands: fused attention refuses the
strided ones, and falls back to something slower in float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from arno_workers.engine.attention import MaskedAttention
from arno_workers.engine.functions import Activation, Functions
from arno_workers.engine.largest import largest


class AttentionWeights(NamedTuple):
    """Of the layers around an attention: queries, keys and values in one, and the projection."""

    qkv: Tensor
    qkv_bias: Tensor | None
    proj: Tensor
    proj_bias: Tensor | None


def laid(weight: Tensor) -> Tensor:
    return weight.detach().contiguous(memory_format=torch.channels_last)


def mix(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    if branch is not None:
        x = x + branch
    channels = x.shape[-1]
    x = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=channels).permute(0, 2, 3, 1) + x
    return x, F.layer_norm(x, (channels,), norm_weight, norm_bias, eps)


def window_attention(x: Tensor, heads: int, size: int, scale: float, weights: AttentionWeights) -> Tensor:
    """As Florence2VisionWindowAttention."""
    count, height, width, channels = x.shape
    missing_height, missing_width = -height % size, -width % size
    if missing_height or missing_width:
        x = F.pad(x, (0, 0, 0, missing_width, 0, missing_height))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    windows = x.view(count, rows, size, columns, size, channels).transpose(2, 3).reshape(-1, size * size, channels)
    fused = F.linear(windows, weights.qkv, weights.qkv_bias).view(-1, size * size, 3, heads, channels // heads)
    queries, keys, values = fused.permute(2, 0, 3, 1, 4).unbind(0)
    seen = F.scaled_dot_product_attention(queries, keys, values, scale=scale)
    windows = F.linear(seen.transpose(1, 2).flatten(2), weights.proj, weights.proj_bias)
    x = windows.view(count, rows, columns, size, size, channels).transpose(2, 3)
    return x.reshape(count, rows * size, columns * size, channels)[:, :height, :width]


def channel_attention(x: Tensor, groups: int, weights: AttentionWeights) -> Tensor:
    """As Florence2VisionChannelAttention. Two plain products over contiguous operands: the whole matrix of weights is
    only (channels of a group)².
    """
    count, height, width, channels = x.shape
    places = height * width
    fused = F.linear(x, weights.qkv, weights.qkv_bias).view(count, places, 3, groups, channels // groups)
    queries, keys, values = fused.permute(2, 0, 3, 1, 4).contiguous().unbind(0)
    shares = torch.softmax(queries.transpose(-1, -2) @ keys * places**-0.5, -1, dtype=torch.float32)
    seen = values @ shares.to(values.dtype).transpose(-1, -2)
    seen = F.linear(seen.transpose(1, 2).reshape(count, places, channels), weights.proj, weights.proj_bias)
    return seen.view(count, height, width, channels)


def feed_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, out: Tensor, out_bias: Tensor | None
) -> Tensor:
    return F.linear(activation(F.linear(x, weight, bias)), out, out_bias)


def add_norm(x: Tensor, branch: Tensor | None, norm_weight: Tensor, norm_bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x if branch is None else x + branch, x.shape[-1:], norm_weight, norm_bias, eps)


def candidates(logits: Tensor, ban: Callable[[Tensor], None] | None, count: int) -> tuple[Tensor, Tensor]:
    logprobs = torch.log_softmax(logits, -1, dtype=torch.float32)
    if ban is not None:
        ban(logprobs)
    return largest(logprobs, count)


PLAIN = Functions(
    name="plain",
    laid=laid,
    mix=mix,
    window_attention=window_attention,
    channel_attention=channel_attention,
    feed_forward=feed_forward,
    add_norm=add_norm,
    candidates=candidates,
    attention=MaskedAttention,
)
