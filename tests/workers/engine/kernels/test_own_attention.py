"""Each beam attends to its own past and to nothing else, wherever in its slot's rows that stands."""

import pytest
import torch
from torch import Tensor

from arno_workers.engine.attention import attend
from arno_workers.engine.kernels.own_attention import own_attention, reference
from tests.workers.engine.conftest import Run

PRECISIONS = [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)]
LENGTHS = [0, 1, 2, 16, 17, 18, 33, 0, 34, 63, 64, 65, 129, 130]
HEADS = 2


def _lineage(beams: int, tokens: int, random: torch.Generator) -> Tensor:
    """As a search leaves it: every beam goes on from any of the last step's, often from the same one as another."""
    lineage = torch.full((len(LENGTHS), beams, tokens), -1)
    for slot, length in enumerate(LENGTHS):
        for place in range(length):
            # What comes before the last token of a prefix stands in row 0 for all beams.
            lineage[slot, :, place] = 0 if place == 0 < length - 1 else torch.arange(beams)
            if 0 < place < length - 1:
                lineage[slot] = lineage[slot, torch.randint(beams, (beams,), generator=random)]
    return lineage


def _operands(
    dtype: torch.dtype = torch.float32, beams: int = 3, width: int = 64
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Caches have more slots and more room than are looked at, and NaN wherever no beam's past stands."""
    random = torch.Generator().manual_seed(beams * width)
    slots, room = len(LENGTHS), max(LENGTHS) + 5
    lineage = _lineage(beams, room + 2, random)
    qkv = torch.randn(slots, beams, 3 * HEADS * width, generator=random).to(dtype)
    keys, values = torch.randn(2, slots + 2, HEADS, room, beams, width, generator=random).to(dtype).unbind(0)
    # One beam knows nothing of some tokens.
    lineage[4, 1 % beams, 3:9] = -1
    is_past = (lineage[:, :, :room, None] == torch.arange(beams)).any(1)
    for slot, length in enumerate(LENGTHS):
        is_past[slot, max(length - 1, 0) :] = False
        keys[slot, :, ~is_past[slot]] = values[slot, :, ~is_past[slot]] = torch.nan
    return qkv, keys, values[:slots], lineage[:, :, :room], torch.tensor(LENGTHS)


@pytest.mark.parametrize("beams", [1, 3, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_the_kernel_is_the_reference(run: Run, beams: int, dtype: torch.dtype, tolerance: float) -> None:
    qkv, keys, values, lineage, lengths = _operands(dtype, beams)
    their_keys, their_values = keys.clone(), values.clone()
    found = run(own_attention, qkv, keys, values, lineage, lengths)
    expected = reference(qkv, their_keys, their_values, lineage, lengths)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close((keys, values), (their_keys, their_values), atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("width", [8, 24, 128])
def test_heads_may_have_any_width(run: Run, width: int) -> None:
    operands = _operands(width=width)
    torch.testing.assert_close(run(own_attention, *operands), reference(*operands), atol=1e-5, rtol=1e-5)


def test_it_is_what_the_decoder_computes_with_a_mask(run: Run) -> None:
    qkv, keys, values, lineage, lengths = _operands()
    slots, beams, _ = qkv.shape
    found = run(own_attention, qkv, keys, values, lineage, lengths)
    tokens, live = lineage.shape[2], lengths > 0
    bias = torch.where(lineage[..., None] == torch.arange(beams), 0.0, -torch.inf).flatten(2)[:, None]
    queries = qkv.view(slots, beams, 3, HEADS, -1)[:, :, 0].transpose(1, 2)
    past = [cache[:slots, :, :tokens].nan_to_num().flatten(2, 3) for cache in (keys, values)]
    expected = attend(queries, *past, bias).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found[live], expected[live], atol=1e-5, rtol=1e-5)


def test_a_slot_that_is_done_changes_nothing_and_gets_zeros(run: Run) -> None:
    qkv, keys, values, lineage, lengths = _operands()
    done = lengths == 0
    qkv[done], keys[: len(done)][done], lineage[done] = torch.nan, 7.0, 1
    found = run(own_attention, qkv, keys, values, lineage, lengths)
    assert not found[done].any()
    assert found[~done].isfinite().all()
    assert (keys[: len(done)][done] == 7.0).all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_large_products_do_not_overflow(run: Run, dtype: torch.dtype) -> None:
    qkv, keys, values, lineage, lengths = _operands()
    operands = (qkv * 100, keys * 100, values, lineage.to(dtype), lengths.to(dtype))
    found = run(own_attention, *operands)
    # One key has nearly all the weight: what is lost of a product of 1e5 moves the rest.
    torch.testing.assert_close(found, reference(*operands), atol=1, rtol=1e-2)


def test_what_is_no_number_stays_in_its_slot(run: Run) -> None:
    qkv, keys, values, lineage, lengths = _operands()
    expected = run(own_attention, qkv, keys, values, lineage, lengths)
    keys[3, :, 0, 0] = torch.nan
    found = run(own_attention, qkv, keys, values, lineage, lengths)
    assert found[3].isnan().all()
    found[3] = expected[3]
    assert torch.equal(found, expected)
