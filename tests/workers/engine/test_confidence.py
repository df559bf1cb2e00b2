"""Every object gets the confidence of the very tokens that wrote it, whatever the model wrote."""

from collections.abc import Iterable, Sequence
from math import exp, inf, isclose, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arno_shared.prompts import TASKS, Answer
from arno_shared.scenes import make_scene
from arno_shared.scenes import tasks as known
from arno_workers.engine.parsing import AnswerParser
from arno_workers.tiny.lessons import ask
from tests.workers.engine.conftest import encode

OBJECT_TASKS = [task.token for task in TASKS.values() if task.answer is not Answer.TEXT]
FOUR = "<loc_1><loc_22><loc_333><loc_999>"
FRAGMENTS = (
    *(FOUR, FOUR, FOUR * 2, FOUR * 3, "<loc_7>", "<loc_7>", "<loc_7><loc_8><loc_9>"),
    *("<poly>", "<poly>", "</poly>", "</poly>", "<sep>", "<sep>", f"<poly>{FOUR}</poly>", f"{FOUR}<sep>"),
    *("red square", "red square", " blue", "the", "a group", " ", "\n", "\r", "\x1f", "\u2028", "é", "🙂", "日本"),
    *("<s>", "</s>", "<pad>", "<unk>", "<od>", "</od>", "<ground>", "<obj>", "<box>"),
    # These may join into what looks like a special token and is none.
    *("<", ">", "<<", "s>", "/s>", "pad>", "loc_", "12>", "<loc_٣>", "poly>", "/poly>", "sep>"),
)


@pytest.fixture(scope="module")
def fragments(processor: Any) -> list[list[int]]:
    """Token ids of `FRAGMENTS`, and of characters that were cut."""
    cut = [[id_] for char in "é🙂" for id_ in encode(processor, char)]
    return [encode(processor, fragment) for fragment in FRAGMENTS] + cut


def read(
    parser: AnswerParser, task: str, ids: Sequence[int], logprobs: Sequence[float]
) -> tuple[Any, tuple[float, ...] | None]:
    """The answer's value, and its confidences."""
    _, value, given = parser.parse(TASKS[task].answer, ids, logprobs, 640, 480)
    return value, given


def objects_in(value: Any) -> int:
    return sum(len(value.get(key, ())) for key in ("bboxes", "quad_boxes", "polygons"))


def falling(ids: Sequence[int]) -> list[float]:
    """Log-probabilities that tell the tokens apart: no two sets of a few of them have one mean."""
    return [-(1.01 ** (7 * place)) / 10 for place in range(len(ids))]


def of_places(logprobs: Sequence[float], *places: Iterable[int]) -> list[float]:
    means = []
    for object_places in places:
        own = [logprobs[place] for place in object_places]
        means.append(exp(sum(own) / len(own)))
    return means


def check(parser: AnswerParser, task: str, ids: list[int], *places: Iterable[int]) -> None:
    """That the answer's objects are written by the tokens at these places."""
    logprobs = falling(ids)
    value, given = read(parser, task, ids, logprobs)
    assert objects_in(value) == len(places)
    assert given == pytest.approx(of_places(logprobs, *places))


def test_boxes_of_one_label_share_its_tokens_and_have_their_own_locations(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, f"<s>red square{FOUR}{FOUR}blue star{FOUR}</s>")
    check(parser, known.OD, ids, range(1, 7), [1, 2, 7, 8, 9, 10], range(11, 17))


def test_a_location_that_belongs_to_no_box_counts_for_none(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, f"<s>red square{FOUR}<loc_5><loc_6><loc_7>green cross{FOUR}</s>")
    check(parser, known.OD, ids, range(1, 7), range(10, 16))


def test_a_location_that_is_read_as_part_of_a_label_counts_with_it(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, f"<s>blue star<loc_8>green cross{FOUR}</s>")
    value, _ = read(parser, known.OD, ids, falling(ids))
    assert value["labels"] == ["loc_8>green cross"]
    check(parser, known.OD, ids, range(3, 10))


def test_a_proposed_region_has_its_locations_alone(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, f"<s>{FOUR}{FOUR}red square{FOUR}</s>")
    check(parser, known.REGION_PROPOSAL, ids, range(1, 5), range(5, 9), range(11, 15))


def test_a_banned_phrase_gets_no_confidence(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, f"<s>red square{FOUR}the{FOUR}blue star{FOUR}</s>")
    the = encode(processor, "the")
    blue = 7 + len(the) + 4
    check(parser, known.CAPTION_TO_PHRASE_GROUNDING, ids, range(1, 7), range(blue, blue + 6))


def test_a_read_word_has_its_text_and_its_eight_locations(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, f"<s>red square{FOUR}{FOUR}blue star{FOUR}{FOUR}</s>")
    check(parser, known.OCR_WITH_REGION, ids, range(1, 11), range(11, 21))


def test_a_ninth_location_begins_the_next_word(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, f"<s>red square{FOUR}{FOUR}<loc_9>{FOUR}{FOUR}</s>")
    check(parser, known.OCR_WITH_REGION, ids, range(1, 11), range(11, 20))


def test_polygons_of_one_label_share_its_tokens_and_have_their_own_marks(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, f"<s>red square<poly>{FOUR}<sep>{FOUR}</poly><poly>{FOUR}</poly></s>")
    check(parser, known.OPEN_VOCABULARY_DETECTION, ids, range(1, 14), [1, 2, *range(14, 20)])


def test_boxes_are_found_where_there_are_no_polygons(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, f"<s>red square{FOUR}{FOUR}</s>")
    check(parser, known.OPEN_VOCABULARY_DETECTION, ids, range(1, 7), [1, 2, 7, 8, 9, 10])


@pytest.mark.parametrize("task", [known.REFERRING_EXPRESSION_SEGMENTATION, known.REGION_TO_SEGMENTATION])
def test_a_mask_of_several_polygons_is_one_object(processor: Any, parser: AnswerParser, task: str) -> None:
    ids = encode(processor, f"<s>{FOUR}<sep>{FOUR}{FOUR}</s>")
    check(parser, task, ids, range(1, 14))


def test_removed_tokens_in_the_middle_count_for_nothing(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, "<s>red<pad> square<s></s><loc_1><loc_2><pad><loc_3><loc_4></s>")
    square = encode(processor, " square")
    after = 3 + len(square) + 2
    check(parser, known.OD, ids, [1, *range(3, 3 + len(square)), after, after + 1, after + 3, after + 4])


@pytest.mark.parametrize("looks", [["<", "s", ">"], ["<", "/", "s", ">"], ["<", "/", "<s>", "s", ">"]])
def test_text_that_only_looks_like_removed_tokens_is_removed_too(
    processor: Any, parser: AnswerParser, looks: list[str]
) -> None:
    spelled = [id_ for piece in looks for id_ in encode(processor, piece)]
    assert len(spelled) == len(looks)
    ids = [*encode(processor, "red square"), *spelled, *encode(processor, FOUR)]
    check(parser, known.OD, ids, [0, 1, *range(len(ids) - 4, len(ids))])


def test_all_tokens_of_a_character_count(processor: Any, parser: AnswerParser) -> None:
    smile = encode(processor, "🙂")
    assert len(smile) > 1
    ids = [*encode(processor, "<s>"), *smile, *encode(processor, FOUR + FOUR)]
    end = 1 + len(smile)
    check(parser, known.OCR_WITH_REGION, ids, range(1, end + 8))
    check(parser, known.OD, ids, range(1, end + 4), [*range(1, end), *range(end + 4, end + 8)])


def test_a_character_that_was_cut_takes_no_token_from_what_follows(processor: Any, parser: AnswerParser) -> None:
    smile = encode(processor, "🙂")
    ids = [*smile[:-1], *encode(processor, FOUR + FOUR)]
    end = len(smile) - 1
    check(parser, known.OD, ids, range(end + 4), [*range(end), *range(end + 4, end + 8)])


@pytest.mark.parametrize("task", sorted(set(TASKS) - set(OBJECT_TASKS)))
def test_a_text_has_no_objects_to_be_sure_of(processor: Any, parser: AnswerParser, task: str) -> None:
    ids = encode(processor, f"<s>red square{FOUR}</s>")
    assert read(parser, task, ids, falling(ids))[1] is None


@pytest.mark.parametrize("task", OBJECT_TASKS)
@pytest.mark.parametrize("text", ["", "<s></s>", "red square", "<loc_1><loc_2><loc_3>", "<pad>"])
def test_an_answer_without_objects_has_no_confidences(
    processor: Any, parser: AnswerParser, task: str, text: str
) -> None:
    ids = encode(processor, text)
    assert read(parser, task, ids, falling(ids))[1] == ()


@pytest.mark.parametrize("logprob", [-inf, nan, -1e308, -746.0])
def test_a_confidence_is_never_zero(processor: Any, parser: AnswerParser, logprob: float) -> None:
    ids = encode(processor, f"red square{FOUR}blue star{FOUR}")
    _, given = read(parser, known.OD, ids, [logprob] * 6 + [-0.5] * 6)
    assert given is not None
    assert 0 < given[0] < 1e-30
    assert isclose(given[1], exp(-0.5))


def test_a_certainty_that_was_rounded_up_is_one(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, f"red square{FOUR}")
    assert read(parser, known.OD, ids, [1e-7] * len(ids))[1] == (1.0,)


def test_tokens_without_their_probabilities_are_refused(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, f"red square{FOUR}")
    with pytest.raises(ValueError, match="5 log-probabilities for 6 tokens"):
        read(parser, known.OD, ids, falling(ids)[:-1])


@pytest.mark.parametrize("task", OBJECT_TASKS)
@settings(deadline=None)
@given(data=st.data())
def test_there_are_as_many_confidences_as_objects_whatever_the_model_writes(
    processor: Any, parser: AnswerParser, fragments: list[list[int]], task: str, data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(fragments))), max_size=30))
    ids = [id_ for number in chosen for id_ in fragments[number]]
    value, given = read(parser, task, ids, falling(ids))
    assert given is not None
    assert len(given) == objects_in(value)
    assert all(0 < confidence <= 1 for confidence in given)


@settings(deadline=None)
@given(data=st.data())
def test_every_box_is_written_by_its_own_tokens(processor: Any, parser: AnswerParser, data: st.DataObject) -> None:
    labels = data.draw(
        st.lists(st.tuples(st.sampled_from(["red square", "café", " blue", "🙂 日本"]), st.integers(1, 4)), max_size=8)
    )
    ids: list[int] = encode(processor, "<s>")
    places: list[list[int]] = []
    for label, boxes in labels:
        written = encode(processor, label)
        named = range(len(ids), len(ids) + len(written))
        ids += written
        for _ in range(boxes):
            places.append([*named, *range(len(ids), len(ids) + 4)])
            ids += encode(processor, FOUR)
    check(parser, known.OD, ids + encode(processor, "</s>"), *places)


@pytest.mark.parametrize("task", OBJECT_TASKS)
def test_true_answers_get_a_confidence_for_each_object(processor: Any, parser: AnswerParser, task: str) -> None:
    for seed in range(100):
        _, true = ask(make_scene(seed), task)
        ids = encode(processor, f"<s>{true}</s>")
        value, given = read(parser, task, ids, [-0.25] * len(ids))
        assert given == pytest.approx([exp(-0.25)] * objects_in(value))


def test_thousands_of_boxes_get_thousands_of_confidences(processor: Any, parser: AnswerParser) -> None:
    ids = encode(processor, "red square") + encode(processor, FOUR) * 5000
    _, given = read(parser, known.OD, ids, falling([0] * 10) * (len(ids) // 10) + [-1.0] * (len(ids) % 10))
    assert given is not None
    assert len(given) == 5000
