"""The weights of linear layers and norms, as the functions between the products take them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Fused:
    """`Fused(a, b)(x)` is `cat((a(x), b(x)), -1)`: several linear layers with one input, as one matrix product."""

    def __init__(self, *layers: Any) -> None:
        self.weight = torch.cat([layer.weight.detach() for layer in layers])
        self.bias = None
        if any(layer.bias is not None for layer in layers):
            self.bias = torch.cat(
                [
                    layer.weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias.detach()
                    for layer in layers
                ]
            )

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def norm_weights(norm: Any) -> tuple[Tensor, Tensor, float]:
    """Of an nn.LayerNorm: weight, bias and eps."""
    return norm.weight.detach(), norm.bias.detach(), norm.eps


def feed_forward_weights(layer: Any) -> tuple[Tensor, Tensor, Any, Tensor, Tensor]:
    """Of a module with `fc1`, `activation_fn` and `fc2`."""
    # As torch's function it is known for what it is, wherever it is fused with its neighbours.
    activation = F.gelu if getattr(layer.activation_fn, "act", None) is F.gelu else layer.activation_fn
    first, second = layer.fc1, layer.fc2
    return first.weight.detach(), first.bias.detach(), activation, second.weight.detach(), second.bias.detach()
