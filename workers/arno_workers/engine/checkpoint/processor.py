"""The tokenizer and the image processor of a folder, as files of either layout say, with no code of others."""

import json
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import BartTokenizer, CLIPImageProcessorPil, Florence2Processor

from arno_shared.checkpoint.files import PROCESSOR, TOKENIZER
from arno_shared.checkpoint.folder import LocalFolder, read_json
from arno_shared.checkpoint.survey import image_settings
from arno_shared.checkpoint.vocabulary import IMAGE, Vocabulary
from arno_shared.errors import ModelUnusable
from arno_workers.engine.checkpoint.banned import BANNED_PHRASES

_PARSERS: dict[str, dict[str, Any]] = {
    "ocr": {"pattern": "(.+?)" + r"<loc_(\d+)>" * 8, "area_threshold": 0.0},
    "phrase_grounding": {"banned_grounding_tokens": list(BANNED_PHRASES)},
    "pure_text": {},
    "description_with_bboxes": {},
    "description_with_polygons": {},
    "polygons": {},
    "bboxes": {},
    "description_with_bboxes_or_polygons": {},
}
"""What transformers' processor wants said of each kind of answer."""

_OF_BART = (
    *(AddedToken(token, special=True, normalized=False) for token in ("<s>", "<pad>", "</s>", "<unk>")),
    AddedToken("<mask>", special=True, normalized=False, lstrip=True),
)
"""BART's own, which a text is never cut through."""

_SPARE = ("madeupword0002", "madeupword0001", "madeupword0000")
"""Pieces of BART's vocabulary that no text has, so that no model ever learnt of them."""

_LONGEST_PROMPT = 1024


def load_tokenizer(path: Path, vocabulary: Vocabulary) -> Tokenizer:
    """Of a folder's files, with Florence-2's own tokens, as its original processor adds them. Prompts are cut with it,
    so it has no `<image>` but where the files have one. Raises ModelUnusable."""
    try:
        tokenizer = Tokenizer.from_file(str(path / TOKENIZER)) if (path / TOKENIZER).exists() else _from_parts(path)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        known = tokenizer.get_vocab(with_added_tokens=True)
        added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        tokenizer.add_special_tokens([token for token in _OF_BART if str(token.content) in known.keys() - added])
        missing = [token for token in vocabulary.ids if token not in known]
        tokenizer.add_special_tokens([_special(token) for token in sorted(missing, key=lambda t: vocabulary.ids[t])])
    except Exception as error:
        raise ModelUnusable(f"the tokenizer in {path} cannot be loaded: {error}") from error
    if wrong := next(
        (token for token, number in vocabulary.ids.items() if tokenizer.token_to_id(token) != number), None
    ):
        found = tokenizer.token_to_id(wrong)
        raise ModelUnusable(f"the tokenizer in {path} has {wrong} at {found}, its files say {vocabulary.ids[wrong]}")
    return tokenizer


def load_processor(folder: LocalFolder, tokenizer: Tokenizer, image_tokens: int) -> Any:
    """A Florence2Processor, which needs an `<image>`. Raises ModelUnusable."""
    try:
        # A crop to the very size that was resized to is none; others are refused before.
        settings = {**image_settings(folder), "image_seq_length": image_tokens, "do_center_crop": False}
        pictures = CLIPImageProcessorPil.from_dict(settings)
        stored = read_json(folder, PROCESSOR) if PROCESSOR in folder.sizes else {}
        return Florence2Processor(
            pictures,
            _with_image_token(tokenizer),
            num_additional_image_tokens=stored.get("num_additional_image_tokens", 0),
            post_processor_config=stored.get("post_processor_config") or _PARSERS,
        )
    except ModelUnusable:
        raise
    except Exception as error:
        raise ModelUnusable(f"the processor of {folder.name} cannot be loaded: {error}") from error


def _from_parts(path: Path) -> Tokenizer:
    """As BART's tokenizer is made of its two files."""
    tokenizer = Tokenizer(BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(list(_OF_BART))
    return tokenizer


def _with_image_token(tokenizer: Tokenizer) -> BartTokenizer:
    """As transformers has it. `<image>` takes the number of a piece that is nobody's, so that the model has a row for
    it, as transformers wants, and not one token more than it had; where there is none, it comes last."""
    said = json.loads(tokenizer.to_str())
    pieces: dict[str, int] = said["model"]["vocab"]
    added = {token["content"]: token["id"] for token in said["added_tokens"]}
    if IMAGE not in added:
        spare = next((piece for piece in _SPARE if piece in pieces), None)
        pieces[IMAGE] = max([*pieces.values(), *added.values()]) + 1 if spare is None else pieces.pop(spare)
    whole = BartTokenizer(
        # Numbers of what is in the vocabulary stay as they are, whatever order it is added in.
        vocab=pieces | added,
        merges=cast(Any, [tuple(merge) for merge in said["model"]["merges"]]),
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=_LONGEST_PROMPT,
    )
    whole.add_tokens([_special(token) for token in sorted(added, key=lambda token: added[token])], special_tokens=True)
    return whole


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)
