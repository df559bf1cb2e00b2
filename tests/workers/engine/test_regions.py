"""Regions in pixels become the `<loc_N>` tokens that transformers itself would write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arno_shared.errors import RegionOutside
from arno_workers.engine.regions import quantize


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    edges=st.tuples(*[st.floats(0, 6000, allow_nan=False) for _ in range(4)]),
)
def test_bins_are_those_of_transformers(width: int, height: int, edges: tuple[float, float, float, float]) -> None:
    import torch
    from transformers.models.florence2.processing_florence2 import Florence2PostProcessor

    x1, y1, x2, y2 = edges[0] % width, edges[1] % height, edges[2], edges[3]
    processor = Florence2PostProcessor.__new__(Florence2PostProcessor)
    processor.quantize_bins = (1000, 1000)
    box = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float64)
    expected = processor.quantize(box, (width, height))[0].tolist()
    assert quantize((x1, y1, x2, y2), width, height) == "".join(f"<loc_{bin_}>" for bin_ in expected)


def test_a_region_that_reaches_beyond_the_picture_is_clipped() -> None:
    assert quantize((0, 0, 400, 400), 200, 100) == "<loc_0><loc_0><loc_999><loc_999>"


def test_a_region_outside_the_picture_is_refused_with_both_sizes() -> None:
    with pytest.raises(RegionOutside, match=r"200.*640 × 480"):
        quantize((10, 500, 200, 600), 640, 480)
