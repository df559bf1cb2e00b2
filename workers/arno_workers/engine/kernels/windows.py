"""Attention within the windows of a picture, where it lies: nothing is cut out, and nothing put back."""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

_QUERIES = 64
"""What a program multiplies at a time, at most: 16 rows for each of its warps."""

_FLOAT32_QUERIES = 16
"""The same without tensor cores, where each product is an instruction of its own, and many take long to compile."""

_LAUNCH = {"num_warps": 4, "num_stages": 1, "maxnreg": 128}
"""With 128 registers a thread, four programs fit a multiprocessor: one reads while others compute."""

LARGEST = 256
"""Places of a window: a program has all of a query's weights at hand."""


def windows(qkv: Tensor, heads: int, size: int, scale: float) -> Tensor:
    """(n, h, w, C): softmax(q · k · scale) · v of each head, within windows of size × size places.

    qkv: (n, h, w, 3 · C), contiguous; the last is (3, heads, C / heads), as one projection gives it.
    ValueError if h and w are no multiples of size, or a window has more than 256 places.
    """
    count, height, width, fused = qkv.shape
    channels = fused // 3
    if height % size or width % size:
        raise ValueError(f"{height} × {width} places are not made of windows of {size} × {size}")
    if size * size > LARGEST:
        raise ValueError(f"windows of {size} × {size} have more than {LARGEST} places")
    seen = qkv.new_empty(count, height, width, channels)
    whole, rest = _cut(size * size)
    _windows[(heads, (height // size) * (width // size), count)](
        qkv,
        seen,
        height,
        width,
        scale,
        CHANNELS=channels,
        WIDTH=channels // heads,
        BLOCK_WIDTH=max(16, triton.next_power_of_2(channels // heads)),
        SIZE=size,
        WHOLE=whole,
        REST=rest,
        QUERIES=min(_FLOAT32_QUERIES if qkv.dtype == torch.float32 else _QUERIES, whole),
        **_LAUNCH,
    )
    return seen


def reference(qkv: Tensor, heads: int, size: int, scale: float) -> Tensor:
    count, height, width, fused = qkv.shape
    rows, columns, channels = height // size, width // size, fused // 3
    apart = qkv.view(count, rows, size, columns, size, 3, heads, channels // heads)
    queries, keys, values = apart.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).unbind(0)
    seen = F.scaled_dot_product_attention(queries, keys, values, scale=scale)
    seen = seen.view(count, rows, columns, heads, size, size, -1).permute(0, 1, 4, 2, 5, 3, 6)
    return seen.reshape(count, height, width, channels)


def _cut(places: int) -> tuple[int, int]:
    """Powers of two, at least 16 (the second may be 0), that hold so many places: 144 are 128 and 16, not 256."""
    one = max(16, triton.next_power_of_2(places))
    whole = one // 2
    rest = max(16, triton.next_power_of_2(places - whole))
    return (whole, rest) if whole >= 16 and whole + rest < one else (one, 0)


@triton.jit(do_not_specialize=["height", "width"])
def _windows(
    qkv: tl.tensor,
    seen: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    scale: tl.tensor,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    WHOLE: tl.constexpr,
    REST: tl.constexpr,
    QUERIES: tl.constexpr,
) -> None:
    """One program for a head of a window. Its places are WHOLE and then REST, as keys and as queries."""
    head = tl.program_id(0)
    columns = width // SIZE
    row = tl.program_id(1) // columns * SIZE
    column = tl.program_id(1) % columns * SIZE
    corner = (tl.program_id(2).to(tl.int64) * height + row) * width + column
    qkv += corner * (3 * CHANNELS) + head * WIDTH
    seen += corner * CHANNELS + head * WIDTH
    # In powers of two, which the device computes faster than those of e.
    scale = scale * 1.4426950408889634

    keys = _load(qkv + CHANNELS, 0, width, WHOLE, SIZE, 3 * CHANNELS, WIDTH, BLOCK_WIDTH)
    values = _load(qkv + 2 * CHANNELS, 0, width, WHOLE, SIZE, 3 * CHANNELS, WIDTH, BLOCK_WIDTH)
    # Without a rest these are not read.
    more_keys = keys
    more_values = values
    if REST > 0:
        more_keys = _load(qkv + CHANNELS, WHOLE, width, REST, SIZE, 3 * CHANNELS, WIDTH, BLOCK_WIDTH)
        more_values = _load(qkv + 2 * CHANNELS, WHOLE, width, REST, SIZE, 3 * CHANNELS, WIDTH, BLOCK_WIDTH)
    for first in range(0, WHOLE, QUERIES):
        queries = _load(qkv, first, width, QUERIES, SIZE, 3 * CHANNELS, WIDTH, BLOCK_WIDTH)
        found = _attend(queries, keys, values, more_keys, more_values, scale, SIZE, WHOLE, REST)
        _store(seen, found, first, width, QUERIES, SIZE, CHANNELS, WIDTH, BLOCK_WIDTH)
    if REST > 0:
        queries = _load(qkv, WHOLE, width, REST, SIZE, 3 * CHANNELS, WIDTH, BLOCK_WIDTH)
        found = _attend(queries, keys, values, more_keys, more_values, scale, SIZE, WHOLE, REST)
        _store(seen, found, WHOLE, width, REST, SIZE, CHANNELS, WIDTH, BLOCK_WIDTH)


@triton.jit
def _attend(
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    more_keys: tl.tensor,
    more_values: tl.tensor,
    scale: tl.tensor,
    SIZE: tl.constexpr,
    WHOLE: tl.constexpr,
    REST: tl.constexpr,
) -> tl.tensor:
    """What these queries see, in float32."""
    weights = _weigh(queries, keys, 0, WHOLE, SIZE)
    best = tl.max(weights, 1)
    if REST > 0:
        more = _weigh(queries, more_keys, WHOLE, REST, SIZE)
        best = tl.maximum(best, tl.max(more, 1))
    best = (best * scale)[:, None]
    weights = tl.exp2(weights * scale - best)
    total = tl.sum(weights, 1)
    found = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    if REST > 0:
        more = tl.exp2(more * scale - best)
        total += tl.sum(more, 1)
        found = tl.dot(more.to(values.dtype), more_values, found, input_precision="ieee")
    return found * (1.0 / total)[:, None]


@triton.jit
def _weigh(
    queries: tl.tensor, keys: tl.tensor, first: tl.constexpr, PLACES: tl.constexpr, SIZE: tl.constexpr
) -> tl.tensor:
    """Queries times keys; −inf for what is no place of the window."""
    weights = tl.dot(queries, tl.trans(keys), input_precision="ieee")
    if first + PLACES > SIZE * SIZE:
        place = first + tl.arange(0, PLACES)
        weights = tl.where((place < SIZE * SIZE)[None, :], weights, float("-inf"))
    return weights


@triton.jit
def _load(
    corner: tl.tensor,
    first: tl.tensor,
    width: tl.tensor,
    PLACES: tl.constexpr,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
) -> tl.tensor:
    at, exists = _places(first, width, PLACES, SIZE, STRIDE, WIDTH, BLOCK_WIDTH)
    return tl.load(corner + at, mask=exists, other=0.0)


@triton.jit
def _store(
    corner: tl.tensor,
    found: tl.tensor,
    first: tl.tensor,
    width: tl.tensor,
    PLACES: tl.constexpr,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
) -> None:
    at, exists = _places(first, width, PLACES, SIZE, STRIDE, WIDTH, BLOCK_WIDTH)
    tl.store(corner + at, found.to(corner.dtype.element_ty), mask=exists)


@triton.jit
def _places(
    first: tl.tensor,
    width: tl.tensor,
    PLACES: tl.constexpr,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Where places of a window are, counted from its corner, in a picture so many wide; and which of them exist."""
    place = first + tl.arange(0, PLACES)
    channel = tl.arange(0, BLOCK_WIDTH)
    at = (place // SIZE * width + place % SIZE) * STRIDE
    return at[:, None] + channel[None, :], (place < SIZE * SIZE)[:, None] & (channel < WIDTH)[None, :]
