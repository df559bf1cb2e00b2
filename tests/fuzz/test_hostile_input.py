"""Messages, events and rows, whatever is in them: what is right is kept, what is wrong is refused, nothing breaks."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arno_shared.errors import InvalidMessage, ItemError
from arno_shared.messages import parse_message, raw_message
from arno_shared.parts import decode_part, encode_part
from arno_shared.prompts import TASKS
from arno_shared.results import Failure, ImageFacts, ModelFacts, PromptResult, ResultRow, Status
from tests.fuzz import fuzz_event, fuzz_message

_STEADY = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
"""The same input every time: who changes nothing never sees it fail."""

_characters = st.characters() | st.sampled_from('\0\n\r\x85\u2028\ud800\udfff\uffff🏔"\\<>/')
_texts = st.text(_characters, max_size=12) | st.sampled_from(
    [*TASKS, "s3://b/a.jpg", "file:///\0", "x" * 9000, "a." * 5000, "NaN", "", "1", "jsonl", "run-7", "<OD>\ud83d"]
)
_numbers = (
    st.integers()
    | st.floats()
    | st.booleans()
    | st.sampled_from([2**31, 2**63, 2**64, 10**30, -(10**4000), float("nan"), float("inf"), 1e308, 5e-324, -0.0])
)
_names = _texts | st.sampled_from(
    [
        *("images", "prompts", "output", "generation", "job_id", "index", "attempt", "schema_version", "uri", "id"),
        *("task", "text", "region", "prefix", "format", "inline", "num_beams", "max_new_tokens", "version_id", "etag"),
        *("Records", "Type", "Message", "Body", "detail-type", "detail", "s3", "bucket", "object", "key"),
        *("eventSource", "eventName", "eventVersion", "name", "versionId"),
    ]
)
_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | _numbers | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def _changed(draw: st.DrawFn, bodies: list[Any]) -> Any:
    """One of these with something else, or something more, at one place or several."""
    body = json.loads(json.dumps(draw(st.sampled_from(bodies))))
    for _ in range(draw(st.integers(1, 3))):
        held = body
        while held:
            place = draw(st.sampled_from(sorted(held) if isinstance(held, dict) else range(len(held))))
            if not isinstance(held[place], list | dict) or draw(st.integers(0, 4)) == 0:
                held[place] = draw(_values)
                break
            held = held[place]
        if isinstance(held, dict) and draw(st.booleans()):
            held[draw(_names)] = draw(_values)
    return body


@settings(_STEADY, max_examples=80)
@given(st.lists(_values, max_size=4), st.dictionaries(_names, _values, max_size=5))
def test_any_arguments_are_a_message_or_are_refused(args: list[Any], kwargs: dict[str, Any]) -> None:
    fuzz_message.check(args, kwargs)


@settings(_STEADY, max_examples=150)
@given(_changed(fuzz_message.BODIES))
def test_a_changed_message_is_a_message_or_is_refused(body: Any) -> None:
    fuzz_message.test_one_input(json.dumps(body).encode())
    if isinstance(body, dict):
        fuzz_message.check([], body)


@pytest.mark.parametrize("body", fuzz_message.BODIES)
def test_every_body_to_start_from_says_what_it_should(body: Any) -> None:
    fuzz_message.test_one_input(json.dumps(body).encode())


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def far_down(frames: int, call: Callable[[], str]) -> str:
    return call() if frames == 0 else far_down(frames - 1, call)


@pytest.mark.parametrize("depth", [50, 250, 900, 5000])
@pytest.mark.parametrize("field", ["images", "prompts", "output", "generation", "index", "other"])
def test_what_is_nested_deeply_is_refused(field: str, depth: int) -> None:
    fields = {"images": "s3://b/a.jpg", "prompts": "<OD>", field: nested(depth)}
    fuzz_message.check([], fields)
    fuzz_message.check([nested(depth)], {})


def test_a_message_that_was_read_with_less_on_the_stack_is_filed_all_the_same() -> None:
    deepest = nested(sys.getrecursionlimit() - 100)
    assert "nested too deeply" in far_down(200, lambda: raw_message([deepest], {}))


@pytest.mark.parametrize(
    "fields",
    [
        {"x" * 10**6: 1},
        {"prompts": ["x" * 10**6]},
        {"images": [{"uri": "s3://b/a.jpg", "y" * 10**6: 1}]},
        {"schema_version": 10**5000},
        {"output": {"prefix": "z" * 10**6}},
    ],
)
def test_a_refusal_is_short_however_long_what_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage) as refused:
        parse_message([], {"images": "s3://b/a.jpg", "prompts": "<OD>", **fields})
    assert len(str(refused.value)) < 6000


@settings(_STEADY, max_examples=120)
@given(_changed([json.loads(seed) for seed in fuzz_event.SEEDS]))
def test_a_changed_event_is_images_or_is_refused(event: Any) -> None:
    fuzz_event.test_one_input(json.dumps(event).encode())


@settings(_STEADY, max_examples=80)
@given(_changed([json.loads(seed) for seed in fuzz_event.SEEDS if json.loads(seed).get("Records")]))
def test_a_changed_event_in_its_envelopes_is_images_or_is_refused(event: Any) -> None:
    notified = {"Type": "Notification", "Message": json.dumps(event)}
    fuzz_event.test_one_input(json.dumps({"Body": json.dumps(notified)}).encode())


@settings(_STEADY, max_examples=80)
@given(st.binary(max_size=80) | st.sampled_from(fuzz_event.SEEDS), st.binary(max_size=40), st.integers(0, 400))
def test_any_lines_are_images_or_are_refused(line: bytes, more: bytes, at: int) -> None:
    fuzz_event.test_one_input(line[:at] + more + line[at:])
    fuzz_event.test_one_input(line + b"\n" + more)


# A string that pydantic let in holds no half of a surrogate pair.
_kept = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\0\n\r\x85\u2028\uffff🏔"\\'), max_size=12)
_parsed: st.SearchStrategy[Any] = st.recursive(
    st.none() | _kept | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_kept, inner, max_size=3),
    max_leaves=8,
)
_results = st.builds(
    PromptResult,
    task=_kept,
    text=st.none() | _kept,
    prompt=_kept,
    raw=_kept,
    parsed=_parsed,
    tokens=st.integers(0, 2**31),
    truncated=st.booleans(),
)


@settings(_STEADY, max_examples=60)
@given(_kept, st.none() | _kept, _texts, st.lists(_results, max_size=3).map(tuple))
def test_any_row_comes_back_as_it_was_written(
    uri: str, id_: str | None, words: str, results: tuple[PromptResult, ...]
) -> None:
    row = ResultRow(
        job_id="j",
        index=0,
        attempts=1,
        image=ImageFacts(uri=uri, id=id_, version_id=id_, etag=uri),
        status=Status.FAILED,
        error=Failure.of(ItemError(words)),
        prompts=results,
        model=ModelFacts(id=uri, revision=uri, dtype="float32"),
        worker="w",
        finished_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    for format in ("jsonl", "parquet"):
        assert decode_part(encode_part([row, row], format), format) == [row, row]


def test_half_a_character_in_an_images_name_is_refused_before_it_comes_to_a_row() -> None:
    for image in ({"uri": "s3://b/\ud83d.jpg"}, {"uri": "s3://b/a.jpg", "id": "\ud83d"}):
        with pytest.raises(InvalidMessage, match="half of a character"):
            parse_message([], {"images": [image], "prompts": "<OD>"})


def test_half_a_character_in_an_error_does_not_cost_the_row() -> None:
    failure = Failure.of(ItemError("cannot be read: 'caf\udce9.jpg'"))
    assert failure.message == r"cannot be read: 'caf\udce9.jpg'"
