"""Sum and norm in one pass give what they give one after the other."""

import pytest
import torch
from torch import Tensor

from arno_workers.engine.kernels.add_norm import add_norm, reference
from tests.workers.engine.conftest import Run

SHAPES = [(1, 768), (3, 1, 1024), (2, 5, 48), (7, 1), (3, 1030)]
EPS = 1e-5


def _given(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    random = torch.Generator().manual_seed(sum(shape))
    sizes = [shape, shape, shape[-1:], shape[-1:]]
    return [torch.randn(size, generator=random).to(dtype) for size in sizes]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_norm_of_the_sum(run: Run, shape: tuple[int, ...]) -> None:
    given = _given(shape)
    torch.testing.assert_close(run(add_norm, *given, EPS), reference(*given, EPS), atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [*SHAPES, (11, 128)], ids=str)
def test_without_a_branch_it_is_the_norm(run: Run, shape: tuple[int, ...]) -> None:
    x, _, *norm = _given(shape)
    torch.testing.assert_close(run(add_norm, x, None, *norm, EPS), reference(x, None, *norm, EPS), atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_half_precision_only_sum_and_result_are_rounded(
    run: Run, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x, branch, *norm = _given(shape, dtype)
    found = run(add_norm, x, branch, *norm, EPS)
    assert found.dtype == dtype
    total = (x + branch).float()
    expected = reference(total, torch.zeros_like(total), *(one.float() for one in norm), EPS)
    torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=torch.finfo(dtype).eps)


def test_the_norm_stands_a_mean_far_from_zero(run: Run) -> None:
    x, branch, *norm = _given((4, 768))
    x += 3000
    # The sum is exact in float64 only; what is normed is what float32 makes of it.
    exact = [one.double() for one in (x + branch, torch.zeros_like(x), *norm)]
    torch.testing.assert_close(
        run(add_norm, x, branch, *norm, EPS), reference(*exact, EPS).float(), atol=2e-3, rtol=1e-3
    )


def test_a_constant_row_has_no_variance(run: Run) -> None:
    row = torch.full((2, 64), 0.25)
    normed = run(add_norm, row, row, torch.ones(64), torch.full((64,), 0.5), EPS)
    assert torch.equal(normed, torch.full_like(row, 0.5))
