"""What a key stands for."""

from typing import Any

from arno_producer.http.requests import JobRequest


def sha256_of(*prompts: Any) -> str:
    asked = {"images": ["s3://photos/a.jpg"], "prompts": list(prompts), "lane": "interactive"}
    return JobRequest.model_validate(asked).sha256()


def test_a_request_for_tasks_is_the_same_as_it_ever_was() -> None:
    """Or a key that was used before an upgrade would be refused after it."""
    car, region = "<CAPTION_TO_PHRASE_GROUNDING>a red car", {"task": "<REGION_TO_OCR>", "region": [1, 2, 3, 4]}
    assert sha256_of("<OD>", car, region) == "fe4fba0531fc5294578d36ec494027adff1d39ce0534cc4569e3ea43dd6c5cb9"


def test_requests_for_other_sentences_or_kinds_are_others() -> None:
    asked = sha256_of({"raw": "what?"})
    assert sha256_of({"raw": "what?", "parse": "text"}) == asked
    assert asked not in (sha256_of({"raw": "what? "}), sha256_of({"raw": "what?", "parse": "boxes"}))
