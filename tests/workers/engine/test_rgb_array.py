"""A picture's array has its pixels, all of them, and is nobody else's."""

import gc

import numpy as np
import pytest
from PIL import Image

from arno_workers.engine import rgb_array as module
from arno_workers.engine.rgb_array import rgb_array

SIZES = [(1, 1), (1, 3000), (3000, 1), (3, 7), (128, 128), (768, 768), (2049, 1023), (4000, 3000)]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}×{size[1]}")
@pytest.mark.parametrize("made", ["new", "resized", "cropped", "converted", "turned"])
def test_it_has_the_pixels_of_the_picture(size: tuple[int, int], made: str) -> None:
    picture = noise(*size)
    if made == "resized":
        picture = picture.resize((size[0] + 3, size[1] + 1), Image.Resampling.BICUBIC)
    elif made == "cropped":
        picture = noise(size[0] + 5, size[1] + 9).crop((2, 4, size[0] + 2, size[1] + 4))
    elif made == "converted":
        picture = picture.convert("RGBA").convert("RGB")
    elif made == "turned":
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    pixels = rgb_array(picture)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert np.array_equal(pixels, np.array(picture))


def test_a_large_picture_lies_in_pieces() -> None:
    """Else nothing tries what is done then."""
    with pytest.raises(ValueError, match="contiguous"):
        noise(4000, 3000).__arrow_c_array__()


def test_it_is_its_own() -> None:
    picture = noise(64, 64)
    before = picture.tobytes()
    pixels = rgb_array(picture)
    pixels[:] = 0
    assert picture.tobytes() == before


def test_it_outlives_the_picture() -> None:
    picture = noise(300, 200)
    expected = np.array(picture)
    pixels = rgb_array(picture)
    del picture
    gc.collect()
    others = [noise(300, 200 + n) for n in range(20)]
    assert np.array_equal(pixels, expected)
    assert others


def test_where_numpy_copies_in_another_order_pillow_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = module._packed
    monkeypatch.setattr(module, "_packed", lambda picture: packed(picture)[::-1])
    module._packs.cache_clear()
    try:
        picture = noise(30, 20)
        assert np.array_equal(rgb_array(picture), np.array(picture))
    finally:
        module._packs.cache_clear()
