"""Several linear layers with one input, as one matrix product."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Fused:
    """`Fused(a, b)(x)` is `cat((a(x), b(x)), -1)`."""

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
