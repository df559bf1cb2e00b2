"""The tokenizer of arno-tiny: Florence-2's own kind, over a vocabulary that covers the drawn world."""

import json
from collections.abc import Iterator

from arno_shared.scenes.lexicon import COLOURS, PLACES, SHADES, SHAPES, SIZES, TEXTURES, WORDS
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import BartTokenizer

LOCATION_BINS = 1000
IMAGE_TOKEN = "<image>"

_BART_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_FLORENCE_TOKENS = [
    "<od>", "</od>", "<ocr>", "</ocr>", *(f"<loc_{position}>" for position in range(LOCATION_BINS)),
    "<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>", "<seg>", "</seg>",
    "<sep>", "<region_cap>", "</region_cap>", "<region_to_desciption>", "</region_to_desciption>",
    "<proposal>", "</proposal>", "<poly>", "</poly>", "<and>",
]  # fmt: skip

_PROMPT_WORDS = (
    "What is the text in image with regions does describe Describe detail shown a paragraph Locate objects category "
    "name their descriptions region proposals phrases caption mask polygon ? , . :"
).split()
_ANSWER_WORDS = "a an and on On with the word words background first comes then one finally some , .".split()
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
    tokenizer = BartTokenizer(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        model_max_length=_LONGEST_ANSWER,
    )
    florence = [AddedToken(token, special=True, normalized=False) for token in _FLORENCE_TOKENS]
    tokenizer.add_tokens(florence, special_tokens=True)
    return tokenizer


def _corpus() -> Iterator[str]:
    """Every word of the drawn world, both at the start of a text and after a space."""
    places = (place for row in PLACES for place in row)
    for word in (*COLOURS, *SHAPES, *SIZES, *TEXTURES, *SHADES, *places, *WORDS, *_PROMPT_WORDS, *_ANSWER_WORDS):
        yield word
        yield f" {word}"
