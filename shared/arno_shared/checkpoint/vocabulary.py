"""The tokenizer's tokens and their numbers, read from its files, and whether the weights have rows for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arno_shared.checkpoint.files import TOKENIZER, TOKENIZER_CONFIG
from arno_shared.checkpoint.folder import Folder, read_json
from arno_shared.errors import ModelUnusable
from arno_shared.prompts import LOCATION_BINS

IMAGE = "<image>"
"""Stands for the picture in transformers' processor. The model is never shown it."""

BEGIN, PAD, END = "<s>", "<pad>", "</s>"

OWN_TOKENS: tuple[str, ...] = (
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{place}>" for place in range(LOCATION_BINS)),
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>", "<seg>", "</seg>"),
    *("<sep>", "<region_cap>", "</region_cap>", "<region_to_desciption>", "</region_to_desciption>"),
    *("<proposal>", "</proposal>", "<poly>", "</poly>", "<and>"),
)
"""What Florence-2 adds to BART's vocabulary, in its order. Its original processor adds them each time it is loaded, so
that the tokenizer's files need not hold them."""

_ROWS = 51_289
"""BART's vocabulary and Florence-2's own tokens."""
_FIRST_LOCATION_ID, _LAST_ID = 50_269, 51_288
_MOST_SPARE_ROWS = 128
_ROUND_ROWS = 8
"""Matrices are made a little larger than the vocabulary, to a multiple of 8, 64 or 128."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    ids: Mapping[str, int]
    """Florence-2's own tokens among them, in the files or not."""
    appended: tuple[str, ...]
    """Those that are not in the files."""

    @property
    def others(self) -> tuple[str, ...]:
        """Tokens behind Florence-2's own: what a fine-tune brought."""
        return tuple(
            token for token, number in self.ids.items() if number > self.ids[OWN_TOKENS[-1]] and token != IMAGE
        )

    def misfit(self, rows: int, *, is_original: bool) -> str | None:
        """Why weights with so many rows were made for another tokenizer; None when they fit."""
        ids = {token: number for token, number in self.ids.items() if token != IMAGE}
        tokens = max(ids.values()) + 1
        is_round = tokens < rows <= tokens + _MOST_SPARE_ROWS and rows % _ROUND_ROWS == 0
        if rows not in (tokens, max(self.ids.values()) + 1) and not is_round:
            return f"the tokenizer has {tokens:,} tokens, and the weights have rows for {rows:,}"
        first = ids["<loc_0>"]
        if any(ids[f"<loc_{place}>"] != first + place for place in range(LOCATION_BINS)):
            return "the tokenizer's <loc_0> to <loc_999> do not follow each other"
        if is_original and rows >= _ROWS and (first, ids["<and>"]) != (_FIRST_LOCATION_ID, _LAST_ID):
            return (
                f"the tokenizer has <loc_0> at {first:,} and <and> at {ids['<and>']:,}, "
                f"where Florence-2 has them at {_FIRST_LOCATION_ID:,} and {_LAST_ID:,}"
            )
        return None


def has_tokenizer(names: Mapping[str, Any]) -> bool:
    return TOKENIZER in names or {"vocab.json", "merges.txt"} <= names.keys()


def read_vocabulary(folder: Folder) -> Vocabulary:
    """Raises ModelUnusable when the tokenizer cannot be read, or is of another kind than Florence-2's."""
    ids = _tokenizer_json(folder) if TOKENIZER in folder.sizes else _vocab_json(folder)
    ids |= {token: number for token, number in _added_in_config(folder).items() if token not in ids}
    if lacking := [token for token in (BEGIN, PAD, END) if token not in ids]:
        raise ModelUnusable(f"the tokenizer is not BART's, which Florence-2 speaks: it has no {lacking[0]}")
    appended = [token for token in OWN_TOKENS if token not in ids]
    numbers = range(max(ids.values()) + 1, max(ids.values()) + 1 + len(appended))
    return Vocabulary(ids | dict(zip(appended, numbers, strict=True)), tuple(appended))


def _tokenizer_json(folder: Folder) -> dict[str, int]:
    tokenizer = read_json(folder, TOKENIZER)
    try:
        ids = {str(token): int(number) for token, number in tokenizer["model"]["vocab"].items()}
        return ids | {str(added["content"]): int(added["id"]) for added in tokenizer.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ModelUnusable(f"{TOKENIZER} holds no vocabulary of the kind that BART has") from None


def _added_in_config(folder: Folder) -> dict[str, int]:
    """Where transformers before version 5 keeps them."""
    if TOKENIZER_CONFIG not in folder.sizes:
        return {}
    try:
        added = read_json(folder, TOKENIZER_CONFIG).get("added_tokens_decoder") or {}
        return {str(token["content"]): int(number) for number, token in added.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ModelUnusable(
            f"{TOKENIZER_CONFIG} has added_tokens_decoder of a kind that transformers has not"
        ) from None


def _vocab_json(folder: Folder) -> dict[str, int]:
    ids = read_json(folder, "vocab.json")
    if "added_tokens.json" in folder.sizes:
        ids |= read_json(folder, "added_tokens.json")
    if not ids or not all(isinstance(number, int) for number in ids.values()):
        raise ModelUnusable("vocab.json holds no numbers of tokens")
    return ids
