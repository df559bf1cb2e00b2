"""Attention of channels in fewer products gives what the tower's own gives."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from arno_workers.engine.channel_products import channel_products
from arno_workers.engine.plain import channel_attention
from arno_workers.engine.vision import attention_weights

SIZES = [(8, 8), (5, 9), (1, 1), (16, 3)]
SHAPES = [(1, 6), (3, 12), (8, 8), (2, 48)]
"""Groups, and channels of all of them."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class _Attention(nn.Module):
    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.groups, self.qkv, self.proj = groups, nn.Linear(width, 3 * width), nn.Linear(width, width)
        random = torch.Generator().manual_seed(width)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=random) * weight.shape[-1] ** -0.5


def _both(attention: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    fused = attention.qkv(x.flatten(1, 2))
    found = channel_products(fused, attention.groups, attention.proj.weight, attention.proj.bias)
    return found.view(x.shape), channel_attention(x, attention.groups, attention_weights(attention))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("groups", "width"), SHAPES)
@torch.inference_mode()
def test_it_is_the_towers_channel_attention(groups: int, width: int, size: tuple[int, int], count: int) -> None:
    attention = _Attention(groups, width)
    x = torch.randn(count, *size, width, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(*_both(attention, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.inference_mode()
def test_in_half_precision_it_is_as_near_to_float32(dtype: torch.dtype) -> None:
    x = torch.randn(3, 24, 24, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    _, exact = _both(_Attention(4, 64).to(dtype).float(), x.float())
    found, theirs = _both(_Attention(4, 64).to(dtype), x)
    assert found.dtype == dtype
    assert (found.float() - exact).abs().mean() < 1.1 * (theirs.float() - exact).abs().mean()


@torch.inference_mode()
def test_sums_over_many_places_stay_in_the_range_of_float16() -> None:
    fused = torch.full((1, 4096, 48), 5.0, dtype=torch.float16)
    found = channel_products(fused, 2, torch.eye(16).half(), torch.zeros(16).half())
    torch.testing.assert_close(found, torch.full_like(found, 5.0))
