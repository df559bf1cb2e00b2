"""The vision tower gives the features that transformers gives, whatever the shapes of model and picture."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from arno_workers.engine.vision import VisionTower
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
