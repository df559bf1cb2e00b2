"""Attention of channels to channels, where they lie, gives what it gives over groups that are taken apart."""

import pytest
import torch
from torch import Tensor

from arno_workers.engine.kernels.channels import channels, reference
from tests.workers.engine.conftest import Run

SHAPES = [(1, 64, 4, 32), (3, 45, 3, 32), (2, 1, 1, 16), (1, 70, 5, 6), (2, 48, 2, 48), (1, 2400, 2, 8)]
"""Pictures, places, groups, channels of each: fewer groups than a program takes, or not the same for all programs;
channels that are no power of two; and more places than one program reads."""


def _qkv(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    count, places, groups, width = shape
    qkv = torch.randn(count, places, 3 * groups * width, generator=torch.Generator().manual_seed(sum(shape)))
    return qkv.to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_channels_attend_where_they_lie(run: Run, shape: tuple[int, ...]) -> None:
    qkv, groups = _qkv(shape), shape[2]
    torch.testing.assert_close(run(channels, qkv, groups), reference(qkv, groups), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_half_precision_weights_and_results_are_rounded(
    run: Run, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """The weights, of which the sum is 1, each by half of a unit in its last place."""
    qkv, groups = _qkv(shape, dtype), shape[2]
    found = run(channels, qkv, groups)
    assert found.dtype == dtype
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(found.float(), reference(qkv.float(), groups), atol=2 * rounding, rtol=rounding)


def test_sums_over_many_places_stay_in_the_range_of_half_precision(run: Run) -> None:
    qkv = torch.ones(1, 1500, 96, dtype=torch.float16)
    qkv[..., :64] *= 16
    qkv[..., 64:] = torch.arange(32)
    found = run(channels, qkv, 1)
    torch.testing.assert_close(found.float(), torch.full((1, 1500, 32), 15.5), atol=1e-2, rtol=0)


def test_groups_and_pictures_do_not_see_each_other(run: Run) -> None:
    qkv = _qkv((2, 40, 3, 16), torch.bfloat16)
    before = run(channels, qkv, 3)
    qkv.view(2, 40, 3, 3, 16)[0, :, :, 1] += 1
    after = run(channels, qkv, 3)
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[0, :, :16], after[0, :, :16])
    assert torch.equal(before[0, :, 32:], after[0, :, 32:])
    assert not torch.equal(before[0, :, 16:32], after[0, :, 16:32])
