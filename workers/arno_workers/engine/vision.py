"""The vision tower and the projector: pixels in, features out, once for each picture.

DaViT (arXiv 2204.03645) as transformers has it. Each half of a block, spatial or channel, is four functions: a
convolution with a norm behind it, attention, another convolution and norm, and a feed-forward. What the last one gave
is added to what it was asked about where the next one begins.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arno_workers.engine.functions import Functions
from arno_workers.engine.linear import feed_forward_weights, norm_weights
from arno_workers.engine.plain import PLAIN, AttentionWeights


class VisionTower:
    def __init__(self, model: Any, functions: Functions = PLAIN) -> None:
        tower = model.model.vision_tower
        self._stages = [
            (_Embed(embed, functions), [half for block in blocks for half in _halves(block, functions)])
            for embed, blocks in zip(tower.convs, tower.blocks, strict=True)
        ]
        self._projector = _Projector(model.model.multi_modal_projector)

    def __call__(self, pixels: Tensor) -> Tensor:
        """pixels: (n, 3, height, width), normalised → features: (n, image tokens, width of the model)."""
        x, branch = pixels.permute(0, 2, 3, 1), None
        for embed, halves in self._stages:
            x, branch = embed(x, branch), None
            for half in halves:
                x, branch = half(x, branch)
        return self._projector(x if branch is None else x + branch)


class _Half:
    """Of a Florence2VisionBlock: its spatial block or its channel block."""

    def __init__(self, block: Any, attention: partial[Tensor], functions: Functions) -> None:
        self._attention, self._functions = attention, functions
        self._first, self._second = (
            (functions.laid(convolution.weight), convolution.bias.detach(), *norm_weights(norm))
            for convolution, norm in ((block.conv1, block.norm1), (block.conv2, block.norm2))
        )
        self._feed_forward = feed_forward_weights(block.ffn)

    def __call__(self, x: Tensor, branch: Tensor | None) -> tuple[Tensor, Tensor]:
        """x, and what is to be added to it; both: (n, height, width, channels)."""
        x, normed = self._functions.mix(x, branch, *self._first)
        x, normed = self._functions.mix(x, self._attention(normed), *self._second)
        return x, self._functions.feed_forward(normed, *self._feed_forward)


def _halves(block: Any, functions: Functions) -> Iterator[_Half]:
    windows, channels = block.spatial_block.window_attn, block.channel_block.channel_attn
    in_windows = partial(
        functions.window_attention,
        heads=windows.num_heads,
        size=windows.window_size,
        scale=windows.scale,
        weights=attention_weights(windows),
    )
    yield _Half(block.spatial_block, in_windows, functions)
    of_channels = partial(functions.channel_attention, groups=channels.groups, weights=attention_weights(channels))
    yield _Half(block.channel_block, of_channels, functions)


def attention_weights(attention: Any) -> AttentionWeights:
    """Of a Florence2VisionWindowAttention or Florence2VisionChannelAttention."""
    qkv, proj = attention.qkv, attention.proj
    return AttentionWeights(qkv.weight, qkv.bias, proj.weight, proj.bias)


class _Projector:
    """Florence2MultiModalProjector, its constants computed once for each size of the tower's output."""

    def __init__(self, projector: Any) -> None:
        self._projector = projector
        self._places: dict[tuple[int, int], Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        count, height, width, channels = x.shape
        x = (x + self._places_of(x)).view(count, height * width, channels)
        x = torch.cat((x.mean(1, keepdim=True), x), 1)
        return self._projector.image_proj_norm(self._projector.image_projection(x))  # type: ignore[no-any-return]

    def _places_of(self, x: Tensor) -> Tensor:
        """Where each place is in the picture, and when the picture is in its film of one: (height, width, channels)."""
        size = (x.shape[1], x.shape[2])
        if size not in self._places:
            place = self._projector.image_position_embed(x[:1].permute(0, 3, 1, 2))[0].permute(1, 2, 0)
            time = self._projector.visual_temporal_embed(x[:1, 0, :1])[0]
            self._places[size] = (place + time).contiguous()
        return self._places[size]


class _Embed:
    """Florence2VisionConvEmbed."""

    def __init__(self, embed: Any, functions: Functions) -> None:
        self._convolution, self._pre_norm, self._functions = embed.conv, embed.pre_norm, functions
        self._weight = embed.conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self._norm = norm_weights(embed.norm)

    def __call__(self, x: Tensor, branch: Tensor | None) -> Tensor:
        """Of x + branch, (n, height, width, channels)."""
        if self._pre_norm:
            return self._convolve(self._functions.add_norm(x, branch, *self._norm))
        x = self._convolve(x if branch is None else x + branch)
        return self._functions.add_norm(x, None, *self._norm)

    def _convolve(self, x: Tensor) -> Tensor:
        of = self._convolution
        x = F.conv2d(x.permute(0, 3, 1, 2), self._weight, of.bias, of.stride, of.padding).permute(0, 2, 3, 1)
        return x.contiguous()
