"""Attention over caches is what the formula says, in every precision, and blind to what is masked."""

import pytest
import torch

from arno_workers.engine.attention import attend


def _operands(queries: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(queries)
    # Longer caches than are looked at, as slots have them.
    keys, values = torch.randn(2, 3, 4, 50, 16).to(dtype).unbind(0)
    bias = torch.zeros(3, 1, 1, 37).to(dtype)
    bias[1, ..., 20:] = -torch.inf
    return torch.randn(3, 4, queries, 16).to(dtype), keys[:, :, :37], values[:, :, :37], bias


@pytest.mark.parametrize("queries", [1, 3, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_attention_is_what_the_formula_says(queries: int, dtype: torch.dtype, tolerance: float) -> None:
    operands = _operands(queries, dtype)
    q, k, v, bias = (operand.double() for operand in operands)
    expected = torch.softmax(q @ k.transpose(-1, -2) / 4 + bias, -1) @ v
    found = attend(*operands)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_masked_does_not_matter(dtype: torch.dtype) -> None:
    queries, keys, values, bias = _operands(3, dtype)
    before = attend(queries, keys, values, bias)
    keys[1, :, 20:], values[1, :, 20:] = 1000.0, -1000.0
    assert torch.equal(attend(queries, keys, values, bias), before)
