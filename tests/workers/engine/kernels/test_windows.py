"""Attention within windows, where they lie, gives what attention over windows that are cut out gives."""

import pytest
import torch
from torch import Tensor

from arno_workers.engine.kernels.windows import reference, windows
from tests.workers.engine.conftest import Run

SHAPES = [
    (1, 12, 24, 64, 2, 12),
    (3, 8, 16, 48, 3, 8),
    (2, 8, 4, 24, 3, 4),
    (1, 7, 14, 20, 2, 7),
    (2, 2, 3, 6, 1, 1),
    (1, 10, 20, 96, 2, 10),
    (1, 16, 16, 40, 1, 16),
]
"""Pictures, rows, columns, channels, heads, the window's size: 144 places are a power of two and a rest, as 100 are
without filling it; the others are one power of two, full or not."""


def _qkv(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    count, height, width, channels, *_ = shape
    return torch.randn(count, height, width, 3 * channels, generator=torch.Generator().manual_seed(sum(shape))).to(
        dtype
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_windows_attend_where_they_lie(run: Run, shape: tuple[int, ...]) -> None:
    qkv, (heads, size) = _qkv(shape), shape[4:]
    found = run(windows, qkv, heads, size, 0.3)
    torch.testing.assert_close(found, reference(qkv, heads, size, 0.3), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_half_precision_weights_and_results_are_rounded(
    run: Run, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """The weights, of which the sum is 1, each by half of a unit in its last place."""
    qkv, (heads, size) = _qkv(shape, dtype), shape[4:]
    found = run(windows, qkv, heads, size, 0.3)
    assert found.dtype == dtype
    rounding = torch.finfo(dtype).eps
    expected = reference(qkv.float(), heads, size, 0.3)
    torch.testing.assert_close(found.float(), expected, atol=rounding, rtol=rounding)


@pytest.mark.parametrize("times", [1e3, -1e3])
def test_large_weights_leave_only_the_largest(run: Run, times: float) -> None:
    # Of whole numbers, so that it is clear which these are.
    qkv = _qkv(SHAPES[0]).round()
    qkv[..., :64] *= times
    found = run(windows, qkv, 2, 12, 1.0)
    torch.testing.assert_close(found, reference(qkv, 2, 12, 1.0), atol=1e-6, rtol=1e-6)


def test_windows_do_not_see_each_other(run: Run) -> None:
    qkv = _qkv((2, 12, 24, 32, 1, 12))
    before = run(windows, qkv, 1, 12, 0.3)
    qkv[0, :, :12] = torch.inf
    after = run(windows, qkv, 1, 12, 0.3)
    assert torch.equal(before[0, :, 12:], after[0, :, 12:])
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize(("height", "width", "size"), [(9, 8, 4), (8, 9, 4), (34, 34, 17)])
def test_what_is_not_made_of_windows_is_refused(run: Run, height: int, width: int, size: int) -> None:
    with pytest.raises(ValueError, match="windows of"):
        run(windows, torch.zeros(1, height, width, 48), 1, size, 1.0)
