"""Cross-attention over each slot's own number of keys is the plain formula, in every precision."""

import pytest
import torch
from torch import Tensor

from arno_workers.engine.attention import attend
from arno_workers.engine.kernels.cross_attention import cross_attention, reference
from tests.workers.engine.conftest import Run

PRECISIONS = [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)]
LENGTHS = [0, 1, 15, 63, 64, 65, 0, 128, 129, 200]


def _operands(
    dtype: torch.dtype = torch.float32, beams: int = 3, width: int = 64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of 2 heads. Caches have more slots and more room than are looked at, and NaN wherever nothing stands."""
    random = torch.Generator().manual_seed(beams * width)
    slots, room = len(LENGTHS), max(LENGTHS) + 9
    queries = torch.randn(slots, beams, 2 * width, generator=random).to(dtype)
    keys, values = torch.randn(2, slots + 2, 2, room, width, generator=random).to(dtype).unbind(0)
    for slot, length in enumerate(LENGTHS):
        keys[slot, :, length:] = values[slot, :, length:] = torch.nan
    return queries, keys[:slots], values[:, :, :-3], torch.tensor(LENGTHS)


@pytest.mark.parametrize("beams", [1, 3, 5, 17])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_the_kernel_is_the_reference(run: Run, beams: int, dtype: torch.dtype, tolerance: float) -> None:
    operands = _operands(dtype, beams)
    found = run(cross_attention, *operands)
    assert found.dtype == dtype
    torch.testing.assert_close(found, reference(*operands), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("width", [8, 24, 32, 128])
def test_heads_may_have_any_width(run: Run, width: int) -> None:
    operands = _operands(width=width)
    torch.testing.assert_close(run(cross_attention, *operands), reference(*operands), atol=1e-5, rtol=1e-5)


def test_it_is_what_the_decoder_computes_with_a_mask(run: Run) -> None:
    queries, keys, values, lengths = _operands()
    room = values.shape[2]
    bias = torch.where(torch.arange(room) < lengths[:, None, None, None], 0.0, -torch.inf)
    asked = queries.unflatten(2, (2, 64)).transpose(1, 2)
    clean = (keys[:, :, :room].nan_to_num(), values[: len(LENGTHS)].nan_to_num())
    expected = attend(asked, *clean, bias).transpose(1, 2).flatten(2)
    has_keys = lengths > 0
    found = run(cross_attention, queries, keys, values, lengths)
    torch.testing.assert_close(found[has_keys], expected[has_keys], atol=1e-5, rtol=1e-5)


def test_a_slot_of_no_keys_gets_zeros(run: Run) -> None:
    queries, keys, values, lengths = _operands()
    queries[lengths == 0] = torch.nan
    found = run(cross_attention, queries, keys, values, lengths)
    assert not found[lengths == 0].any()
    assert found[lengths > 0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_large_products_do_not_overflow(run: Run, dtype: torch.dtype) -> None:
    queries, keys, values, lengths = _operands()
    operands = (queries * 100, keys * 100, values, lengths.to(dtype))
    # One key has nearly all the weight: what is lost of a product of 1e5 moves the rest.
    torch.testing.assert_close(run(cross_attention, *operands), reference(*operands), atol=1e-2, rtol=1e-2)


def test_what_is_no_number_stays_in_its_slot(run: Run) -> None:
    queries, keys, values, lengths = _operands()
    expected = run(cross_attention, queries, keys, values, lengths).unflatten(2, (2, 64))
    keys[2, 1, 5] = torch.nan
    found = run(cross_attention, queries, keys, values, lengths).unflatten(2, (2, 64))
    assert found[2, :, 1].isnan().all()
    found[2, :, 1] = expected[2, :, 1]
    assert torch.equal(found, expected)
