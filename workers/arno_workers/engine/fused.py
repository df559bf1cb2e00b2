"""The functions between the products, with kernels of our own in Triton, which torch brings along on CUDA.

`FUSED` holds what was measured and is faster than anything before it; a kernel that waits for that is in `UNTRIED`.

Where a kernel has no way for a shape or an activation, the plain function has.
"""

from collections.abc import Callable
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from arno_workers.engine import plain
from arno_workers.engine.by_length import AttentionByLength
from arno_workers.engine.channel_products import channel_products
from arno_workers.engine.functions import Activation, Functions
from arno_workers.engine.kernels import add_norm, mix, windows
from arno_workers.engine.kernels.candidates import candidates as best_of
from arno_workers.engine.kernels.channels import channels
from arno_workers.engine.kernels.linear_gelu import linear_gelu
from arno_workers.engine.kernels.log_normalizer import log_normalizer
from arno_workers.engine.plain import AttentionWeights


def window_attention(x: Tensor, heads: int, size: int, scale: float, weights: AttentionWeights) -> Tensor:
    if x.shape[1] % size or x.shape[2] % size or size * size > windows.LARGEST:
        # What is left of windows that reach beyond the picture has gaps, which `mix` does not take.
        return plain.window_attention(x, heads, size, scale, weights).contiguous()
    seen = windows.windows(F.linear(x, weights.qkv, weights.qkv_bias), heads, size, scale)
    return F.linear(seen, weights.proj, weights.proj_bias)


def channel_attention(x: Tensor, groups: int, weights: AttentionWeights) -> Tensor:
    if weights.proj_bias is None:
        return plain.channel_attention(x, groups, weights)
    fused = F.linear(x, weights.qkv, weights.qkv_bias).flatten(1, 2)
    return channel_products(fused, groups, weights.proj, weights.proj_bias).view(x.shape)


def channel_attention_in_place(x: Tensor, groups: int, weights: AttentionWeights) -> Tensor:
    seen = channels(F.linear(x, weights.qkv, weights.qkv_bias).flatten(1, 2), groups)
    return F.linear(seen.view(x.shape), weights.proj, weights.proj_bias)


def feed_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, out: Tensor, out_bias: Tensor | None
) -> Tensor:
    if activation is not F.gelu or bias is None:
        return plain.feed_forward(x, weight, bias, activation, out, out_bias)
    return F.linear(linear_gelu(x, weight, bias), out, out_bias)


def candidates(logits: Tensor, ban: Callable[[Tensor], None] | None, count: int) -> tuple[Tensor, Tensor]:
    normalizer = log_normalizer(logits)
    if ban is not None:
        ban(logits)
    return best_of(logits, normalizer, count)


FUSED = Functions(
    name="triton",
    laid=mix.laid,
    mix=mix.mix,
    window_attention=window_attention,
    channel_attention=channel_attention,
    feed_forward=feed_forward,
    add_norm=add_norm.add_norm,
    candidates=candidates,
    attention=AttentionByLength,
    by_length=True,
)

UNTRIED = replace(FUSED, name="untried", channel_attention=channel_attention_in_place)
"""With what no device has measured yet."""
