"""The rules of generation are the checkpoint's own, and what cannot be done as it says is refused."""

from typing import Any, Literal

import pytest
from transformers import GenerationConfig

from arno_shared.errors import ModelUnusable
from arno_shared.messages import GenerationOptions
from arno_shared.results import Generation
from arno_workers.engine.checkpoint.locate import BUNDLED
from arno_workers.engine.generation import GenerationRules

TOKENS: dict[str, Any] = {"decoder_start_token_id": 2, "bos_token_id": 0, "eos_token_id": 2}

FLORENCE: dict[str, Any] = {
    **TOKENS,
    "num_beams": 3,
    "early_stopping": True,
    "no_repeat_ngram_size": 3,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
}
"""As microsoft/Florence-2-base has it."""

REFUSED: dict[str, tuple[Any, Any]] = {
    "do_sample": (True, False),
    "num_beam_groups": (2, 1),
    "diversity_penalty": (0.5, 0.0),
    "repetition_penalty": (1.2, 1.0),
    "encoder_repetition_penalty": (1.2, 1.0),
    "encoder_no_repeat_ngram_size": (3, 0),
    "bad_words_ids": ([[7, 8]], None),
    "force_words_ids": ([[7]], None),
    "constraints": (["one"], None),
    "min_length": (5, 0),
    "min_new_tokens": (5, 0),
    "renormalize_logits": (True, False),
    "remove_invalid_values": (True, False),
    "exponential_decay_length_penalty": ((10, 1.5), None),
    "suppress_tokens": ([7], None),
    "begin_suppress_tokens": ([7], None),
    "sequence_bias": ([[[7], -1.0]], None),
    "guidance_scale": (1.5, 1.0),
    "watermarking_config": ({"greenlist_ratio": 0.25}, None),
    "stop_strings": (["end"], None),
    "max_time": (1.0, None),
    "penalty_alpha": (0.6, 0.0),
    "dola_layers": ("low", None),
}
"""Settings that change answers: a value that does, and one that does not."""

HARMLESS: dict[str, Any] = {
    "temperature": 0.7,
    "top_k": 5,
    "top_p": 0.9,
    "pad_token_id": 1,
    "max_length": 20,
    "use_cache": False,
    "transformers_version": "4.41.0",
}
"""What checkpoints set and neither beam search nor greedy search looks at; `max_length` gives way to a job's limit."""


READ = """
    num_beams early_stopping length_penalty no_repeat_ngram_size max_new_tokens
    bos_token_id decoder_start_token_id eos_token_id forced_bos_token_id forced_eos_token_id
"""

IGNORED = """
    max_length use_mtp use_cache cache_implementation cache_config max_cache_len
    temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff token_healing num_return_sequences
    output_attentions output_hidden_states output_scores output_logits return_dict_in_generate pad_token_id
    is_assistant num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
    prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit assistant_lookbehind target_lookbehind
    assistant_ensemble_weight speculation_type compile_config disable_compile continuous_batching_config low_memory
    prefill_chunk_size transformers_version
"""


def config(**settings: Any) -> GenerationConfig:
    """Set one by one: the constructor has opinions of its own about what goes together."""
    config = GenerationConfig()  # type: ignore[no-untyped-call]
    for name, value in settings.items():
        assert hasattr(config, name), f"transformers no longer knows {name}"
        setattr(config, name, value)
    return config


def rules(**settings: Any) -> GenerationRules:
    return GenerationRules.of(config(**{**TOKENS, **settings}))


def test_everything_that_a_checkpoint_says_is_read() -> None:
    assert rules(**{**FLORENCE, "length_penalty": 0.8, "max_new_tokens": 100}) == GenerationRules(
        num_beams=3,
        early_stopping=True,
        length_penalty=0.8,
        no_repeat_ngram_size=3,
        start_id=2,
        eos_ids=(2,),
        forced_bos_id=0,
        forced_eos_id=2,
        max_new_tokens=100,
    )


def test_a_checkpoint_that_says_nothing_is_searched_greedily_and_left_alone() -> None:
    assert rules() == GenerationRules(
        num_beams=1,
        early_stopping=False,
        length_penalty=1.0,
        no_repeat_ngram_size=0,
        start_id=2,
        eos_ids=(2,),
        forced_bos_id=None,
        forced_eos_id=None,
        max_new_tokens=None,
    )


def test_the_bundled_checkpoint_is_searched_as_florence_is() -> None:
    bundled = GenerationRules.of(GenerationConfig.from_pretrained(BUNDLED / "arno-tiny"))
    assert bundled == rules(**FLORENCE)


@pytest.mark.parametrize("value", [True, False, "never"])
def test_each_way_to_stop_early_is_read(value: bool | Literal["never"]) -> None:
    assert rules(early_stopping=value).early_stopping == value


@pytest.mark.parametrize(("value", "read"), [(0.0, 0.0), (-1, -1.0), (2, 2.0), (None, 1.0)])
def test_any_length_penalty_is_read_zero_too(value: float | None, read: float) -> None:
    penalty = rules(length_penalty=value).length_penalty
    assert penalty == read
    assert isinstance(penalty, float)


@pytest.mark.parametrize(("value", "ids"), [(2, (2,)), (0, (0,)), ([2], (2,)), ([2, 9, 11], (2, 9, 11))])
def test_there_may_be_one_end_token_or_several(value: int | list[int], ids: tuple[int, ...]) -> None:
    assert rules(eos_token_id=value).eos_ids == ids


@pytest.mark.parametrize(("start", "bos", "expected"), [(2, 0, 2), (0, 5, 0), (None, 5, 5), (None, 0, 0)])
def test_sequences_start_with_the_decoders_start_token_or_else_with_bos(
    start: int | None, bos: int | None, expected: int
) -> None:
    assert rules(decoder_start_token_id=start, bos_token_id=bos).start_id == expected


@pytest.mark.parametrize(("value", "forced"), [(None, None), (2, 2), (0, 0), ([2], 2), ([], None)])
def test_one_end_token_may_be_forced(value: int | list[int] | None, forced: int | None) -> None:
    assert rules(forced_eos_token_id=value).forced_eos_id == forced


@pytest.mark.parametrize(
    "settings",
    [
        {"decoder_start_token_id": None, "bos_token_id": None},
        {"eos_token_id": None},
        {"eos_token_id": []},
        {"eos_token_id": [2, None]},
    ],
)
def test_a_checkpoint_without_a_start_or_an_end_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelUnusable, match="must name one start token, and an end token"):
        rules(**settings)


def test_forcing_one_of_several_end_tokens_is_refused() -> None:
    with pytest.raises(ModelUnusable, match="several end tokens"):
        rules(forced_eos_token_id=[2, 3])


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_is_not_done_is_refused_by_its_name(name: str) -> None:
    value, _ = REFUSED[name]
    with pytest.raises(ModelUnusable, match=rf"\b{name}="):
        rules(**{**FLORENCE, name: value})


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_is_not_done_may_be_set_to_what_changes_nothing(name: str) -> None:
    _, value = REFUSED[name]
    assert rules(**{**FLORENCE, name: value}) == rules(**FLORENCE)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_setting_that_changes_no_answer_is_ignored(name: str) -> None:
    assert rules(**{**FLORENCE, name: HARMLESS[name]}) == rules(**FLORENCE)


def test_every_setting_of_transformers_was_thought_of() -> None:
    """When a new version brings one that changes answers, it is to be done or refused."""
    known = {name for name in vars(config()) if not name.startswith("_")}
    assert known - set(READ.split()) - set(REFUSED) <= set(IGNORED.split())


def test_settings_that_transformers_no_longer_knows_are_no_trouble() -> None:
    class Bare:
        """As a later version of transformers may have it: without what it no longer knows."""

        num_beams = early_stopping = length_penalty = no_repeat_ngram_size = max_new_tokens = None
        bos_token_id = forced_bos_token_id = forced_eos_token_id = None
        decoder_start_token_id = eos_token_id = 2

    assert GenerationRules.of(Bare()) == rules()


def test_every_sequence_begins_with_the_start_token_and_the_forced_one_where_there_is_one() -> None:
    assert rules().prefix == (2,)
    assert rules(forced_bos_token_id=7).prefix == (2, 7)
    assert rules(forced_bos_token_id=0).prefix == (2, 0)


@pytest.mark.parametrize("value", [True, False, "never"])
def test_greedy_search_stops_with_its_first_end_token_whatever_is_said_of_beams(value: bool | str) -> None:
    assert rules(num_beams=1, early_stopping=value).stops_early is True
    assert rules(num_beams=2, early_stopping=value).stops_early == value
    assert rules(num_beams=3, early_stopping=value).with_beams(1).stops_early is True
    assert rules(num_beams=1, early_stopping=value).with_beams(3).stops_early == value


@pytest.mark.parametrize(
    ("num_beams", "eos", "candidates"),
    [(1, 2, 2), (3, 2, 6), (3, [2], 6), (1, [2, 3], 3), (3, [2, 3], 9), (4, [2, 3, 4, 5], 20)],
)
def test_there_are_candidates_enough_to_go_on_when_the_best_ones_end(
    num_beams: int, eos: int | list[int], candidates: int
) -> None:
    """As many as transformers' `_beam_search` keeps."""
    assert rules(num_beams=num_beams, eos_token_id=eos).candidates == candidates


def test_a_job_may_choose_its_beams_and_nothing_else_changes() -> None:
    own = rules(**FLORENCE)
    assert own.with_options(GenerationOptions()) == own
    assert own.with_options(GenerationOptions(max_new_tokens=5)) == own
    greedy = own.with_options(GenerationOptions(num_beams=1))
    assert greedy == rules(**{**FLORENCE, "num_beams": 1})
    assert own.with_options(GenerationOptions(num_beams=5)).num_beams == 5
    assert own.num_beams == 3


def test_results_say_how_their_answers_were_generated() -> None:
    assert rules(**FLORENCE, length_penalty=0.5).as_facts() == Generation(
        num_beams=3, no_repeat_ngram_size=3, length_penalty=0.5, early_stopping=True
    )
    assert rules().as_facts() == Generation(
        num_beams=1, no_repeat_ngram_size=0, length_penalty=1.0, early_stopping=False
    )
