"""What the rules of generation do to the probabilities of the next token."""

import torch
from torch import Tensor


def ban_repeated_ngrams(logprobs: Tensor, sequences: Tensor, lengths: Tensor, ngram_size: int) -> None:
    """Sets the tokens that would complete an n-gram which the sequence already holds to -inf, in place.

    logprobs: (sequences, vocabulary + at least 1 spare column); sequences: (sequences, tokens) token ids, of which the
    first `lengths`, (sequences, 1), count. As transformers' NoRepeatNGramLogitsProcessor.
    """
    tokens = sequences.shape[1]
    windows = tokens - ngram_size + 1
    if windows < 1:
        return
    # A window bans its last token if the rest of it is how the sequence ends now.
    last = torch.arange(ngram_size - 1, tokens, device=sequences.device)
    repeats = last < lengths
    for place in range(ngram_size - 1):
        ending = sequences.gather(1, (lengths - ngram_size + 1 + place).clamp(0, tokens - 1))
        repeats = repeats & (sequences[:, place : place + windows] == ending)
    spare_column = logprobs.shape[1] - 1
    banned = torch.where(repeats, sequences[:, ngram_size - 1 :], spare_column)
    logprobs.scatter_(1, banned, -torch.inf)


def force_last_token(logprobs: Tensor, tokens: Tensor, is_last: Tensor, forced_id: int) -> tuple[Tensor, Tensor]:
    """Candidates and their log-probabilities, (slots, beams, candidates); those in slots where `is_last`,
    (slots,), become the forced token, at no cost, and nothing else. As transformers' ForcedEOSTokenLogitsProcessor."""
    first = torch.zeros_like(logprobs[0, 0], dtype=torch.bool)
    first[:1] = True
    is_last = is_last[:, None, None]
    return (
        torch.where(is_last, torch.where(first, 0.0, -torch.inf), logprobs),
        torch.where(is_last & first, forced_id, tokens),
    )
