"""Which objects a rule is for, and which are never anybody's."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from arno_producer.triggers.rules import LoopGuard, Rule, load_rules
from arno_shared.errors import InvalidRequest
from arno_shared.messages import Prompt
from arno_shared.names import Lane
from arno_shared.prompts import Answer


def rule(**fields: Any) -> Rule:
    return Rule.model_validate({"name": "a", "prompts": "<OD>", "output": "s3://results/out/", **fields})


@pytest.mark.parametrize(
    ("fields", "key", "matches"),
    [
        ({}, "a.jpg", True),
        ({"bucket": "photos"}, "a.jpg", True),
        ({"bucket": "photo"}, "a.jpg", False),
        ({"prefix": "2026/"}, "2026/a.jpg", True),
        ({"prefix": "2026/"}, "old/2026/a.jpg", False),
        ({"suffix": ".jpg"}, "a.JPG", True),
        ({"suffix": ".JPG"}, "a.jpg", True),
        ({"suffix": [".png", ".jpg"]}, "a.jpg", True),
        ({"suffix": ".jpg"}, "a.jpg.txt", False),
        ({"prefix": "a", "suffix": ".png"}, "a.jpg", False),
    ],
)
def test_a_rule_is_for_objects_of_its_bucket_prefix_and_suffix(fields: Any, key: str, matches: bool) -> None:
    assert rule(**fields).matches("photos", key) is matches


def test_a_rule_may_ask_a_fine_tunes_own_prompts(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(
        '[[rule]]\nname = "a"\noutput = "s3://results/out/"\n'
        'prompts = ["<OCR>", {raw = "<DocVQA>What is the date?"}, {raw = "where?", parse = "boxes"}]\n'
    )
    (rule,) = load_rules(file)
    own = Prompt(raw="<DocVQA>What is the date?"), Prompt(raw="where?", parse=Answer.BOXES)
    assert rule.prompts == (Prompt(task="<OCR>"), *own)
    file.write_text(file.read_text().replace("boxes", "ocr"))
    with pytest.raises(InvalidRequest, match=r"rule 1 \(a\): prompts.2.parse: must be 'text', 'boxes'"):
        load_rules(file)


def test_work_of_events_goes_behind_what_people_wait_for_unless_the_rule_says_otherwise() -> None:
    assert rule().lane is Lane.BULK


@pytest.mark.parametrize(
    ("fields", "watches"),
    [
        ({"bucket": "results"}, True),
        ({"bucket": "results", "prefix": "out/"}, True),
        ({"bucket": "results", "prefix": "in/"}, False),
        ({"bucket": "results", "suffix": ".jpg"}, False),
        ({"bucket": "results", "suffix": ".jsonl"}, True),
        ({"bucket": "photos"}, False),
        # Which buckets send events is not known: it is no mistake yet.
        ({}, False),
        ({"bucket": "results", "output": "file:///results/"}, False),
    ],
)
def test_a_rule_knows_whether_it_watches_the_place_of_its_results(fields: Any, watches: bool) -> None:
    assert rule(**fields).watches_its_output is watches


@pytest.mark.parametrize(
    ("bucket", "key", "held"),
    [
        ("results", "out/a.jpg", True),
        ("results", "outside/a.jpg", False),
        ("photos", "out/a.jpg", False),
        ("all", "a.jpg", True),
        ("photos", "part-000000012.jsonl", True),
        ("photos", "a/_arno/job.json", True),
        ("photos", "part.jsonl", False),
    ],
)
def test_what_lies_below_results_or_is_named_as_results_are_is_held_back(bucket: str, key: str, held: bool) -> None:
    assert LoopGuard(["s3://results/out/", "file:///photos/", "s3://all/"]).holds_back(bucket, key) is held


@pytest.mark.parametrize(("name", "right"), [("a" * 64, True), ("a" * 65, False), ("", False), ("-a", False)])
def test_names_of_rules_are_short_enough_for_what_is_named_after_them(name: str, right: bool) -> None:
    if right:
        assert rule(name=name).name == name
    else:
        with pytest.raises(ValidationError, match="1 to 64 letters"):
            rule(name=name)
