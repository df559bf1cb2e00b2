"""Cuts a prompt into the numbers that the model is asked with."""

from tokenizers import Tokenizer

from arno_shared.checkpoint.vocabulary import BEGIN, END


class PromptTokenizer:
    """May be used by many threads."""

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        """`rows`: of the model's vocabulary. A text may name a token that has none, as `<image>` often is."""
        self._tokenizer, self._rows = tokenizer, rows
        self._unknown = next(found for token in ("<unk>", END) if (found := tokenizer.token_to_id(token)) is not None)

    def ids(self, sentence: str) -> list[int]:
        """With the tokens that stand around a prompt."""
        ids: list[int] = self._tokenizer.encode(f"{BEGIN}{sentence}{END}", add_special_tokens=False).ids
        return [number if number < self._rows else self._unknown for number in ids]
