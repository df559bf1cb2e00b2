"""Whatever the files say or do not say, a model is generated from as it was meant to be, and the source is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from arno_shared.checkpoint.folder import LocalFolder
from arno_shared.checkpoint.generation import StatedRules, stated_rules
from arno_shared.checkpoint.vocabulary import OWN_TOKENS, Vocabulary
from tests.checkpoints import RULES

VOCABULARY = Vocabulary({"<s>": 0, "<pad>": 1, "</s>": 2, **{t: 50265 + n for n, t in enumerate(OWN_TOKENS)}}, ())
SEARCH = {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 3}
WHOLE = {**RULES, "length_penalty": 1.0}
TOKENS = {name: value for name, value in RULES.items() if name.endswith("token_id")}
SWAPPED = {**RULES, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}


def stated(folder: Path, stored: Any, text: dict[str, Any], *, is_original: bool) -> StatedRules:
    """`stored`: what generation_config.json says, or its very text; None for no file."""
    if stored is not None:
        text_of = stored if isinstance(stored, str) else json.dumps(stored)
        (folder / "generation_config.json").write_text(text_of)
    return stated_rules(LocalFolder(folder), {"text_config": text}, VOCABULARY, is_original=is_original)


@pytest.mark.parametrize("stored", [None, {"num_beams": 3}, {"num_beams": 1}, SWAPPED, RULES, {}, "not JSON"])
def test_an_original_is_generated_from_by_its_text_config(tmp_path: Path, stored: Any) -> None:
    rules = stated(tmp_path, stored, RULES, is_original=True)
    assert rules.values == WHOLE
    assert rules.source == "text_config of config.json"
    assert str(rules) == "3 beams, no 3-gram twice, from text_config of config.json"


def test_an_original_s_greedy_search_is_its_own_will(tmp_path: Path) -> None:
    rules = stated(tmp_path, RULES, {**RULES, "num_beams": 1}, is_original=True)
    assert rules.values["num_beams"] == 1
    assert str(rules) == "greedy, no 3-gram twice, from text_config of config.json"


def test_what_an_original_s_text_config_leaves_open_is_asked_of_the_file_and_then_florence_s(tmp_path: Path) -> None:
    text = {name: value for name, value in RULES.items() if name not in SEARCH}
    rules = stated(tmp_path, {**SWAPPED, "num_beams": 5, "no_repeat_ngram_size": None}, text, is_original=True)
    assert rules.values == {**WHOLE, "num_beams": 5}
    assert rules.source == (
        "generation_config.json (num_beams, early_stopping) and Florence-2's own rules (no_repeat_ngram_size)"
    )


def test_a_sound_file_is_followed_as_transformers_follows_it(tmp_path: Path) -> None:
    stored = {
        "num_beams": 2,
        "eos_token_id": [2, 7],
        "decoder_start_token_id": 0,
        "max_length": 20,
        "max_new_tokens": 30,
    }
    rules = stated(tmp_path, stored, {"num_beams": 4}, is_original=False)
    assert rules.values == {name: value for name, value in stored.items() if name != "max_length"}
    assert rules.source == "generation_config.json"


def test_an_answer_begins_as_florence_s_do_where_the_file_names_no_start(tmp_path: Path) -> None:
    stored = {name: value for name, value in RULES.items() if name != "decoder_start_token_id"}
    rules = stated(tmp_path, stored, {}, is_original=False)
    assert rules.values == RULES
    assert rules.source == "generation_config.json, but for the start token"


def test_defaults_that_transformers_wrote_down_are_nobody_s_choice(tmp_path: Path) -> None:
    dump = {"num_beams": 1, "no_repeat_ngram_size": 0, "early_stopping": False, "length_penalty": 1.0, **TOKENS}
    assert stated(tmp_path, None, dump, is_original=False).values == WHOLE
    # Microsoft's code follows them.
    assert stated(tmp_path, None, dump, is_original=True).values == {**WHOLE, **dump}


@pytest.mark.parametrize(
    ("stored", "because"),
    [
        (None, "generation_config.json is missing"),
        ({}, "generation_config.json names nothing"),
        ({"num_beams": 3}, "generation_config.json names num_beams alone"),
        ({"eos_token_id": 2, "num_beams": 3}, "generation_config.json names eos_token_id and num_beams alone"),
        (
            {**RULES, "decoder_start_token_id": 1},
            "generation_config.json begins answers with token 1, which is the tokenizer's <pad>",
        ),
        (SWAPPED, "generation_config.json ends answers with token 1, and the tokenizer's </s> is 2"),
        ("{", "generation_config.json is not JSON"),
        ("[]", "generation_config.json is not an object of JSON"),
    ],
)
@pytest.mark.parametrize("text", [{}, RULES, TOKENS])
def test_a_file_that_is_missing_or_broken_never_means_greedy(
    tmp_path: Path, stored: Any, because: str, text: dict[str, Any]
) -> None:
    rules = stated(tmp_path, stored, text, is_original=False)
    assert rules.values == WHOLE
    assert f", as {because}" in rules.source


@pytest.mark.parametrize("num_beams", [1, 5])
def test_a_broken_file_s_search_is_followed_all_the_same(tmp_path: Path, num_beams: int) -> None:
    rules = stated(tmp_path, {"num_beams": num_beams}, {}, is_original=False)
    assert rules.values == {**WHOLE, "num_beams": num_beams}
    assert rules.source.startswith(
        "generation_config.json (num_beams) and Florence-2's own rules (early_stopping, no_repeat_ngram_size)"
    )


def test_a_file_that_names_tokens_alone_has_not_chosen_greedy(tmp_path: Path) -> None:
    rules = stated(tmp_path, {"_from_model_config": True, **TOKENS}, {}, is_original=False)
    assert rules.values == WHOLE
    assert rules.source == "Florence-2's own rules, as generation_config.json names no num_beams"


def test_a_text_config_of_another_tokenizer_names_no_tokens(tmp_path: Path) -> None:
    rules = stated(tmp_path, None, {"eos_token_id": 5, "forced_bos_token_id": 9, "num_beams": 4}, is_original=False)
    assert rules.values == {**WHOLE, "num_beams": 4}


def test_what_is_not_done_is_named(tmp_path: Path) -> None:
    assert stated(tmp_path, RULES, {}, is_original=False).unusable(51_289) is None
    sampled = stated(tmp_path, None, {**RULES, "do_sample": True}, is_original=True)
    assert sampled.unusable(51_289) == "its generation rules set do_sample=True, which is not supported"
    penalty = stated(tmp_path, {"repetition_penalty": 1.2, "suppress_tokens": []}, {}, is_original=False)
    assert penalty.unusable(51_289) == "its generation rules set repetition_penalty=1.2, which is not supported"


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        *(("num_beams", value) for value in (0, -1, "3", 3.0, True)),
        *(("no_repeat_ngram_size", value) for value in (-1, "3", 2.5)),
        ("early_stopping", "always"),
        ("length_penalty", float("nan")),
        ("max_new_tokens", 1),
        ("decoder_start_token_id", [2]),
        ("forced_eos_token_id", [2, 3]),
        *(("forced_bos_token_id", value) for value in (51_289, -1, "0")),
        ("eos_token_id", [2, 999_999]),
    ],
)
def test_a_rule_that_makes_no_sense_is_named(tmp_path: Path, rule: str, value: Any) -> None:
    unusable = stated(tmp_path, {**RULES, rule: value}, {}, is_original=False).unusable(51_289)
    assert unusable is not None
    assert unusable.startswith(f"its generation rules set {rule}=")


@pytest.mark.parametrize(
    ("rules", "is_poor"),
    [({}, False), ({"num_beams": 1}, True), ({"no_repeat_ngram_size": 0}, True), ({"num_beams": 5}, False)],
)
def test_less_than_florence_s_way_is_known(tmp_path: Path, rules: dict[str, Any], is_poor: bool) -> None:
    assert stated(tmp_path, {**RULES, **rules}, {}, is_original=False).is_poor is is_poor
