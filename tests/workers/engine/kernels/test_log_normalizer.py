"""Logits less their normalizer are log-probabilities, however many there are and whatever stands among them."""

import pytest
import torch
from torch import Tensor

from arno_workers.engine.kernels.log_normalizer import log_normalizer, reference
from tests.workers.engine.conftest import Run

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def _logits(columns: int, dtype: torch.dtype, scale: float = 5.0) -> Tensor:
    random = torch.Generator().manual_seed(columns)
    return (torch.randn(5, columns, generator=random) * scale).to(dtype)


@pytest.mark.parametrize("columns", [1, 64, 1792, 4095, 4096, 4097, 51328])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_is_the_reference(run: Run, columns: int, dtype: torch.dtype) -> None:
    logits = _logits(columns, dtype)
    found = run(log_normalizer, logits)
    torch.testing.assert_close(found, reference(logits), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_large_and_small_logits_are_no_exception(run: Run, scale: float) -> None:
    logits = _logits(9000, torch.float32, scale)
    torch.testing.assert_close(run(log_normalizer, logits), reference(logits), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_less_it_logits_are_what_the_decoder_takes_for_log_probabilities(run: Run, dtype: torch.dtype) -> None:
    logits = _logits(9000, dtype)
    # As spare columns have it; once where a whole read finds nothing else.
    logits[:, -60:] = logits[0, :4096] = logits[1, 4096:8192] = -torch.inf
    expected = torch.log_softmax(logits, -1, dtype=torch.float32)
    found = logits.float() - run(log_normalizer, logits)[:, None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_makes_its_row_none(run: Run, dtype: torch.dtype) -> None:
    logits = _logits(9000, dtype)
    logits[0, 7], logits[1, 8500], logits[2, 5000], logits[3] = torch.nan, torch.nan, torch.inf, -torch.inf
    probabilities = logits.float() - run(log_normalizer, logits)[:, None]
    assert probabilities[:4].isnan().all()
    assert probabilities[4].isfinite().all()
    torch.testing.assert_close(
        probabilities, torch.log_softmax(logits, -1, dtype=torch.float32), atol=1e-5, rtol=1e-6, equal_nan=True
    )
