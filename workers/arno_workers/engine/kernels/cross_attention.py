"""Attention of a slot's beams over the keys of its picture and prompt, each slot over as many as it has."""

import torch
import triton
import triton.language as tl
from torch import Tensor

LAUNCH = {"BLOCK_KEYS": 64, "num_warps": 4, "num_stages": 3}
"""Keys that a program reads at a time, at least 16; its warps; and how many reads are under way while it computes."""

_FEWEST_ROWS = 16
"""The least that `tl.dot` takes on any side."""


def cross_attention(queries: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """(S, W, H · D): softmax(queries · keys / √D) · values, over the first `lengths` keys of each slot.

    queries: (S, W, H · D); keys, values: (S or more, H, P, D); lengths: (S,) integers, at most P. A slot of length 0
    reads nothing and gets zeros. What stands behind a slot's keys means nothing, even if it is NaN.
    """
    slots, beams, _ = queries.shape
    _, heads, _, width = keys.shape
    queries, lengths = queries.contiguous(), lengths.contiguous()
    attended = torch.empty_like(queries)
    _attend[(heads, slots)](
        queries,
        keys,
        values,
        lengths,
        attended,
        *keys.stride()[:3],
        *values.stride()[:3],
        width**-0.5,
        BEAMS=beams,
        HEADS=heads,
        WIDTH=width,
        ROWS=max(_FEWEST_ROWS, triton.next_power_of_2(beams)),
        COLUMNS=max(_FEWEST_ROWS, triton.next_power_of_2(width)),
        **LAUNCH,
    )
    return attended


def reference(queries: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    beams = queries.shape[1]
    _, heads, _, width = keys.shape
    attended = torch.zeros_like(queries)
    for slot, length in enumerate(lengths.tolist()):
        if length:
            asked = queries[slot].view(beams, heads, width).transpose(0, 1).float()
            weights = asked @ keys[slot, :, :length].float().transpose(-1, -2) * width**-0.5
            found = torch.softmax(weights, -1) @ values[slot, :, :length].float()
            attended[slot] = found.transpose(0, 1).flatten(1)
    return attended


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    lengths,
    attended,
    keys_by_slot,
    keys_by_head,
    keys_by_place,
    values_by_slot,
    values_by_head,
    values_by_place,
    scale,
    BEAMS: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """One program for each head of each slot: all of its beams are the rows of one product with a block of keys."""
    head = tl.program_id(0)
    slot = tl.program_id(1).to(tl.int64)
    length = tl.load(lengths + slot).to(tl.int32)
    beam, column, place = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, BLOCK_KEYS)

    at = ((slot * BEAMS + beam[:, None]) * HEADS + head) * WIDTH + column[None, :]
    exists = (beam[:, None] < BEAMS) & (column[None, :] < WIDTH)
    asked = tl.load(queries + at, mask=exists, other=0.0)
    keys += slot * keys_by_slot + head.to(tl.int64) * keys_by_head
    values += slot * values_by_slot + head.to(tl.int64) * values_by_head

    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, length, BLOCK_KEYS):
        there = start + place
        counts = (there[:, None] < length) & (column[None, :] < WIDTH)
        key = tl.load(keys + there[:, None] * keys_by_place + column[None, :], mask=counts, other=0.0)
        value = tl.load(values + there[:, None] * values_by_place + column[None, :], mask=counts, other=0.0)
        # In powers of two, which the device computes faster than those of e.
        weights = tl.dot(asked, tl.trans(key), input_precision="ieee") * (scale * 1.4426950408889634)
        weights = tl.where(there[None, :] < length, weights, float("-inf"))
        better = tl.maximum(best, tl.max(weights, 1))
        weights = tl.exp2(weights - better[:, None])
        kept = tl.exp2(best - better)
        total = total * kept + tl.sum(weights, 1)
        found = found * kept[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        best = better
    # A slot without keys has a total of 0.
    found = found / tl.where(length > 0, total, 1.0)[:, None]
    tl.store(attended + at, found.to(attended.dtype.element_ty), mask=exists)
