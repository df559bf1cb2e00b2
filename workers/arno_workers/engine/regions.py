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


def bins_of(locations: str) -> list[int]:
    """`locations`: `<loc_N>`, one behind the other."""
    return list(map(_BINS.__getitem__, locations[len("<loc_") : -1].split("><loc_"))) if locations else []


def dequantize(bins: Sequence[int], width: int, height: int) -> list[int]:
    """Pixels of the bins' middles, x and y in turn, as `Florence2PostProcessor.dequantize` gives them.

    That is in float32, in which many a middle is rounded up or down to another pixel.
    """
    bin_px = np.array((width / LOCATION_BINS, height / LOCATION_BINS), np.float32)
    middles = np.array(bins, np.float32).reshape(-1, 2) + np.float32(0.5)
    pixels: list[int] = (middles * bin_px).astype(np.int64).ravel().tolist()
    return pixels


class _Bins(dict[str, int]):
    """By how they are written."""

    def __missing__(self, number: str) -> int:
        """`<loc_N>` with a greater N is no token, but can be spelled by several: it becomes the picture's edge."""
        try:
            return min(int(number), LOCATION_BINS - 1)
        except ValueError:
            # Python reads no number of thousands of digits.
            return LOCATION_BINS - 1


_BINS = _Bins({str(bin_): bin_ for bin_ in range(LOCATION_BINS)})
