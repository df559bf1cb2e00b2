"""What logits are to be lessened by, to be log-probabilities: read once, and never written down in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

LAUNCH = {"BLOCK_COLUMNS": 4096, "num_warps": 8}
"""Columns that a program reads at a time, and its warps."""


def log_normalizer(logits: Tensor) -> Tensor:
    """(rows,) float32: log Σ exp of each row of `logits`, (rows, columns).

    Less this, a row is what log_softmax makes of it: all NaN where something in it is NaN or +inf, or all of it -inf.
    """
    rows, columns = logits.shape
    normalizer = logits.new_empty(rows, dtype=torch.float32)
    _normalize[(rows,)](logits, normalizer, logits.stride(0), columns, **LAUNCH)
    return normalizer


def reference(logits: Tensor) -> Tensor:
    return logits.double().logsumexp(-1).float()


@triton.jit
def _normalize(logits, normalizer, logits_by_row, columns, BLOCK_COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program for each row."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * logits_by_row
    best, total = float("-inf"), 0.0
    for start in range(0, columns, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        values = tl.load(logits + column, mask=column < columns, other=float("-inf")).to(tl.float32)
        better = tl.maximum(best, tl.max(values, 0))
        # -inf is as far from -inf as from anything else.
        origin = tl.where(better == float("-inf"), 0.0, better)
        total = total * tl.exp(best - origin) + tl.sum(tl.exp(values - origin), 0)
        best = better
    tl.store(normalizer + row, best + tl.log(total))
