"""An answer that runs in a loop is noticed, and a long one that is none is left alone."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Florence2Processor

from arno_shared.prompts import LOCATION_BINS, TASKS
from arno_shared.scenes import make_scene
from arno_workers.engine.checkpoint.locate import BUNDLED
from arno_workers.engine.repetition import runs_in_a_loop
from arno_workers.tiny.lessons import ask

START, END = 0, 2
FIRST_LOCATION = 50_000
LOCATIONS = range(FIRST_LOCATION, FIRST_LOCATION + LOCATION_BINS)
WORDS = range(100, 50_000)


def loops(ids: Sequence[int]) -> bool:
    return runs_in_a_loop(ids, LOCATIONS, {END})


def locations(count: int, seed: object) -> list[int]:
    rng = Random(str(seed))
    return [FIRST_LOCATION + rng.randrange(LOCATION_BINS) for _ in range(count)]


def no_triple_twice(variety: int, length: int) -> list[int]:
    """What a model says in a loop of so many words where no three tokens may repeat."""
    said, seen = [0, 0], set()
    while len(said) < length:
        word = next(word for word in reversed(range(variety)) if (*said[-2:], word) not in seen)
        seen.add((*said[-2:], word))
        said.append(word)
    return [WORDS[word] for word in said]


words = st.integers(WORDS.start, WORDS.stop - 1)


@given(
    before=st.lists(words, max_size=200),
    block=st.lists(words | st.integers(FIRST_LOCATION, FIRST_LOCATION + LOCATION_BINS - 1), min_size=1, max_size=100),
    times=st.integers(3, 12),
    cut=st.integers(0, 99),
    ends=st.booleans(),
)
def test_a_block_said_three_times_in_a_row_is_a_loop(
    before: list[int], block: list[int], times: int, cut: int, ends: bool
) -> None:
    times = max(times, -(-12 // len(block)))
    assert loops([START, *before, *block * times, *block[: cut % len(block)], *[END] * ends])


@given(st.lists(words, min_size=4, max_size=300, unique=True), st.integers(0, 299))
def test_a_block_said_less_than_three_times_is_none(block: list[int], cut: int) -> None:
    assert not loops([START, *block, *block, *block[: cut % len(block)], END])


few = st.lists(st.integers(100, 102), max_size=8)


@settings(max_examples=1000)
@given(few, few, st.integers(1, 8), few)
def test_every_loop_of_a_short_answer_is_found_and_nothing_else(
    before: list[int], block: list[int], times: int, after: list[int]
) -> None:
    ids = (before + block * times + after)[-63:]
    tails = [(block, ids[-max(3 * block, 12) :]) for block in range(1, len(ids) // 3 + 1) if len(ids) >= 12]
    assert loops(ids) == any(tail[block:] == tail[:-block] for block, tail in tails)


@pytest.mark.parametrize("said", [[7] * 11, [7, 8, 9] * 3, [7, 8] * 5, [], [END], [START, END]])
def test_a_short_repetition_is_none(said: list[int]) -> None:
    assert not loops([START, 5, *said, END])
    assert not loops(said)


def test_a_loop_that_was_left_again_is_none() -> None:
    assert not loops([START, *[7, 8, 9] * 10, 11, 12, 13, END])


def test_a_box_said_three_times_is_a_loop() -> None:
    box = locations(4, "box")
    assert loops([START, *[7, *box] * 3])
    assert loops([START, 7, *box * 3])


@pytest.mark.parametrize("variety", [5, 6, 8, 10])
def test_few_words_in_ever_new_orders_are_a_loop(variety: int) -> None:
    assert loops([START, *WORDS[200:300], *no_triple_twice(variety, 100), END])


@pytest.mark.parametrize("variety", [11, 16, 30])
def test_a_text_of_more_words_is_none(variety: int) -> None:
    assert not loops([START, *(WORDS[word] for word in range(variety)), *no_triple_twice(variety, 200)[::-1], END])


def test_few_words_are_no_loop_in_an_answer_that_is_not_long() -> None:
    assert not loops([*no_triple_twice(4, 63), END])
    assert loops([*no_triple_twice(4, 64), END])


def test_few_words_are_a_loop_between_locations_too() -> None:
    said = no_triple_twice(6, 100)
    ids = [id_ for at in range(0, 100, 5) for id_ in (*said[at : at + 5], *locations(4, at))]
    assert loops([START, *ids, END])


def test_many_boxes_of_one_label_are_no_loop() -> None:
    assert not loops([START, *(id_ for box in range(200) for id_ in (7, *locations(4, box))), END])
    assert not loops([START, *(id_ for box in range(100) for id_ in (7, 8, 9, 10, *locations(4, box))), END])
    assert not loops([START, 7, *locations(1000, "boxes"), END])


def test_many_different_labels_are_no_loop() -> None:
    assert not loops([START, *(id_ for box in range(200) for id_ in (WORDS[box], *locations(4, box))), END])


def test_many_words_are_no_loop() -> None:
    assert not loops([START, *WORDS[:300], END])


def test_nothing_but_locations_is_no_loop() -> None:
    assert not loops([START, *locations(1000, "proposals"), END])


def test_a_mask_of_many_polygons_is_no_loop() -> None:
    assert not loops([START, *(id_ for polygon in range(90) for id_ in (*locations(10, polygon), 7)), END])


def test_a_read_table_of_numbers_is_no_loop() -> None:
    rng = Random(1)
    figures = [(WORDS[rng.randrange(10)], 7, WORDS[rng.randrange(10)]) for _ in range(80)]
    assert not loops([START, *(id_ for cell, figure in enumerate(figures) for id_ in (*figure, *locations(8, cell)))])


@pytest.mark.parametrize("task", TASKS)
def test_true_answers_are_no_loops(task: str) -> None:
    tokenizer: Any = Florence2Processor.from_pretrained(BUNDLED / "arno-tiny").tokenizer
    located = frozenset(tokenizer.convert_tokens_to_ids([f"<loc_{bin_}>" for bin_ in range(LOCATION_BINS)]))
    for seed in range(300):
        _, true = ask(make_scene(seed), task)
        ids = tokenizer(f"<s>{true}</s>", add_special_tokens=False)["input_ids"]
        assert not runs_in_a_loop(ids, located, {tokenizer.eos_token_id})
