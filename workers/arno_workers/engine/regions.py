"""Regions in pixels as Florence-2's `<loc_N>` tokens, and back."""

from collections.abc import Sequence

import numpy as np

from arno_shared.errors import RegionOutside
from arno_shared.prompts import LOCATION_BINS, Region


def quantize(region: Region, width: int, height: int) -> str:
    """`<loc_x1><loc_y1><loc_x2><loc_y2>`, as `Florence2PostProcessor.quantize` bins them; edges are clipped.

    Raises RegionOutside when nothing of the region lies in the picture (sizes in pixels).
    """
    x1, y1, x2, y2 = region
    if x1 >= width or y1 >= height:
        raise RegionOutside(f"the region {region} lies outside the picture of {width} × {height} pixels")
    return "".join(
        f"<loc_{int(min(edge / (size / LOCATION_BINS), LOCATION_BINS - 1))}>"
        for edge, size in ((x1, width), (y1, height), (x2, width), (y2, height))
    )


def dequantize(bins: Sequence[int], width: int, height: int) -> list[int]:
    """Pixels of the bins' middles, x and y in turn, as `Florence2PostProcessor.dequantize` gives them.

    That is in float32, in which many a middle is rounded up or down to another pixel.
    """
    bin_px = np.array((width / LOCATION_BINS, height / LOCATION_BINS), np.float32)
    middles = np.array(bins, np.float32).reshape(-1, 2) + np.float32(0.5)
    pixels: list[int] = (middles * bin_px).astype(np.int64).ravel().tolist()
    return pixels
