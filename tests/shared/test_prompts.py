"""The catalogue of tasks is that of the model's own processor, and refusals say what is missing."""

from types import SimpleNamespace
from typing import Any

import pytest
from transformers.models.florence2 import processing_florence2
from transformers.processing_utils import ProcessorMixin

from arno_shared.errors import InvalidRequest
from arno_shared.prompts import TASKS, Answer, Takes, check_prompt, split_shorthand

REGION = (10.0, 20.0, 200.0, 180.0)
TEXT_TASKS = sorted(token for token, task in TASKS.items() if task.takes is Takes.TEXT)
REGION_TASKS = sorted(token for token, task in TASKS.items() if task.takes is Takes.REGION)
BARE_TASKS = sorted(token for token, task in TASKS.items() if task.takes is Takes.NOTHING)

ANSWERS = {
    "pure_text": Answer.TEXT,
    "ocr": Answer.QUADS,
    "description_with_bboxes": Answer.BOXES,
    "phrase_grounding": Answer.PHRASES,
    "bboxes": Answer.PROPOSALS,
    "polygons": Answer.POLYGONS,
    "description_with_bboxes_or_polygons": Answer.BOXES_OR_POLYGONS,
}
"""What each of the processor's kinds of post-processing is called here."""


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The processor's tables need neither a tokenizer nor an image processor, only their names."""
    monkeypatch.setattr(ProcessorMixin, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(processing_florence2, "Florence2PostProcessor", lambda **_: None)
    tokenizer = SimpleNamespace(image_token="<image>", image_token_id=1)
    return processing_florence2.Florence2Processor(SimpleNamespace(image_seq_length=577), tokenizer)


def test_the_catalogue_holds_the_tasks_of_the_model(processor: Any) -> None:
    assert set(TASKS) == set(processor.tasks_answer_post_processing_type)
    assert all(token == task.token for token, task in TASKS.items())


def test_tasks_take_an_input_where_the_model_does(processor: Any) -> None:
    assert set(BARE_TASKS) == set(processor.task_prompts_without_inputs)
    assert {*TEXT_TASKS, *REGION_TASKS} == set(processor.task_prompts_with_input)


def test_the_input_is_a_region_where_the_task_is_named_after_one() -> None:
    assert [token for token in TASKS if token.startswith("<REGION_TO_")] == [
        token for token, task in TASKS.items() if task.takes is Takes.REGION
    ]


def test_answers_have_the_shape_of_the_models_post_processing(processor: Any) -> None:
    expected = {token: ANSWERS[kind] for token, kind in processor.tasks_answer_post_processing_type.items()}
    assert {token: task.answer for token, task in TASKS.items()} == expected


def test_answers_fit_into_the_decoder() -> None:
    assert all(0 < task.max_new_tokens <= 1024 for task in TASKS.values())


@pytest.mark.parametrize("token", BARE_TASKS)
def test_a_task_without_input_is_accepted_alone(token: str) -> None:
    assert check_prompt(token, None, None).token == token


@pytest.mark.parametrize("token", TEXT_TASKS)
def test_a_task_that_takes_a_text_is_accepted_with_one(token: str) -> None:
    assert check_prompt(token, "a red car", None).token == token


@pytest.mark.parametrize("token", REGION_TASKS)
def test_a_task_that_takes_a_region_is_accepted_with_one(token: str) -> None:
    assert check_prompt(token, None, REGION).token == token


def refusal(token: str, text: str | None, region: tuple[float, ...] | None) -> str:
    with pytest.raises(InvalidRequest) as refused:
        check_prompt(token, text, region)
    return str(refused.value)


@pytest.mark.parametrize("token", BARE_TASKS)
def test_a_task_without_input_refuses_text_and_region_and_says_so(token: str) -> None:
    assert refusal(token, "a car", None) == f"{token} takes nothing beside the picture, but a text was given"
    assert refusal(token, None, REGION) == f"{token} takes nothing beside the picture, but a region was given"


@pytest.mark.parametrize("token", TEXT_TASKS)
def test_a_task_that_takes_a_text_says_so_when_it_gets_none(token: str) -> None:
    for missing in (None, "", "  \n"):
        assert refusal(token, missing, None) == f"{token} takes a text, but none was given"
    assert refusal(token, "a car", REGION) == f"{token} takes a text, but a region was given"


@pytest.mark.parametrize("token", REGION_TASKS)
def test_a_task_that_takes_a_region_says_so_and_names_the_unit(token: str) -> None:
    sentence = refusal(token, None, None)
    assert sentence.startswith(f"{token} takes a region")
    assert "pixels" in sentence
    assert "x1, y1, x2, y2" in sentence
    assert refusal(token, "a car", REGION) == f"{token} takes a region, but a text was given"


@pytest.mark.parametrize("token", ["<CAPTIONS>", "OD", "<od>", "", "<REGION_TO_POEM>"])
def test_an_unknown_task_is_named_and_the_known_ones_are_listed(token: str) -> None:
    sentence = refusal(token, None, None)
    assert repr(token) in sentence
    assert all(known in sentence for known in TASKS)


def test_a_text_that_holds_a_task_prompt_is_refused_because_it_would_replace_the_task() -> None:
    sentence = refusal("<OPEN_VOCABULARY_DETECTION>", "a car <OCR> plate", None)
    assert "<OPEN_VOCABULARY_DETECTION> takes a text" in sentence
    assert "<OCR>" in sentence


@pytest.mark.parametrize("token", sorted(TASKS))
def test_the_shorthand_is_the_task_and_its_text_in_one_string(token: str) -> None:
    assert split_shorthand(token) == (token, None)
    assert split_shorthand(f"{token} a red car ") == (token, "a red car")


def test_a_shorthand_of_no_known_task_is_left_whole_to_be_refused() -> None:
    assert split_shorthand("<POEM>a car") == ("<POEM>a car", None)
