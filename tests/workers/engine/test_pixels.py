"""The pixels are those of the checkpoint's own image processor, bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, Florence2Processor

from arno_shared.errors import ModelUnusable
from arno_workers.engine.checkpoint.locate import BUNDLED
from arno_workers.engine.pixels import PixelRecipe

FLORENCE: dict[str, Any] = {
    "size": {"height": 768, "width": 768},
    "resample": 3,
    "do_center_crop": False,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "rescale_factor": 0.00392156862745098,
}
"""As microsoft/Florence-2-base has it."""

SMALL = {**FLORENCE, "size": {"height": 32, "width": 48}}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


def _recipe(processor: Any, dtype: torch.dtype = torch.float32) -> PixelRecipe:
    return PixelRecipe(processor, "cpu", dtype)


def _made(recipe: PixelRecipe, *pictures: Image.Image) -> torch.Tensor:
    return recipe.normalise(torch.from_numpy(np.stack([recipe.resize(picture) for picture in pictures])))


def _expected(processor: Any, *pictures: Image.Image) -> torch.Tensor:
    pixels = processor(list(pictures), return_tensors="pt")["pixel_values"]
    assert isinstance(pixels, torch.Tensor)
    return pixels


@pytest.mark.parametrize(
    "size",
    [(1, 1), (2, 2), (1, 3000), (3000, 1), (5, 900), (640, 480), (768, 768), (767, 769), (768, 10), (1300, 1000)],
    ids=lambda size: f"{size[0]}×{size[1]}",
)
def test_pixels_are_those_of_florences_processor(size: tuple[int, int]) -> None:
    processor = CLIPImageProcessorPil(**FLORENCE)
    recipe = _recipe(processor)
    assert (recipe.width, recipe.height) == (768, 768)
    assert torch.equal(_made(recipe, _noise(*size)), _expected(processor, _noise(*size)))


def test_pixels_are_those_of_the_bundled_models_processor() -> None:
    processor = Florence2Processor.from_pretrained(BUNDLED / "arno-tiny").image_processor
    sizes = [(1, 1), (1, 500), (500, 1), (128, 128), (127, 129), (128, 64), (64, 128), (300, 77), (13, 400), (999, 750)]
    pictures = [_noise(*size) for size in sizes]
    assert torch.equal(_made(_recipe(processor), *pictures), _expected(processor, *pictures))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": 0.5, "image_std": 0.25},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [3, 2, 1]},
        {"do_convert_rgb": False},
        {"resample": Image.Resampling.LANCZOS},
    ],
    ids=str,
)
def test_every_value_of_every_channel_is_the_processors(changes: dict[str, Any]) -> None:
    """All 256, in channels that differ, and in a size in which width and height cannot be mixed up."""
    processor = CLIPImageProcessorPil(**{**SMALL, **changes})
    values = np.arange(32 * 48 * 3).reshape(32, 48, 3) * 7 % 256
    pictures = [Image.fromarray(values.astype(np.uint8)), Image.fromarray(values[::-1].astype(np.uint8)), _noise(99, 7)]
    made = _made(_recipe(processor), *pictures)
    assert made.dtype == torch.float32
    assert torch.equal(made, _expected(processor, *pictures).float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shorter_floats_are_the_processors_rounded(dtype: torch.dtype) -> None:
    processor = CLIPImageProcessorPil(**SMALL)
    made = _made(_recipe(processor, dtype), _noise(100, 90))
    assert made.dtype == dtype
    assert torch.equal(made, _expected(processor, _noise(100, 90)).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_lie_beside_each_other(dtype: torch.dtype) -> None:
    made = _made(_recipe(CLIPImageProcessorPil(**SMALL), dtype), _noise(9, 9), _noise(8, 8))
    assert made.shape == (2, 3, 32, 48)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert made.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize("size", [(48, 32), (200, 100)])
def test_a_resized_picture_is_its_own(size: tuple[int, int]) -> None:
    picture = _noise(*size)
    before = picture.tobytes()
    pixels = _recipe(CLIPImageProcessorPil(**SMALL)).resize(picture)
    assert (pixels.shape, pixels.dtype) == ((32, 48, 3), np.uint8)
    assert pixels.flags.c_contiguous
    pixels[:] = 0
    assert picture.tobytes() == before


def test_pixels_that_were_given_are_not_changed() -> None:
    recipe = _recipe(CLIPImageProcessorPil(**SMALL))
    pixels = torch.from_numpy(np.stack([recipe.resize(_noise(60, 60))]))
    before = pixels.clone()
    first = recipe.normalise(pixels).clone()
    assert torch.equal(recipe.normalise(pixels), first)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_center_crop": True}, "do_center_crop"),
        ({"do_pad": True}, "do_pad"),
        ({"do_resize": False}, "must resize"),
        ({"size": {"shortest_edge": 768}}, "shortest_edge"),
        ({"size": {"longest_edge": 800, "shortest_edge": 768}}, "longest_edge"),
        ({"size": {"max_height": 768, "max_width": 768}}, "max_height"),
        ({"resample": 99}, "99"),
        ({"image_mean": [0.5, 0.5]}, "cannot be used"),
        ({"rescale_factor": 0.0}, "cannot be used"),
        ({"rescale_factor": 0.003921569}, "bit for bit"),
    ],
    ids=str,
)
def test_a_processor_that_does_something_else_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelUnusable, match=message):
        _recipe(CLIPImageProcessorPil(**{**SMALL, **changes}))


def test_a_step_that_nobody_knows_is_refused() -> None:
    processor = CLIPImageProcessorPil(**SMALL)
    processor.do_flip_channel_order = True
    with pytest.raises(ModelUnusable, match="do_flip_channel_order"):
        _recipe(processor)


@pytest.mark.parametrize("size", [(1, 1), (1300, 1000), (640, 480), (768, 768), (2000, 900)])
def test_fast_pixels_are_seldom_more_than_one_step_away(size: tuple[int, int]) -> None:
    processor = CLIPImageProcessorPil(**FLORENCE)
    picture = _noise(40, 30).resize(size, Image.Resampling.BICUBIC)
    exact = PixelRecipe(processor, "cpu", torch.float32).resize(picture)
    fast = PixelRecipe(processor, "cpu", torch.float32, fast=True).resize(picture)
    assert fast.shape == exact.shape
    steps = np.abs(fast.astype(int) - exact.astype(int))
    assert steps.max() <= 2
    assert (steps > 1).mean() < 1e-4


def test_fast_pixels_are_exact_where_torch_has_no_such_resizing() -> None:
    processor = CLIPImageProcessorPil(**{**FLORENCE, "resample": Image.Resampling.LANCZOS})
    exact = PixelRecipe(processor, "cpu", torch.float32).resize(_noise(300, 200))
    fast = PixelRecipe(processor, "cpu", torch.float32, fast=True).resize(_noise(300, 200))
    assert np.array_equal(fast, exact)
