"""Attention of each beam over what it has said itself, wherever its lineage finds it among the rows of all beams."""

import torch
import triton
import triton.language as tl
from torch import Tensor

LAUNCH = {"num_warps": 4}
READ_ELEMENTS = 8192
"""How much a program reads of keys, and of values, at a time: as many tokens as that makes, of all beams."""


def own_attention(qkv: Tensor, own_keys: Tensor, own_values: Tensor, lineage: Tensor, lengths: Tensor) -> Tensor:
    """(S, W, H · D): softmax(query · keys / √D) · values, for each beam over its own past and its new token.

    Writes the new tokens' keys and values into the caches, each into its beam's own row.

    qkv: (S, W, 3 · H · D) of the new tokens, laid out (3, H, D); own_keys, own_values: (S or more, H, T, W, D);
    lineage: (S, W, T) integers, the row that holds each token of each beam, -1 where there is none; lengths: (S,)
    integers, tokens with the new one, so that its place is the length - 1. A slot of length 0 writes nothing and gets
    zeros. What stands in places and rows that are not of the past means nothing, even if it is NaN.
    """
    slots, beams, _ = qkv.shape
    _, heads, _, _, width = own_keys.shape
    rows, columns = triton.next_power_of_2(beams), triton.next_power_of_2(width)
    qkv, lengths = qkv.contiguous(), lengths.contiguous()
    attended = qkv.new_empty(slots, beams, heads * width)
    _attend[(heads, slots)](
        qkv,
        own_keys,
        own_values,
        lineage,
        lengths,
        attended,
        *own_keys.stride()[:4],
        *own_values.stride()[:4],
        *lineage.stride()[:2],
        width**-0.5,
        BEAMS=beams,
        HEADS=heads,
        WIDTH=width,
        ROWS=rows,
        COLUMNS=columns,
        BLOCK_TOKENS=READ_ELEMENTS // (rows * columns),
        **LAUNCH,
    )
    return attended


def reference(qkv: Tensor, own_keys: Tensor, own_values: Tensor, lineage: Tensor, lengths: Tensor) -> Tensor:
    slots, beams, _ = qkv.shape
    _, heads, _, _, width = own_keys.shape
    queries, keys, values = qkv.view(slots, beams, 3, heads, width).unbind(2)
    attended = torch.zeros_like(queries)
    for slot, length in enumerate(lengths.tolist()):
        for beam in range(beams if length else 0):
            own_keys[slot, :, length - 1, beam] = keys[slot, beam]
            own_values[slot, :, length - 1, beam] = values[slot, beam]
        for beam in range(beams if length else 0):
            said = [place for place in range(length) if lineage[slot, beam, place] >= 0]
            row = lineage[slot, beam, said]
            past_keys, past_values = own_keys[slot, :, said, row].float(), own_values[slot, :, said, row].float()
            weights = (queries[slot, beam, :, None].float() @ past_keys.transpose(-1, -2)) * width**-0.5
            attended[slot, beam] = (torch.softmax(weights, -1) @ past_values)[:, 0]
    return attended.flatten(2)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    qkv,
    own_keys,
    own_values,
    lineage,
    lengths,
    attended,
    keys_by_slot,
    keys_by_head,
    keys_by_place,
    keys_by_row,
    values_by_slot,
    values_by_head,
    values_by_place,
    values_by_row,
    lineage_by_slot,
    lineage_by_beam,
    scale,
    BEAMS: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """One program for each head of each slot, of all beams: rows that beams share are read from memory once."""
    head = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1).to(tl.int64)
    length = tl.load(lengths + slot).to(tl.int32)
    beam, column, token = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, BLOCK_TOKENS)
    exists = (beam[:, None] < BEAMS) & (column[None, :] < WIDTH)

    at = ((slot * BEAMS + beam[:, None]) * 3 * HEADS + head) * WIDTH + column[None, :]
    query = tl.load(qkv + at, mask=exists, other=0.0).to(tl.float32)
    new_key = tl.load(qkv + at + HEADS * WIDTH, mask=exists, other=0.0)
    new_value = tl.load(qkv + at + 2 * HEADS * WIDTH, mask=exists, other=0.0)
    own_keys += slot * keys_by_slot + head * keys_by_head
    own_values += slot * values_by_slot + head * values_by_head
    writes = exists & (length > 0)
    place = (length - 1).to(tl.int64)
    tl.store(own_keys + place * keys_by_place + beam[:, None] * keys_by_row + column[None, :], new_key, mask=writes)
    tl.store(
        own_values + place * values_by_place + beam[:, None] * values_by_row + column[None, :], new_value, mask=writes
    )

    # In powers of two, which the device computes faster than those of e.
    query = query * (scale * 1.4426950408889634)
    # The new token is the first that each beam looks at, so that nothing is ever divided by 0.
    best = tl.sum(query * new_key.to(tl.float32), 1)
    total = tl.full([ROWS], 1.0, tl.float32)
    found = new_value.to(tl.float32)
    for start in range(0, length - 1, BLOCK_TOKENS):
        said = start + token
        row = tl.load(
            lineage + slot * lineage_by_slot + beam[:, None] * lineage_by_beam + said[None, :],
            mask=(beam[:, None] < BEAMS) & (said[None, :] < length - 1),
            other=-1,
        )
        counts = row >= 0
        reads = counts[:, :, None] & (column[None, None, :] < WIDTH)
        key_at = (said[None, :] * keys_by_place + row * keys_by_row)[:, :, None] + column[None, None, :]
        value_at = (said[None, :] * values_by_place + row * values_by_row)[:, :, None] + column[None, None, :]
        key = tl.load(own_keys + key_at, mask=reads, other=0.0).to(tl.float32)
        value = tl.load(own_values + value_at, mask=reads, other=0.0).to(tl.float32)
        weights = tl.where(counts, tl.sum(query[:, None, :] * key, 2), float("-inf"))
        better = tl.maximum(best, tl.max(weights, 1))
        weights = tl.exp2(weights - better[:, None])
        kept = tl.exp2(best - better)
        total = total * kept + tl.sum(weights, 1)
        found = found * kept[:, None] + tl.sum(weights[:, :, None] * value, 1)
        best = better
    found = tl.where(length > 0, found / total[:, None], 0.0)
    at = ((slot * BEAMS + beam[:, None]) * HEADS + head) * WIDTH + column[None, :]
    tl.store(attended + at, found.to(attended.dtype.element_ty), mask=exists)
