"""The best next tokens are those that the decoder finds among all log-probabilities."""

import pytest
import torch
from torch import Tensor

from arno_workers.engine.kernels.candidates import candidates, reference
from arno_workers.engine.kernels.log_normalizer import log_normalizer
from arno_workers.engine.largest import BLOCK, largest
from arno_workers.engine.rules import ban_repeated_ngrams
from tests.workers.engine.conftest import Run

ROWS = 7


def _logits(blocks: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """With spare columns, as the decoder's head has them."""
    logits = (torch.randn(ROWS, blocks * BLOCK, generator=torch.Generator().manual_seed(blocks)) * 5).to(dtype)
    logits[:, -3:] = -torch.inf
    return logits


@pytest.mark.parametrize("blocks", [1, 2, 63, 64, 65, 802])
@pytest.mark.parametrize("count", [2, 6, 10])
def test_the_kernel_is_the_reference(run: Run, blocks: int, count: int) -> None:
    logits = _logits(blocks)
    normalizer = torch.arange(ROWS, dtype=torch.float32)
    logprobs, tokens = run(candidates, logits, normalizer, count)
    expected = reference(logits, normalizer, count)
    assert torch.equal(logprobs, expected[0])
    assert torch.equal(tokens, expected[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_too(run: Run, dtype: torch.dtype) -> None:
    logits = _logits(802, dtype)
    normalizer = torch.full((ROWS,), 1 / 3)
    logprobs, tokens = run(candidates, logits, normalizer, 6)
    assert logprobs.dtype == torch.float32
    assert torch.equal(logprobs, reference(logits, normalizer, 6)[0])
    # Of tokens with equal logits any may be taken, but none twice.
    assert torch.equal(logits.gather(1, tokens).float() - 1 / 3, logprobs)
    assert all(len(set(row)) == 6 for row in tokens.tolist())


def test_with_bans_they_are_what_the_decoder_finds(run: Run) -> None:
    logits = _logits(28)
    # Each row has said its best tokens before, twice over and then one more: what follows that one is banned.
    said = logits.topk(8).indices
    sequences = torch.cat((said, said, said[:, :1]), 1)
    lengths = torch.full((ROWS, 1), sequences.shape[1])
    logprobs = torch.log_softmax(logits, -1)
    ban_repeated_ngrams(logprobs, sequences, lengths, 2)
    expected = largest(logprobs, 6)
    normalizer = run(log_normalizer, logits)
    ban_repeated_ngrams(logits, sequences, lengths, 2)
    found = run(candidates, logits, normalizer, 6)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-6)
    assert torch.equal(found[1], expected[1])
    assert not (found[1] == said[:, 1:2]).any()


def test_a_row_in_which_something_is_no_number_is_all_nan(run: Run) -> None:
    logits = _logits(28)
    logits[0, 5], logits[1], logits[2, 64:128] = torch.nan, torch.nan, torch.nan
    logprobs, tokens = run(candidates, logits, run(log_normalizer, logits), 6)
    assert logprobs[:3].isnan().all()
    assert logprobs[3:].isfinite().all()
    assert ((tokens >= 0) & (tokens < logits.shape[1])).all()


def test_what_is_ruled_out_is_taken_last(run: Run) -> None:
    logits = torch.full((1, 2 * BLOCK), -torch.inf)
    logits[0, 100] = -5.0
    logprobs, tokens = run(candidates, logits, run(log_normalizer, logits), 2)
    assert logprobs.tolist() == [[0.0, -torch.inf]]
    assert tokens[0, 0] == 100
