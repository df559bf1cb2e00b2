"""Regions in pixels become the `<loc_N>` tokens that transformers itself would write, and such tokens its pixels."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arno_shared.errors import RegionOutside
from arno_workers.engine.regions import dequantize, quantize


def transformers_() -> Any:
    from transformers.models.florence2.processing_florence2 import Florence2PostProcessor

    processor = Florence2PostProcessor.__new__(Florence2PostProcessor)
    processor.quantize_bins = (1000, 1000)
    return processor


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    edges=st.tuples(*[st.floats(0, 6000, allow_nan=False) for _ in range(4)]),
)
def test_bins_are_those_of_transformers(width: int, height: int, edges: tuple[float, float, float, float]) -> None:
    import torch

    x1, y1, x2, y2 = edges[0] % width, edges[1] % height, edges[2], edges[3]
    box = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float64)
    expected = transformers_().quantize(box, (width, height))[0].tolist()
    assert quantize((x1, y1, x2, y2), width, height) == "".join(f"<loc_{bin_}>" for bin_ in expected)


def test_a_region_that_reaches_beyond_the_picture_is_clipped() -> None:
    assert quantize((0, 0, 400, 400), 200, 100) == "<loc_0><loc_0><loc_999><loc_999>"


def test_a_region_outside_the_picture_is_refused_with_both_sizes() -> None:
    with pytest.raises(RegionOutside, match=r"200.*640 × 480"):
        quantize((10, 500, 200, 600), 640, 480)


@pytest.mark.parametrize("first", range(1, 8001, 1000))
def test_pixels_of_all_bins_in_pictures_of_all_sizes_are_those_of_transformers(first: int) -> None:
    import torch

    bins = [bin_ for bin_ in range(1000) for _ in "xy"]
    places = torch.tensor(bins).reshape(-1, 2)
    for width in range(first, first + 1000, 2):
        size = (width, width + 1)
        assert dequantize(bins, *size) == transformers_().dequantize(places, size).flatten().tolist()


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999))), st.integers(1, 2**31 - 1), st.integers(1, 2**24))
def test_pixels_are_those_of_transformers_however_large_the_picture(
    places: list[tuple[int, int]], width: int, height: int
) -> None:
    import torch

    expected = transformers_().dequantize(torch.tensor(places).reshape(-1, 2), (width, height))
    found = dequantize([bin_ for place in places for bin_ in place], width, height)
    assert found == expected.flatten().tolist()
    assert all(type(pixel) is int for pixel in found)
