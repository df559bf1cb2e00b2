"""The functions between the products give what transformers' modules give."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Florence2VisionConfig
from transformers.models.florence2.modeling_florence2 import (
    Florence2VisionChannelAttention,
    Florence2VisionWindowAttention,
)

from arno_workers.engine.plain import channel_attention, window_attention
from arno_workers.engine.vision import attention_weights

CLOSE = {"atol": 2e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _shaken(module: Any, seed: int) -> Any:
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=random) * weight.shape[-1] ** -0.5)
    return module.eval()


def _windows(attention: Any, x: Tensor) -> Tensor:
    weights = attention_weights(attention)
    return window_attention(x, attention.num_heads, attention.window_size, attention.scale, weights)


def _stage(heads: int, groups: int, width: int, window: int, bias: bool) -> Any:
    config = Florence2VisionConfig(
        embed_dim=[width], num_heads=[heads], num_groups=[groups], window_size=window, qkv_bias=bias
    )
    config._attn_implementation = "eager"
    return config


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (8, 4), (4, 12), (9, 8), (8, 9), (11, 7), (3, 3), (1, 1), (1, 9)], ids=str)
@pytest.mark.parametrize(("heads", "width"), [(1, 6), (3, 12), (8, 8)])
@torch.inference_mode()
def test_windows_attend_as_in_transformers(heads: int, width: int, size: tuple[int, int], bias: bool) -> None:
    """Also where they stick out of the map: what is added there is seen by those inside."""
    attention = _shaken(Florence2VisionWindowAttention(_stage(heads, 1, width, window=4, bias=bias), 0), seed=width)
    x = torch.randn(3, *size, width, generator=torch.Generator().manual_seed(1))
    expected = attention(x).view(3, *size, width)
    torch.testing.assert_close(_windows(attention, x), expected, **CLOSE)


@torch.inference_mode()
def test_windows_do_not_see_each_other() -> None:
    attention = _shaken(Florence2VisionWindowAttention(_stage(2, 1, 8, window=3, bias=True), 0), seed=5)
    x = torch.randn(1, 6, 7, 8, generator=torch.Generator().manual_seed(2))
    before = _windows(attention, x)
    x[:, :3, :3] += 1
    after = _windows(attention, x)
    changed = (before != after).any(-1)[0]
    assert changed[:3, :3].all()
    assert changed.sum() == 9


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (5, 9), (1, 1), (16, 3)], ids=str)
@pytest.mark.parametrize(("groups", "width"), [(1, 6), (3, 12), (8, 8), (2, 48)])
@torch.inference_mode()
def test_channels_attend_as_in_transformers(groups: int, width: int, size: tuple[int, int], bias: bool) -> None:
    attention = _shaken(Florence2VisionChannelAttention(_stage(1, groups, width, window=4, bias=bias), 0), seed=width)
    x = torch.randn(3, *size, width, generator=torch.Generator().manual_seed(3))
    expected = attention(x.flatten(1, 2)).view(3, *size, width)
    torch.testing.assert_close(channel_attention(x, attention.groups, attention_weights(attention)), expected, **CLOSE)
