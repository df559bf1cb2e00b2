"""Whatever the model writes, and whatever it is asked, a row with an answer comes out, and it comes back."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arno_shared.errors import RegionOutside
from arno_shared.messages import MAX_NEW_TOKENS, GenerationOptions, Prompt
from arno_shared.prompts import TASKS, Answer, Takes
from arno_workers.engine.regions import quantize
from tests.fuzz.fuzz_answer import SEEDS, SIZES, TOKENS, check, replica, token_ids
from tests.fuzz.fuzz_answer import test_one_input as check_bytes

_STEADY = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
"""The same answers every time: who changes nothing never sees it fail."""

_FOUR = "<loc_1><loc_22><loc_333><loc_999>"
_TRUE = (
    *(_FOUR, _FOUR, _FOUR * 2, _FOUR * 3, "<loc_7>", "<loc_7>", "<loc_7><loc_8><loc_9>"),
    *("<poly>", "<poly>", "</poly>", "</poly>", "<sep>", "<sep>", f"<poly>{_FOUR}</poly>", f"{_FOUR}<sep>"),
    *("red square", " blue", "the", " ", "\n", "\r", "\x1f", "\u2028", "\0", "é", "🙂", "日本", "   a\n b"),
    *("<s>", "</s>", "<pad>", "<unk>", "<od>", "</od>", "<ground>", "<obj>", "<box>", "<OD>", "<CAPTION>"),
    *("<", ">", "<<", ">>>", "s>", "/s>", "loc_", "12>", "<loc_٣>", "poly>", "/poly>", "sep>"),
)
_ABSURD = ("<loc_1000>", "<loc_99999999999999999999>", "<loc_-1>", "<loc_>", "<loc_" + "0" * 5000 + ">", "<loc_1.5>")
_OBJECT_TASKS = [task.token for task in TASKS.values() if task.answer is not Answer.TEXT]

_written = st.lists(st.sampled_from(_TRUE + _ABSURD) | st.text(max_size=5), max_size=30).map("".join)


@settings(_STEADY, max_examples=100)
@given(st.sampled_from(TOKENS), _written, st.sampled_from(SIZES))
def test_whatever_the_model_writes_is_an_answer_of_its_task(task: str, written: str, size: tuple[int, int]) -> None:
    check(task, token_ids(written.encode(errors="replace").decode()), size)


@settings(_STEADY, max_examples=60)
@given(st.sampled_from(SEEDS), st.binary(max_size=60))
def test_whatever_tokens_follow_each_other_are_an_answer(seed: bytes, data: bytes) -> None:
    check_bytes(seed + data)
    check_bytes(seed[:1] + data)


@pytest.mark.parametrize("text", [_FOUR, f"a{_FOUR}{_FOUR}\n", f"a<poly>{_FOUR}</poly>", "</poly><poly>", ">", "  \n"])
def test_an_answer_as_long_as_can_be_is_an_answer(text: str) -> None:
    ids = token_ids(text * MAX_NEW_TOKENS)[:MAX_NEW_TOKENS]
    for task in _OBJECT_TASKS:
        check(task, ids, (640, 480))


_texts = st.lists(st.sampled_from(_TRUE + _ABSURD + ("{input}", "<image>")) | st.text(max_size=9), min_size=1).map(
    "".join
)


@settings(_STEADY, max_examples=80)
@given(st.sampled_from([token for token, task in TASKS.items() if task.takes is Takes.TEXT]), _texts)
def test_whatever_text_is_asked_about_fits_the_encoder(task: str, text: str) -> None:
    try:
        prompt = Prompt(task=task, text=text[:4096])
    except ValueError:
        return
    _check_ids(replica().ask(prompt, 640, 480, GenerationOptions()).sentence)


_two_edges = st.lists(
    st.floats(0, allow_infinity=False) | st.integers(0, 10**9).map(float), min_size=2, max_size=2, unique=True
).map(sorted)


@settings(_STEADY, max_examples=100)
@given(_two_edges, _two_edges, st.integers(1, 2**31), st.integers(1, 2**31))
def test_whatever_region_is_asked_about_is_four_locations_or_outside(
    across: list[float], down: list[float], width: int, height: int
) -> None:
    (x1, x2), (y1, y2) = across, down
    prompt = Prompt(task="<REGION_TO_OCR>", region=(x1, y1, x2, y2))
    try:
        sentence = replica().ask(prompt, width, height, GenerationOptions()).sentence
    except RegionOutside:
        assert x1 >= width or y1 >= height
        return
    first, second, third, fourth = map(int, re.findall(r"<loc_(\d+)>", sentence))
    assert 0 <= first <= third <= 999
    assert 0 <= second <= fourth <= 999
    _check_ids(sentence)


@pytest.mark.parametrize("largest", [1e300, 1.7e308])
def test_a_region_of_absurd_size_is_clipped(largest: float) -> None:
    assert quantize((0, 0, largest, largest), 1, 1) == "<loc_0><loc_0><loc_999><loc_999>"


def _check_ids(sentence: str) -> None:
    ids, tokenizer = replica().prompt_ids(sentence), replica()._processor.tokenizer
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert len(ids) <= replica()._max_positions - replica()._image_tokens
    assert all(0 <= id_ < len(tokenizer) for id_ in ids)
