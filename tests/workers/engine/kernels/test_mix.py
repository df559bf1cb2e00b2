"""The fused convolution gives what convolution, sums and norm give one after the other."""

import pytest
import torch
from torch import Tensor

from arno_workers.engine.kernels.mix import laid, mix, reference
from tests.workers.engine.conftest import Run

SHAPES = [(1, 4, 8, 128), (3, 6, 5, 48), (2, 1, 1, 16), (1, 9, 19, 12), (1, 5, 3, 256), (1, 3, 2, 1030)]
EPS = 1e-5


def _given(shape: tuple[int, ...], dtype: torch.dtype, branch: bool = True) -> tuple[Tensor | None, ...]:
    random = torch.Generator().manual_seed(sum(shape))
    channels = shape[-1]
    sizes = [shape, shape, (channels, 1, 3, 3), (channels,), (channels,), (channels,)]
    x, beside, weight, *vectors = (torch.randn(size, generator=random).to(dtype) for size in sizes)
    return x, beside if branch else None, laid(weight), *vectors


def _plain(x: Tensor, branch: Tensor | None, *rest: Tensor) -> tuple[Tensor, Tensor]:
    """In float32, but for the sum, which everyone rounds."""
    s = x if branch is None else x + branch
    return reference(s.float(), None, *(one.float() for one in rest), EPS)


@pytest.mark.parametrize("branch", [True, False], ids=["branch", "alone"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_convolution_sums_and_norm(run: Run, shape: tuple[int, ...], branch: bool) -> None:
    given = _given(shape, torch.float32, branch)
    for found, expected in zip(run(mix, *given, EPS), reference(*given, EPS), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_half_precision_only_the_results_are_rounded(run: Run, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    given = _given(shape, dtype)
    rounding = torch.finfo(dtype).eps
    for found, expected in zip(run(mix, *given, EPS), _plain(*given), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=rounding)


def test_the_norm_stands_a_mean_far_from_zero(run: Run) -> None:
    x, _, weight, bias, *norm = _given((1, 4, 4, 64), torch.float32, branch=False)
    given = x, None, weight, bias + 3000, *norm
    _, normed = run(mix, *given, EPS)
    _, expected = reference(*(None if one is None else one.double() for one in given), EPS)
    torch.testing.assert_close(normed, expected.float(), atol=2e-3, rtol=1e-3)


def test_a_constant_picture_has_no_variance(run: Run) -> None:
    ones = torch.ones(1, 4, 4, 32)
    _, normed = run(mix, ones, None, torch.zeros(9, 32), torch.zeros(32), torch.ones(32), torch.full((32,), 0.5), EPS)
    assert torch.equal(normed, torch.full_like(ones, 0.5))
