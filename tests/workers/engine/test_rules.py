"""Probabilities are changed as transformers' own processors change them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import ForcedEOSTokenLogitsProcessor, NoRepeatNGramLogitsProcessor

from arno_workers.engine.rules import ban_repeated_ngrams, force_last_token


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@settings(max_examples=400, deadline=None)
@given(
    data=st.data(),
    vocabulary=st.integers(1, 6),
    ngram_size=st.integers(1, 5),
    beyond=st.integers(0, 4),
    spare=st.integers(1, 3),
)
def test_what_would_repeat_an_ngram_is_banned_as_by_transformers_in_sequences_of_any_length(
    data: st.DataObject, vocabulary: int, ngram_size: int, beyond: int, spare: int
) -> None:
    token = st.integers(0, vocabulary - 1)
    said = data.draw(st.lists(st.lists(token, min_size=1, max_size=14), min_size=1, max_size=5))
    tokens = max(map(len, said)) + beyond
    # What stands beyond a sequence's length looks like a sequence, and is none.
    rubbish = data.draw(st.lists(token, min_size=tokens, max_size=tokens))
    sequences = torch.tensor([[*ids, *rubbish[len(ids) :]] for ids in said])
    lengths = torch.tensor([[len(ids)] for ids in said])
    logprobs = torch.randn(len(said), vocabulary + spare, generator=torch.Generator().manual_seed(tokens))
    before = logprobs.clone()

    ban_repeated_ngrams(logprobs, sequences, lengths, ngram_size)

    processor = NoRepeatNGramLogitsProcessor(ngram_size)
    for row, ids in enumerate(said):
        expected = processor(torch.tensor([ids]), before[row : row + 1, :vocabulary])
        assert torch.equal(logprobs[row : row + 1, :vocabulary], expected)


@pytest.mark.parametrize(
    ("ngram_size", "banned"),
    [(1, {1, 2, 3}), (2, {3, 1}), (3, {1}), (4, set()), (9, set()), (10, set()), (50, set())],
)
def test_longer_ngrams_ban_less(ngram_size: int, banned: set[int]) -> None:
    said = torch.tensor([[1, 2, 3, 3, 2, 1, 3, 2]])
    logprobs = torch.zeros(1, 6)
    ban_repeated_ngrams(logprobs, said, torch.tensor([[8]]), ngram_size)
    assert set(logprobs[0, :5].isinf().nonzero().flatten().tolist()) == banned


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    to_go=st.lists(st.integers(1, 3), min_size=1, max_size=5),
    beams=st.integers(1, 4),
    candidates=st.integers(1, 8),
    forced_id=st.integers(0, 8),
)
def test_the_last_token_is_forced_where_it_is_the_last_as_by_transformers(
    seed: int, to_go: list[int], beams: int, candidates: int, forced_id: int
) -> None:
    """`to_go`: tokens that each slot may still say."""
    vocabulary, said = 9, 4
    logprobs = torch.randn(len(to_go), beams, vocabulary, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    best, tokens = logprobs.topk(candidates)
    kept, kept_tokens = best.clone(), tokens.clone()

    forced, forced_tokens = force_last_token(best, tokens, torch.tensor(to_go) == 1, forced_id)

    assert torch.equal(best, kept)
    assert torch.equal(tokens, kept_tokens)
    for slot, left in enumerate(to_go):
        processor = ForcedEOSTokenLogitsProcessor(max_length=said + left, eos_token_id=forced_id)
        expected = processor(torch.zeros(beams, said, dtype=torch.long), logprobs[slot]).topk(candidates)
        assert torch.equal(forced[slot], expected.values)
        possible = expected.values.isfinite()
        assert torch.equal(forced_tokens[slot][possible], expected.indices[possible])


def test_a_forced_token_costs_nothing_and_leaves_no_other_choice() -> None:
    best = torch.tensor([[[-0.1, -2.0]], [[-0.1, -2.0]]])
    tokens = torch.tensor([[[5, 6]], [[5, 6]]])
    forced, forced_tokens = force_last_token(best, tokens, torch.tensor([False, True]), 2)
    assert forced.tolist() == [[[pytest.approx(-0.1), -2.0]], [[0.0, -torch.inf]]]
    assert forced_tokens[0].tolist() == [[5, 6]]
    assert forced_tokens[1, 0, 0] == 2
