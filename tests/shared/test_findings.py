"""What is said of values that are wrong, to people who have never heard of Pydantic."""

import re
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from arno_shared.findings import Finding, findings_of
from arno_shared.messages import Output, describe_invalid
from arno_shared.names import Lane


class Crate(BaseModel, extra="forbid"):
    label: Annotated[str, Field(min_length=2, max_length=5)] = "pears"
    weights: Annotated[list[int], Field(min_length=1, max_length=3)] = [1]
    kind: Literal["fruit", "fish"] = "fruit"
    ratio: Annotated[float, Field(gt=0, lt=2.5, allow_inf_nan=False)] = 1.0
    sealed: bool = False


def found(kind: Any, value: Any) -> list[Finding]:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(kind).validate_python(value)
    return findings_of(refused.value.errors())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"label": "x"}, "must have at least 2 characters"),
        ({"label": "xxxxxx"}, "must have at most 5 characters"),
        ({"label": 7}, "must be a text"),
        ({"weights": []}, "must not be empty"),
        ({"weights": [1, 2, 3, 4]}, "must have at most 3 items"),
        ({"weights": "many"}, "must be a list"),
        ({"kind": "meat"}, "must be 'fruit' or 'fish'"),
        ({"ratio": 0}, "must be more than 0"),
        ({"ratio": 2.5}, "must be less than 2.5"),
        ({"ratio": float("inf")}, "must be a finite number"),
        ({"ratio": "half"}, "must be a number"),
        ({"sealed": "perhaps"}, "must be true or false"),
        ({"lable": "figs"}, "there is no such field: correct its name, or leave it out"),
    ],
)
def test_a_value_that_is_wrong_is_told_in_plain_words(wrong: dict[str, Any], words: str) -> None:
    assert found(Crate, wrong) == [Finding((*wrong,), words)]


def test_a_list_with_a_wrong_item_is_not_called_too_short_as_well() -> None:
    assert found(Crate, {"weights": ["x"]}) == [Finding(("weights", 0), "must be a whole number")]
    both = found(Annotated[tuple[Output, ...], Field(min_length=1)], [{"prefix": "s3://b/", "format": "csv"}])
    assert both == [Finding((0, "format"), "must be 'jsonl' or 'parquet'")]


def test_an_empty_list_is_told_beside_what_else_is_wrong() -> None:
    assert [finding.place for finding in found(Crate, {"weights": [], "kind": "meat"})] == [("weights",), ("kind",)]


def test_each_place_is_told_once() -> None:
    findings = found(dict[str, int | bool], {"a": "many"})
    assert len(findings) == len({finding.place for finding in findings})


def test_the_whole_has_no_place() -> None:
    assert found(Crate, "pears") == [Finding((), "must be an object")]
    assert found(Lane, 7) == [Finding((), "must be 'interactive' or 'bulk'")]


@pytest.mark.parametrize("value", ["hunter2", ["hunter2"], {"prefix": "s3://b/", "format": "hunter2"}])
def test_no_finding_holds_what_was_given(value: Any) -> None:
    assert "hunter2" not in str(found(Crate, value))


def test_words_of_what_nobody_thought_of_are_still_plain() -> None:
    (finding,) = found(Annotated[str, Field(pattern="^[a-z]+$")], "A")
    assert not re.search(r"\^|\[a-z\]|pattern", finding.words)


def test_a_part_is_named_with_what_it_is_of() -> None:
    with pytest.raises(ValidationError) as refused:
        Output.model_validate({"prefix": "s3://b/", "format": "csv"})
    assert describe_invalid(refused.value) == "format: must be 'jsonl' or 'parquet'"
    assert describe_invalid(refused.value, "output") == "output: format: must be 'jsonl' or 'parquet'"
    with pytest.raises(ValidationError) as refused:
        Output.model_validate(7)
    assert describe_invalid(refused.value, "output").startswith("output: must be where results go")
    assert describe_invalid(refused.value).startswith("message: must be where results go")
