"""A linear layer with its GELU gives what they give one after the other."""

import pytest
import torch
from torch import Tensor

from arno_workers.engine.kernels.linear_gelu import linear_gelu, reference
from tests.workers.engine.conftest import Run

SHAPES = [((4, 64), 128), ((3, 5, 70), 48), ((1, 320), 30), ((131, 16), 260), ((2, 1), 1)]
"""Of x, and how many columns of the result: within a tile, beyond one, and of odd numbers of terms."""


def _given(shape: tuple[int, ...], columns: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=random)
    weight = torch.randn(columns, shape[-1], generator=random) * shape[-1] ** -0.5
    return x.to(dtype), weight.to(dtype), torch.randn(columns, generator=random).to(dtype)


@pytest.mark.parametrize(("shape", "columns"), SHAPES, ids=str)
def test_it_is_a_linear_layer_and_its_gelu(run: Run, shape: tuple[int, ...], columns: int) -> None:
    given = _given(shape, columns)
    torch.testing.assert_close(run(linear_gelu, *given), reference(*given), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("shape", "columns"), SHAPES, ids=str)
def test_in_half_precision_only_the_result_is_rounded(
    run: Run, shape: tuple[int, ...], columns: int, dtype: torch.dtype
) -> None:
    given = _given(shape, columns, dtype)
    found = run(linear_gelu, *given)
    assert found.dtype == dtype
    expected = reference(*(one.float() for one in given))
    # Half of a unit in the last place.
    torch.testing.assert_close(found.float(), expected, atol=2e-6, rtol=0.51 * torch.finfo(dtype).eps)


def test_gelu_is_exact_from_one_end_to_the_other(run: Run) -> None:
    x = torch.cat((torch.linspace(-14, 14, 2001), torch.tensor([0.0, 1e-30, -1e-30, 1e4, -1e4, 1e30, -1e30])))[:, None]
    found = run(linear_gelu, x, torch.ones(1, 1), torch.zeros(1))
    expected = reference(x.double(), torch.ones(1, 1).double(), torch.zeros(1).double()).float()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    # Where GELU goes to zero, it does so at the right rate.
    tail = (x < 0) & (x > -6)
    torch.testing.assert_close(found[tail], expected[tail], atol=0, rtol=1e-5)
