"""By which rules a checkpoint's answers are generated, and where it says so.

transformers reads `generation_config.json`. Microsoft's code never does: it generates by its `text_config`. So that
file is often missing, says next to nothing, or names wrong tokens, and a model that is run by it answers without beams
and in loops. What is then left open is Florence-2's own.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from arno_shared.checkpoint.config import part_of
from arno_shared.checkpoint.files import CONFIG, GENERATION_CONFIG
from arno_shared.checkpoint.folder import Folder, read_json
from arno_shared.checkpoint.vocabulary import BEGIN, END, PAD, Vocabulary
from arno_shared.errors import ModelUnusable

NOT_DONE: Mapping[str, tuple[Any, ...]] = {
    "do_sample": (None, False),
    "num_beam_groups": (None, 1),
    "diversity_penalty": (None, 0.0),
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "force_words_ids": (None,),
    "constraints": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "renormalize_logits": (None, False),
    "remove_invalid_values": (None, False),
    "exponential_decay_length_penalty": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "sequence_bias": (None,),
    "guidance_scale": (None, 1, 1.0),
    "watermarking_config": (None,),
    "stop_strings": (None,),
    "max_time": (None,),
    "penalty_alpha": (None, 0.0),
    "dola_layers": (None,),
}
"""What changes answers and is not implemented, with the values that change nothing."""

_SEARCH: Mapping[str, Any] = {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 3, "length_penalty": 1.0}
"""Florence-2's own."""
_TOKENS = (
    *("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id"),
)
_UNCHOSEN = (("num_beams", 1), ("early_stopping", False), ("no_repeat_ngram_size", 0), ("length_penalty", 1.0))
_READ = frozenset({*_SEARCH, *_TOKENS, *NOT_DONE, "max_new_tokens"})
_TEXT_CONFIG = f"text_config of {CONFIG}"
_OWN = "Florence-2's own rules"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _is_whole(value: Any, least: int, most: int = 10**6) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


_RIGHT: Mapping[str, Callable[[Any], bool]] = {
    "num_beams": lambda beams: _is_whole(beams, 1),
    "no_repeat_ngram_size": lambda size: _is_whole(size, 0),
    "early_stopping": lambda early: early in (True, False, "never"),
    "length_penalty": _is_number,
    "max_new_tokens": lambda tokens: _is_whole(tokens, 2),
    "decoder_start_token_id": lambda token: not isinstance(token, list),
    "forced_eos_token_id": lambda token: len(_listed(token)) <= 1,
}
"""What each may be."""


@dataclass(frozen=True, slots=True)
class StatedRules:
    """What a checkpoint says of generation, and what it leaves open."""

    values: Mapping[str, Any]
    """As transformers' GenerationConfig names them."""
    source: str
    """Where they stand, and why not where transformers looks for them."""

    def unusable(self, rows: int) -> str | None:
        """What it asks for that is not done, or cannot be, with a vocabulary of so many rows."""
        for name, harmless in NOT_DONE.items():
            if (value := self.values.get(name)) not in harmless:
                return f"its generation rules set {name}={value!r}, which is not supported"
        for name, is_right in _RIGHT.items():
            if (value := self.values.get(name)) is not None and not is_right(value):
                return f"its generation rules set {name}={value!r}, which makes no sense"
        for name in _TOKENS:
            if wrong := [token for token in _listed(self.values.get(name)) if not _is_whole(token, 0, rows - 1)]:
                return f"its generation rules set {name}={wrong[0]!r}, and the vocabulary has {rows:,} tokens"
        return None

    @property
    def is_poor(self) -> bool:
        """Florence-2 was made to be searched with beams, and without a 3-gram twice."""
        return (self.values.get("num_beams") or 1) == 1 or not self.values.get("no_repeat_ngram_size")

    def __str__(self) -> str:
        beams, ngram = self.values.get("num_beams") or 1, self.values.get("no_repeat_ngram_size") or 0
        search = "greedy" if beams == 1 else f"{beams} beams"
        repeats = f"no {ngram}-gram twice" if ngram else "repeats allowed"
        return f"{search}, {repeats}, from {self.source}"


def stated_rules(
    folder: Folder, config: Mapping[str, Any], vocabulary: Vocabulary, *, is_original: bool
) -> StatedRules:
    """`config` is the folder's own, as it stands there."""
    stored, flaw = _stored(folder, vocabulary)
    text = {name: value for name, value in part_of(config, "text_config").items() if name in _READ}
    if text.get("eos_token_id", vocabulary.ids[END]) != vocabulary.ids[END]:
        text = _without(text, _TOKENS)
    own = {**_SEARCH, **_own_tokens(vocabulary)}
    if is_original:
        return _first_said((_TEXT_CONFIG, text), (GENERATION_CONFIG, _without(stored, _TOKENS)), (_OWN, own))
    if flaw is None and "num_beams" in stored:
        if "decoder_start_token_id" in stored:
            return StatedRules(stored, GENERATION_CONFIG)
        # transformers would begin with `<s>`, which Florence-2 never does.
        start = text.get("decoder_start_token_id", vocabulary.ids[END])
        return StatedRules(stored | {"decoder_start_token_id": start}, f"{GENERATION_CONFIG}, but for the start token")
    followed = stored if flaw is None else _without(stored, _TOKENS)
    # What transformers writes of a configuration that says nothing of it is nobody's choice.
    chosen = {name: value for name, value in text.items() if (name, value) not in _UNCHOSEN}
    because = flaw or f"{GENERATION_CONFIG} names no num_beams"
    return _first_said((GENERATION_CONFIG, followed), (_TEXT_CONFIG, chosen), (_OWN, own), because=because)


def _stored(folder: Folder, vocabulary: Vocabulary) -> tuple[dict[str, Any], str | None]:
    """What the file says, and what is wrong with it."""
    if GENERATION_CONFIG not in folder.sizes:
        return {}, f"{GENERATION_CONFIG} is missing"
    try:
        said = read_json(folder, GENERATION_CONFIG)
    except ModelUnusable as error:
        return {}, str(error)
    stored = {name: value for name, value in said.items() if name in _READ and value is not None}
    end, pad = vocabulary.ids[END], vocabulary.ids[PAD]
    if "eos_token_id" not in stored or not {"decoder_start_token_id", "bos_token_id"} & stored.keys():
        named = f"{' and '.join(stored)} alone" if stored else "nothing"
        return stored, f"{GENERATION_CONFIG} names {named}"
    if end not in _listed(stored["eos_token_id"]):
        said_end = stored["eos_token_id"]
        return stored, f"{GENERATION_CONFIG} ends answers with token {said_end!r}, and the tokenizer's {END} is {end}"
    if stored.get("decoder_start_token_id") == pad:
        return stored, f"{GENERATION_CONFIG} begins answers with token {pad}, which is the tokenizer's {PAD}"
    return stored, None


def _own_tokens(vocabulary: Vocabulary) -> dict[str, Any]:
    begin, pad, end = (vocabulary.ids[token] for token in (BEGIN, PAD, END))
    return dict(zip(_TOKENS, (begin, pad, end, end, begin, end), strict=True))


def _without(said: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in names}


def _first_said(*layers: tuple[str, Mapping[str, Any]], because: str = "") -> StatedRules:
    """Each rule from the first of the layers that says something of it."""
    values: dict[str, Any] = {}
    sources: dict[str, list[str]] = {}
    for source, said in layers:
        new = {name: value for name, value in said.items() if name not in values and value is not None}
        values |= new
        if named := [name for name in _SEARCH if name in new and name != "length_penalty"]:
            sources[source] = named
    return StatedRules(values, _told(sources) + (f", as {because}" if because else ""))


def _told(sources: Mapping[str, Sequence[str]]) -> str:
    if len(sources) == 1:
        return next(iter(sources))
    return " and ".join(f"{source} ({', '.join(names)})" for source, names in sources.items())
