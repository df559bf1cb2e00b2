"""The tokenizer of arno-tiny: Florence-2's own kind, over a vocabulary that covers the drawn world."""

import json
from collections.abc import Iterator
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import BartTokenizer

from arno_shared.scenes.lexicon import COLOURS, PLACES, SHADES, SHAPES, SIZES, TEXTURES, WORDS

LOCATION_BINS = 1000

_BART_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_FLORENCE_TOKENS = [
    "<od>", "</od>", "<ocr>", "</ocr>", *(f"<loc_{position}>" for position in range(LOCATION_BINS)),
    "<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>", "<seg>", "</seg>",
    "<sep>", "<region_cap>", "</region_cap>", "<region_to_desciption>", "</region_to_desciption>",
    "<proposal>", "</proposal>", "<poly>", "</poly>", "<and>",
]  # fmt: skip

# The words of `Florence2Processor`'s prompts, and those of the answers that are not in the lexicon.
_PROMPTS = (
    "What is the text in image with regions does describe Describe detail shown a paragraph Locate objects category "
    "name their descriptions region proposals phrases caption mask polygon ? , . :"
)
_ANSWERS = "a an and on On with the word words background first comes then one finally some , ."
# Far more than the closed word list can use up: every word ends as a single piece.
_MOST_PIECES = 8000
_LONGEST_ANSWER = 1024


def build_tokenizer() -> BartTokenizer:
    pieces = Tokenizer(BPE())
    pieces.pre_tokenizer = ByteLevel(add_prefix_space=False)
    pieces.train_from_iterator(
        _corpus(),
        BpeTrainer(
            vocab_size=_MOST_PIECES,
            special_tokens=_BART_TOKENS,
            initial_alphabet=sorted(ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    trained = json.loads(pieces.to_str())["model"]
    merges: Any = [tuple(merge) for merge in trained["merges"]]
    tokenizer = BartTokenizer(
        vocab=trained["vocab"],
        merges=merges,
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=_LONGEST_ANSWER,
    )
    florence = [AddedToken(token, special=True, normalized=False) for token in _FLORENCE_TOKENS]
    tokenizer.add_tokens(florence, special_tokens=True)
    return tokenizer


def first_location(tokenizer: BartTokenizer) -> int:
    """The id of `<loc_0>`; the other coordinates follow it in order."""
    number = tokenizer.convert_tokens_to_ids("<loc_0>")
    assert isinstance(number, int)
    return number


def _corpus() -> Iterator[str]:
    """Every word of the drawn world, both at the start of a text and after a space."""
    places = (place for row in PLACES for place in row)
    shown = (*COLOURS, *SHAPES, *SIZES, *TEXTURES, *SHADES, *places, *WORDS)
    for word in (*shown, *_PROMPTS.split(), *_ANSWERS.split()):
        yield word
        yield f" {word}"
