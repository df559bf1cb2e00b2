"""The vision tower gives the features that transformers gives, whatever the shapes of model and picture."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Florence2VisionConfig
from transformers.models.florence2.modeling_florence2 import (
    Florence2VisionChannelAttention,
    Florence2VisionWindowAttention,
)

from arno_workers.engine.vision import VisionTower, channel_attention, window_attention
from tests.workers.engine.odd_models import ODD_MODELS, OddModel, build

CLOSE = {"atol": 2e-5, "rtol": 1e-5}
"""The projector ends in a norm: features are about 1."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _pixels(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def _expected(model: Any, pixels: Tensor) -> Tensor:
    features = model.get_image_features(pixels).pooler_output
    assert isinstance(features, Tensor)
    return features


def _tower(model: Any) -> VisionTower:
    """Of a copy, so that what the tower does to a model cannot show in what is expected."""
    return VisionTower(deepcopy(model))


@pytest.mark.parametrize("count", [1, 3, 16])
@torch.inference_mode()
def test_the_bundled_models_features_are_those_of_transformers(bundled: Any, count: int) -> None:
    pixels = _pixels(count, 128, 128)
    features = _tower(bundled)(pixels)
    assert features.shape == (count, 65, 128)
    torch.testing.assert_close(features, _expected(bundled, pixels), **CLOSE)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("odd", ODD_MODELS, ids=str)
@torch.inference_mode()
def test_an_odd_models_features_are_those_of_transformers(
    odd: OddModel, count: int, layout: torch.memory_format
) -> None:
    pixels = _pixels(count, odd.height, odd.width)
    features = _tower(build(odd))(pixels.to(memory_format=layout))
    torch.testing.assert_close(features, _expected(build(odd), pixels), **CLOSE)


@pytest.mark.parametrize("odd", ODD_MODELS, ids=str)
@torch.inference_mode()
def test_one_tower_takes_pictures_of_any_size_in_any_order(odd: OddModel) -> None:
    model, tower = build(odd), _tower(build(odd))
    sizes = [(odd.height, odd.width), (odd.width, odd.height), (40, 40), (odd.height, odd.width), (64, 40)]
    for seed, size in enumerate(sizes):
        pixels = _pixels(2, *size, seed=seed)
        torch.testing.assert_close(tower(pixels), _expected(model, pixels), **CLOSE)


@torch.inference_mode()
def test_a_pictures_features_do_not_depend_on_its_neighbours(bundled: Any) -> None:
    tower, pixels = _tower(bundled), _pixels(5, 128, 128)
    together = tower(pixels)
    # One that drowns all others, were anything shared.
    pixels[:4] *= 100
    torch.testing.assert_close(tower(pixels)[4], together[4], **CLOSE)
    torch.testing.assert_close(tower(pixels[4:])[0], together[4], **CLOSE)
    assert not torch.allclose(together[3], together[4], atol=0.1)


@torch.inference_mode()
def test_the_model_that_the_tower_was_made_of_still_gives_the_same(bundled: Any) -> None:
    model, pixels = deepcopy(bundled), _pixels(2, 128, 128)
    VisionTower(model)(pixels)
    torch.testing.assert_close(_expected(model, pixels), _expected(bundled, pixels), **CLOSE)


@pytest.mark.parametrize("odd", ODD_MODELS, ids=str)
@torch.inference_mode()
def test_in_bfloat16_the_features_are_as_near_as_those_of_transformers(odd: OddModel) -> None:
    model, pixels = build(odd), _pixels(4, odd.height, odd.width)
    exact = _expected(model, pixels)
    short = deepcopy(model).bfloat16()
    theirs = _expected(short, pixels.bfloat16())
    ours = VisionTower(short)(pixels.bfloat16())
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - exact).abs().mean() < 1.5 * (theirs.float() - exact).abs().mean()


def _shaken(module: Any, seed: int) -> Any:
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=random) * weight.shape[-1] ** -0.5)
    return module.eval()


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
    torch.testing.assert_close(window_attention(attention, x), expected, **CLOSE)


@torch.inference_mode()
def test_windows_do_not_see_each_other() -> None:
    attention = _shaken(Florence2VisionWindowAttention(_stage(2, 1, 8, window=3, bias=True), 0), seed=5)
    x = torch.randn(1, 6, 7, 8, generator=torch.Generator().manual_seed(2))
    before = window_attention(attention, x)
    x[:, :3, :3] += 1
    after = window_attention(attention, x)
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
    torch.testing.assert_close(channel_attention(attention, x), expected, **CLOSE)
