"""The value of an answer is what transformers' post-processor gives, whatever the model wrote."""

import json
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import Florence2Processor

from arno_shared.prompts import LOCATION_BINS, TASKS, Answer
from arno_shared.scenes import make_scene
from arno_workers.engine.parsing import AnswerParser
from arno_workers.tiny.lessons import ask
from tests.workers.engine.conftest import encode

OWN = {
    "<OWN_TEXT>": (Answer.TEXT, "pure_text"),
    "<OWN_BOXES>": (Answer.BOXES, "description_with_bboxes"),
    "<OWN_PHRASES>": (Answer.PHRASES, "phrase_grounding"),
    "<OWN_PROPOSALS>": (Answer.PROPOSALS, "bboxes"),
    "<OWN_QUADS>": (Answer.QUADS, "ocr"),
    "<OWN_POLYGONS>": (Answer.POLYGONS, "polygons"),
    "<OWN_BOXES_OR_POLYGONS>": (Answer.BOXES_OR_POLYGONS, "description_with_bboxes_or_polygons"),
}
"""As if a fine-tune had a task for each kind of answer: what it is called here, and there."""

KINDS = {token: task.answer for token, task in TASKS.items()} | {token: kind for token, (kind, _) in OWN.items()}
OBJECT_TASKS = [task for task, kind in KINDS.items() if kind is not Answer.TEXT]
FOUR = "<loc_1><loc_22><loc_333><loc_999>"
FRAGMENTS = (
    *(FOUR, FOUR, FOUR * 2, FOUR * 3, "<loc_7>", "<loc_7>", "<loc_7><loc_8><loc_9>"),
    *("<poly>", "<poly>", "</poly>", "</poly>", "<sep>", "<sep>", f"<poly>{FOUR}</poly>", f"{FOUR}<sep>"),
    *(
        "red square",
        "red square",
        " blue",
        "the",
        "a group",
        " ",
        "\n",
        "\r",
        "\x1f",
        "\u2028",
        "\0",
        "   a\n b",
        "  \n",
    ),
    *("é", "🙂", "日本", "naïve cat", " \u00a0 ", "I'm 5.5 kg, ok ?"),
    *("<s>", "</s>", "<pad>", "<unk>", "<od>", "</od>", "<ground>", "<obj>", "<box>", "</bbox>", "<OD>", "<CAPTION>"),
    # These may join into what looks like a special token and is none.
    *("<", ">", "<<", ">>>", "s>", "/s>", "pad>", "loc_", "12>", "<loc_٣>", "poly>", "/poly>", "sep>", "<loc_0005>"),
    *("<loc_>", "<loc_-1>", "<loc_1.5>", "<loc_ 1>"),
)
BEYOND = ("<loc_1000>", "<loc_0999999>", "<loc_99999999999999999999>", "<loc_٣٣٣٣٣>")
LAST = f"<loc_{LOCATION_BINS - 1}>"
ANSWERS = (
    "</s><s>a red circle and a blue square</s>",
    f"<s>red circle{FOUR}blue square{FOUR}{FOUR}</s>",
    f"</s><s>{FOUR}{FOUR}</s><pad>",
    f"<s>WORD{FOUR}{FOUR}\nother{FOUR}{FOUR}<loc_9>{FOUR}{FOUR}",
    f"a cat<poly>{FOUR}<sep>{FOUR}</poly><poly>{FOUR}<loc_5></poly>",
    f"{FOUR}<sep>{FOUR}{FOUR}<loc_3>",
    f"<loc_1><poly>{FOUR}</poly>",
    f"cat{FOUR} <poly>",
    f"cat{FOUR}<sep></poly><poly>",
    f"cat<poly>{FOUR}</poly><poly><poly>{FOUR}",
    f"<po<s>ly>cat{FOUR}<poly>",
    f"a<<s>s>b</<s>s>c{FOUR}<loc_<pad>5>",
    "<poly><loc_1></poly><poly>",
    f"the{FOUR} the {FOUR}\n\nThe{FOUR}a group of{FOUR}",
)
"""Well-formed ones, and such as were easily read otherwise."""

sizes = st.sampled_from([(1, 1), (3, 7777), (640, 480), (99_999_999, 1)]) | st.tuples(
    st.integers(1, 100_000), st.integers(1, 100_000)
)


@pytest.fixture(scope="module", autouse=True)
def _knows_tasks_of_its_own(processor: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for task, (_, kind) in OWN.items():
            patch.setitem(processor.tasks_answer_post_processing_type, task, kind)
        yield


@pytest.fixture(scope="module")
def fragments(processor: Any) -> list[list[int]]:
    """Token ids of `FRAGMENTS`, and of characters that were cut."""
    cut = [[id_] for char in "é🙂" for id_ in encode(processor, char)]
    return [encode(processor, fragment) for fragment in FRAGMENTS] + cut


def value_of(parser: AnswerParser, task: str, ids: Sequence[int], size: tuple[int, int] = (640, 480)) -> Any:
    return parser.parse(KINDS[task], ids, [-0.5] * len(ids), *size)[1]


def check(processor: Any, parser: AnswerParser, task: str, ids: Sequence[int], size: tuple[int, int]) -> None:
    """That text, value, keys, their order and the types of numbers are those of transformers."""
    raw, value, _ = parser.parse(KINDS[task], ids, [-0.5] * len(ids), *size)
    assert raw == processor.tokenizer.decode(ids, skip_special_tokens=False)
    expected = processor.post_process_generation(text=raw, task=task, image_size=size)[task]
    assert value == expected
    assert json.dumps(value) == json.dumps(expected)


@pytest.mark.parametrize("task", KINDS)
@settings(deadline=None)
@given(data=st.data(), size=sizes)
def test_whatever_the_model_writes_is_read_as_transformers_reads_it(
    processor: Any,
    parser: AnswerParser,
    fragments: list[list[int]],
    task: str,
    data: st.DataObject,
    size: tuple[int, int],
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(fragments))), max_size=30))
    check(processor, parser, task, [id_ for number in chosen for id_ in fragments[number]], size)


@pytest.mark.parametrize("task", KINDS)
@settings(deadline=None)
@given(
    written=st.lists(st.sampled_from(FRAGMENTS) | st.integers(0, 999).map("<loc_{}>".format) | st.text(max_size=9)),
    size=sizes,
)
@example(written=list(FRAGMENTS), size=(640, 480))
def test_whatever_text_stands_there_is_read_as_transformers_reads_it(
    processor: Any, parser: AnswerParser, task: str, written: list[str], size: tuple[int, int]
) -> None:
    text = "".join(written).encode(errors="replace").decode()
    check(processor, parser, task, encode(processor, text), size)


@pytest.mark.parametrize("task", KINDS)
@settings(deadline=None)
@given(data=st.data())
def test_whatever_tokens_follow_each_other_are_read_as_transformers_reads_them(
    processor: Any, parser: AnswerParser, task: str, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, len(processor.tokenizer) + 40), max_size=60))
    check(processor, parser, task, ids, (640, 480))


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_are_read_as_transformers_reads_them(
    processor: Any, parser: AnswerParser, task: str, answer: str
) -> None:
    ids = encode(processor, answer)
    for end in range(0, len(ids) + 1, 3):
        check(processor, parser, task, ids[:end], (1333, 777))
    check(processor, parser, task, ids, (1333, 777))


@pytest.mark.parametrize("task", TASKS)
def test_true_answers_are_read_as_transformers_reads_them(processor: Any, parser: AnswerParser, task: str) -> None:
    for seed in range(60):
        _, true = ask(make_scene(seed), task)
        check(processor, parser, task, encode(processor, f"</s><s>{true}</s>"), (500 + seed, 4000 - 7 * seed))


def test_the_shapes_of_answers_are_those_of_transformers(processor: Any, parser: AnswerParser) -> None:
    assert set(KINDS) == set(processor.tasks_answer_post_processing_type)
    assert {kind for kind, _ in OWN.values()} == set(Answer)
    for task in KINDS:
        check(processor, parser, task, [], (1, 1))


def test_what_a_checkpoint_bans_is_no_phrase(processor: Any) -> None:
    banning = Florence2Processor(
        processor.image_processor,
        processor.tokenizer,
        post_processor_config={"phrase_grounding": {"banned_grounding_tokens": ["red square"]}},
    )
    ids = encode(processor, f"red square{FOUR}the{FOUR}")
    assert value_of(AnswerParser(banning), "<CAPTION_TO_PHRASE_GROUNDING>", ids)["labels"] == ["the"]
    assert value_of(AnswerParser(processor), "<CAPTION_TO_PHRASE_GROUNDING>", ids)["labels"] == ["red square"]


@pytest.mark.parametrize("task", OBJECT_TASKS)
@settings(deadline=None)
@given(written=st.lists(st.sampled_from(["cat", "<poly>", "</poly>", "<sep>", "<loc_5>", FOUR, *BEYOND]), max_size=20))
def test_a_location_outside_of_the_picture_is_at_its_edge(
    processor: Any, parser: AnswerParser, task: str, written: list[str]
) -> None:
    """transformers gives a pixel outside of it, or raises."""
    clipped = [LAST if one in BEYOND else one for one in written]
    found, expected = (value_of(parser, task, encode(processor, "".join(text))) for text in (written, clipped))
    # A location is read as a part of a label where it belongs to no box.
    assert without_labels(found) == without_labels(expected)


def without_labels(value: dict[str, Any]) -> dict[str, Any]:
    return {key: one if "labels" not in key else len(one) for key, one in value.items()}


def test_a_location_of_so_many_digits_that_python_reads_no_number_is_at_the_edge(
    processor: Any, parser: AnswerParser
) -> None:
    ids = encode(processor, f"cat<loc_{'0' * 5000}><loc_5><loc_0999>{LAST}")
    assert value_of(parser, "<OD>", ids, (1000, 1000)) == {"bboxes": [[999, 5, 999, 999]], "labels": ["cat"]}


@pytest.mark.parametrize("task", OBJECT_TASKS)
@pytest.mark.parametrize(
    "text",
    [
        *("a", ">", " ", "\n", "<", "red square ", "<pad>", "<loc_1>", "<loc_1>a", "<loc_1><loc_1><loc_1>a"),
        *("red square<loc_1><loc_2><loc_3>", "<poly>", "</poly><poly>", f"a<poly>{FOUR}</poly>", f"a{FOUR}{FOUR}\n"),
    ],
)
def test_a_text_without_end_takes_no_time_that_grows_with_its_square(
    processor: Any, parser: AnswerParser, task: str, text: str
) -> None:
    ids = encode(processor, text) * 20_000
    began_s = perf_counter()
    value_of(parser, task, ids)
    assert perf_counter() - began_s < 10
