"""A message in a few words says nothing that is anybody's own, whoever sent it."""

from typing import Any

import pytest

from arno_shared.summary import Summary, summary_of

SECRET = "my wife Jane"


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("<OD>", "<OD>"),
        ({"task": "<OCR>"}, "<OCR>"),
        (f"<CAPTION_TO_PHRASE_GROUNDING>{SECRET}", "<CAPTION_TO_PHRASE_GROUNDING>"),
        ({"task": f"<CAPTION_TO_PHRASE_GROUNDING>{SECRET}"}, "<CAPTION_TO_PHRASE_GROUNDING>"),
        ({"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": SECRET}, "<CAPTION_TO_PHRASE_GROUNDING>"),
        (f" <CAPTION_TO_PHRASE_GROUNDING>{SECRET}", "?"),
        (f"<caption>{SECRET}", "?"),
        (SECRET, "?"),
        ({"task": SECRET}, "?"),
        ({"text": SECRET}, "?"),
        ({"raw": SECRET}, "raw"),
        ({"raw": f"<OD>{SECRET}", "parse": "boxes"}, "raw"),
        ({"task": "<OD>", "raw": None}, "<OD>"),
        ([SECRET], "?"),
        (7, "?"),
        (None, "?"),
    ],
)
def test_of_a_prompt_its_task_alone_is_shown(prompt: Any, shown: str) -> None:
    message = {"images": ["s3://b/a.jpg"], "prompts": [prompt, "<OD>"]}
    for args, kwargs in (((), message), ((message,), {}), ((message["images"], message["prompts"]), {})):
        summary = summary_of(args, kwargs)
        assert summary.prompts == f"{shown} <OD>"
        assert not any(word in str(summary) for word in SECRET.split())


@pytest.mark.parametrize(
    ("message", "summary"),
    [
        ({}, "job=- chunk=- images=0 prompts="),
        ({"images": "s3://b/a.jpg?key=hush", "prompts": "<OD>"}, "job=- chunk=- images=1 prompts=<OD>"),
        ({"job_id": "run-7", "index": 12, "images": [1, 2]}, "job=run-7 chunk=12 images=2 prompts="),
        ({"job_id": "run-7", "index": 0, "attempt": 3}, "job=run-7 chunk=0.3 images=0 prompts="),
        ({"job_id": "a b\nc/d", "index": [1]}, "job=a?b?c?d chunk=? images=0 prompts="),
        ({"job_id": "j" * 1000}, f"job={'j' * 80} chunk=- images=0 prompts="),
        ({"prompts": ["<OD>"] * 1000}, f"job=- chunk=- images=0 prompts={('<OD> ' * 40)[:200]}"),
    ],
)
def test_whatever_was_sent_it_has_a_summary_that_can_be_read_again(message: dict[str, Any], summary: str) -> None:
    written = summary_of((), message)
    assert str(written) == summary
    assert Summary.read(f"celery says: {summary}") == written


def test_what_is_no_summary_is_not_read_as_one() -> None:
    assert Summary.read("((), {})") is None
