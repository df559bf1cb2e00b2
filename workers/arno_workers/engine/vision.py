"""The vision tower and the projector: pixels in, features out, once for each picture.

DaViT (arXiv 2204.03645) as transformers has it, laid out for speed: everything stays (picture, row, column, channel),
so that norms and linear layers read neighbours and convolutions take it as channels-last, and channel attention gets
contiguous operands: fused attention refuses the strided ones, and falls back to something slower in float32.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VisionTower:
    def __init__(self, model: Any) -> None:
        tower = model.model.vision_tower
        for module in tower.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        self._stages = list(zip(tower.convs, tower.blocks, strict=True))
        self._projector = _Projector(model.model.multi_modal_projector)

    def __call__(self, pixels: Tensor) -> Tensor:
        """pixels: (n, 3, height, width), normalised → features: (n, image tokens, width of the model)."""
        x = pixels.permute(0, 2, 3, 1)
        for embed, blocks in self._stages:
            x = _embed(embed, x)
            for block in blocks:
                spatial, channel = block.spatial_block, block.channel_block
                x = _convolve(spatial.conv1, x) + x
                x = x + window_attention(spatial.window_attn, spatial.norm1(x))
                x = _convolve(spatial.conv2, x) + x
                x = x + spatial.ffn(spatial.norm2(x))
                x = _convolve(channel.conv1, x) + x
                x = x + channel_attention(channel.channel_attn, channel.norm1(x))
                x = _convolve(channel.conv2, x) + x
                x = x + channel.ffn(channel.norm2(x))
        return self._projector(x)


def window_attention(attention: Any, x: Tensor) -> Tensor:
    """Attention within windows; x: (n, height, width, channels). As Florence2VisionWindowAttention."""
    count, height, width, channels = x.shape
    size, heads = attention.window_size, attention.num_heads
    missing_height, missing_width = -height % size, -width % size
    if missing_height or missing_width:
        x = F.pad(x, (0, 0, 0, missing_width, 0, missing_height))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    windows = x.view(count, rows, size, columns, size, channels).transpose(2, 3).reshape(-1, size * size, channels)
    fused = attention.qkv(windows).view(-1, size * size, 3, heads, channels // heads)
    queries, keys, values = fused.permute(2, 0, 3, 1, 4).unbind(0)
    seen = F.scaled_dot_product_attention(queries, keys, values, scale=attention.scale)
    windows = attention.proj(seen.transpose(1, 2).flatten(2))
    x = windows.view(count, rows, columns, size, size, channels).transpose(2, 3)
    return x.reshape(count, rows * size, columns * size, channels)[:, :height, :width]


def channel_attention(attention: Any, x: Tensor) -> Tensor:
    """Attention of channels to channels, over all places; x: (n, height, width, channels).

    As Florence2VisionChannelAttention. Two plain products over contiguous operands: the whole matrix of weights is
    only (channels of a group)².
    """
    count, height, width, channels = x.shape
    places, groups = height * width, attention.groups
    fused = attention.qkv(x).view(count, places, 3, groups, channels // groups)
    queries, keys, values = fused.permute(2, 0, 3, 1, 4).contiguous().unbind(0)
    weights = torch.softmax(queries.transpose(-1, -2) @ keys * places**-0.5, -1, dtype=torch.float32)
    seen = values @ weights.to(values.dtype).transpose(-1, -2)
    seen = attention.proj(seen.transpose(1, 2).reshape(count, places, channels))
    return seen.view(count, height, width, channels)  # type: ignore[no-any-return]


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


def _embed(embed: Any, x: Tensor) -> Tensor:
    """Florence2VisionConvEmbed."""
    if embed.pre_norm:
        x = embed.norm(x)
    x = _convolve(embed.conv, x)
    return x if embed.pre_norm else embed.norm(x)


def _convolve(convolution: Any, x: Tensor) -> Tensor:
    return convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]
