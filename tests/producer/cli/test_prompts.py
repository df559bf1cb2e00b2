"""Prompts of the command line: tasks by their names, JSON, and fine-tunes' own."""

import pytest

from arno_producer.cli.prompts import parse_prompt, prompts_given
from arno_shared.errors import InvalidRequest
from arno_shared.prompts import Answer


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("OD", "<OD>"),
        ("more_detailed_caption", "<MORE_DETAILED_CAPTION>"),
        ("<OD>", "<OD>"),
        ("<OPEN_VOCABULARY_DETECTION>a cat", "<OPEN_VOCABULARY_DETECTION>a cat"),
        (' {"task": "<OD>"}', {"task": "<OD>"}),
        ("OCD", "OCD"),
    ],
)
def test_prompts(text: str, prompt: object) -> None:
    assert parse_prompt(text) == prompt


def test_a_prompt_that_is_no_json() -> None:
    with pytest.raises(InvalidRequest, match="not JSON"):
        parse_prompt('{"task"')


@pytest.mark.parametrize(
    ("parses", "kinds"),
    [
        ([], ["text", "text"]),
        ([Answer.BOXES], ["boxes", "boxes"]),
        ([Answer.QUADS, Answer.TEXT], ["quads", "text"]),
    ],
)
def test_one_kind_is_for_all_sentences_and_several_are_one_for_each(parses: list[Answer], kinds: list[str]) -> None:
    asked = prompts_given(["OD"], ["a?", " b?"], parses)
    assert asked == ["<OD>", {"raw": "a?", "parse": kinds[0]}, {"raw": " b?", "parse": kinds[1]}]


@pytest.mark.parametrize(
    ("prompts", "raws", "parses", "said"),
    [
        (None, None, None, "nothing is asked: give --prompt, or --raw, or both"),
        (["OD"], None, [Answer.BOXES], "--parse is for prompts in --raw, and tasks have their own: leave it out"),
        (None, ["a?"], [Answer.BOXES] * 2, "--parse is given 2 times and --raw 1 times: give one --parse for all"),
        (None, ["a?"] * 3, [Answer.BOXES] * 2, "--parse is given 2 times and --raw 3 times"),
    ],
)
def test_sentences_and_kinds_that_do_not_match_are_told_what_to_do(
    prompts: list[str] | None, raws: list[str] | None, parses: list[Answer] | None, said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        prompts_given(prompts, raws, parses)
