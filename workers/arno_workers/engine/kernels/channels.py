"""Attention of channels to channels, which reads a fused projection where it lies, and writes places as they lie."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_SLICE = 1152
"""Places that one program reads: those of a picture are shared among programs, and equally at any width of a tower."""

_COLUMNS = 64
"""Channels that a program takes, of as many groups as they hold: of a place, 128 bytes, a line of the cache."""

_FEWEST = 16
"""The least that `tl.dot` takes on any side."""

_LAUNCH = {"BLOCK_PLACES": 64, "num_warps": 4, "num_stages": 4}
"""Places that a program multiplies at a time; its warps; and how many reads are under way while it does."""

_FLOAT32_LAUNCH = {"BLOCK_PLACES": 16, "num_warps": 4, "num_stages": 2}
"""The same without tensor cores, where each product is an instruction of its own, and many take long to compile."""


def channels(qkv: Tensor, groups: int) -> Tensor:
    """(n, places, C): softmax(qᵀ · k / √places) · v of each group, over its channels.

    qkv: (n, places, 3 · C), contiguous; the last is (3, groups, C / groups), as one projection gives it. Rounded are
    the weights, and the result.
    """
    count, places, fused = qkv.shape
    width = fused // 3 // groups
    block = max(_FEWEST, triton.next_power_of_2(width))
    is_exact = qkv.dtype == torch.float32
    together = 1 if is_exact else max(1, _COLUMNS // block)
    launch = {
        "GROUPS": groups,
        "WIDTH": width,
        "BLOCK_WIDTH": block,
        "TOGETHER": together,
        "SLICE": _SLICE,
        **(_FLOAT32_LAUNCH if is_exact else _LAUNCH),
    }
    slices = triton.cdiv(places, _SLICE)
    grid = triton.cdiv(groups, together), slices, count
    logits = qkv.new_empty(count, groups, slices, width, width, dtype=torch.float32)
    _multiply[grid](qkv, logits, places, places**-0.5, **launch)
    weights = torch.softmax(logits.sum(2), -1).to(qkv.dtype)
    seen = qkv.new_empty(count, places, groups * width)
    _see[grid](qkv, weights, seen, places, **launch)
    return seen


def reference(qkv: Tensor, groups: int) -> Tensor:
    count, places, fused = qkv.shape
    queries, keys, values = qkv.view(count, places, 3, groups, fused // 3 // groups).permute(2, 0, 3, 1, 4).unbind(0)
    weights = torch.softmax(queries.transpose(-1, -2) @ keys * places**-0.5, -1, dtype=torch.float32)
    seen = values @ weights.to(values.dtype).transpose(-1, -2)
    return seen.transpose(1, 2).reshape(count, places, fused // 3)


@triton.jit(do_not_specialize=["places"])
def _multiply(
    qkv: tl.tensor,
    logits: tl.tensor,
    places: tl.tensor,
    scale: tl.tensor,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    TOGETHER: tl.constexpr,
    SLICE: tl.constexpr,
    BLOCK_PLACES: tl.constexpr,
) -> None:
    """One program for some groups of a slice of the places. Queries meet the keys of all of these groups, which costs
    tensor cores nothing; only what is of one group is written."""
    group, channel = _columns(TOGETHER, BLOCK_WIDTH)
    real = (group < GROUPS) & (channel < WIDTH)
    row = 3 * GROUPS * WIDTH
    picture = tl.program_id(2).to(tl.int64)
    first = tl.program_id(1) * SLICE
    queries = qkv + picture * places * row + (group * WIDTH + channel)[None, :]
    keys = queries + GROUPS * WIDTH
    total = tl.zeros((TOGETHER * BLOCK_WIDTH, TOGETHER * BLOCK_WIDTH), tl.float32)
    for start in range(first, tl.minimum(first + SLICE, places), BLOCK_PLACES):
        place = start + tl.arange(0, BLOCK_PLACES)
        exists = (place < places)[:, None] & real[None, :]
        at = place.to(tl.int64)[:, None] * row
        query = tl.load(queries + at, mask=exists, other=0.0)
        key = tl.load(keys + at, mask=exists, other=0.0)
        total = tl.dot(tl.trans(query), key, total, input_precision="ieee")

    slice = (picture * GROUPS + group) * tl.num_programs(1) + tl.program_id(1)
    logits += (slice * WIDTH + channel)[:, None] * WIDTH + channel[None, :]
    tl.store(logits, total * scale, mask=_of_one_group(group, real))


@triton.jit(do_not_specialize=["places"])
def _see(
    qkv: tl.tensor,
    weights: tl.tensor,
    seen: tl.tensor,
    places: tl.tensor,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    TOGETHER: tl.constexpr,
    SLICE: tl.constexpr,
    BLOCK_PLACES: tl.constexpr,
) -> None:
    """One program for some groups of a slice of the places: values times weights, which are zero between groups."""
    group, channel = _columns(TOGETHER, BLOCK_WIDTH)
    real = (group < GROUPS) & (channel < WIDTH)
    row = GROUPS * WIDTH
    picture = tl.program_id(2).to(tl.int64)
    first = tl.program_id(1) * SLICE
    column = (group * WIDTH + channel)[None, :]
    qkv += picture * places * (3 * row) + 2 * row
    seen += picture * places * row
    weights += ((picture * GROUPS + group) * WIDTH + channel)[:, None] * WIDTH + channel[None, :]
    weight = tl.trans(tl.load(weights, mask=_of_one_group(group, real), other=0.0))
    for start in range(first, tl.minimum(first + SLICE, places), BLOCK_PLACES):
        place = start + tl.arange(0, BLOCK_PLACES)
        exists = (place < places)[:, None] & real[None, :]
        at = place.to(tl.int64)[:, None] * row
        value = tl.load(qkv + 3 * at + column, mask=exists, other=0.0)
        found = tl.dot(value, weight, input_precision="ieee")
        tl.store(seen + at + column, found.to(seen.dtype.element_ty), mask=exists)


@triton.jit
def _columns(TOGETHER: tl.constexpr, BLOCK_WIDTH: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Group and channel of each of a program's columns."""
    column = tl.arange(0, TOGETHER * BLOCK_WIDTH)
    return tl.program_id(0) * TOGETHER + column // BLOCK_WIDTH, column % BLOCK_WIDTH


@triton.jit
def _of_one_group(group: tl.tensor, real: tl.tensor) -> tl.tensor:
    """Which pairs of columns are of the same group, and exist."""
    return (group[:, None] == group[None, :]) & real[:, None] & real[None, :]
