"""The best next tokens of each row, straight from its logits."""

import triton
import triton.language as tl
from torch import Tensor

from arno_workers.engine.largest import BLOCK, largest_where

LAUNCH = {"BLOCKS": 64, "num_warps": 8}
"""Blocks of columns that a program reads, and its warps."""


def candidates(logits: Tensor, normalizer: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(rows, count) float32 log-probabilities, best first, and their tokens.

    logits: (rows, n · BLOCK), -inf where a token is banned; normalizer: (rows,), what they had before any was. Rows
    whose normalizer is NaN are NaN. Equal logits may come in any order.
    """
    found, tokens = largest_where(_block_maxima(logits), logits, count)
    return found.float() - normalizer[:, None], tokens


def reference(logits: Tensor, normalizer: Tensor, count: int) -> tuple[Tensor, Tensor]:
    found, tokens = logits.topk(count)
    return found.float() - normalizer[:, None], tokens


def _block_maxima(logits: Tensor) -> Tensor:
    """(rows, n) of (rows, n · BLOCK)."""
    rows, blocks = logits.shape[0], logits.shape[1] // BLOCK
    maxima = logits.new_empty(rows, blocks)
    grid = (rows, triton.cdiv(blocks, LAUNCH["BLOCKS"]))
    _maxima[grid](logits, maxima, logits.stride(0), blocks, BLOCK=BLOCK, **LAUNCH)
    return maxima


@triton.jit
def _maxima(  # type: ignore[no-untyped-def]
    logits, maxima, logits_by_row, blocks, BLOCK: tl.constexpr, BLOCKS: tl.constexpr
):
    """One program for each run of blocks in each row."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    column = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    values = tl.load(logits + row * logits_by_row + column, mask=block[:, None] < blocks, other=float("-inf"))
    best = tl.max(values.to(tl.float32), 1)
    tl.store(maxima + row * blocks + block, best.to(maxima.dtype.element_ty), mask=block < blocks)
