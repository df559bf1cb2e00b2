"""The functions between the products, as torch's compiler makes them. Needs a C compiler, and a minute at the start.

Each function is compiled for the shapes of each stage, with any number of pictures or slots.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arno_workers.engine.functions import Functions
from arno_workers.engine.plain import PLAIN

_SHAPES = 64
"""For how many shapes a function may be compiled; torch gives up after eight."""


def compiled(backend: str = "inductor") -> Functions:
    """`backend`: torch's name of it."""
    torch._dynamo.config.recompile_limit = _SHAPES

    def of(function: Callable[..., Any]) -> Callable[..., Any]:
        made = torch.compile(function, fullgraph=True, backend=backend)

        def run(x: Tensor, *rest: Any, **named: Any) -> Any:
            if len(x) == 1:
                # torch compiles for one of something apart.
                return function(x, *rest, **named)
            for each in (x, *rest):
                if isinstance(each, Tensor) and each.shape[:-1] == x.shape[:-1]:
                    torch._dynamo.mark_dynamic(each, 0)
            return made(x, *rest, **named)

        return run

    return replace(
        PLAIN,
        name="compiled",
        laid=laid,
        mix=of(mix),
        window_attention=of(PLAIN.window_attention),
        channel_attention=of(PLAIN.channel_attention),
        feed_forward=of(PLAIN.feed_forward),
        add_norm=of(PLAIN.add_norm),
    )


def laid(weight: Tensor) -> Tensor:
    """(9, C)"""
    return weight.detach().flatten(1).t().contiguous()


def mix(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The convolution as a sum of nine shifted pictures, which fuses with what stands around it."""
    if branch is not None:
        x = x + branch
    _, height, width, channels = x.shape
    padded = F.pad(x, (0, 0, 1, 1, 1, 1)).float()
    y = x.float() + bias
    for place in range(9):
        row, column = divmod(place, 3)
        y = y + padded[:, row : row + height, column : column + width] * weight[place]
    x = y.to(x.dtype)
    return x, F.layer_norm(x, (channels,), norm_weight, norm_bias, eps)
