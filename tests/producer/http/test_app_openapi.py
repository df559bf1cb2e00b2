"""The door does what its OpenAPI document says, whatever it is asked."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator
from schemathesis.checks import negative_data_rejection, not_a_server_error, positive_data_acceptance

from arno_shared.names import Lane
from tests.producer.conftest import Hand
from tests.producer.http.conftest import Open

BEYOND_JSON_SCHEMA = (
    # No two numbers of a list can be compared.
    (r"/prompts/\d+(/region)?", "with x1 < x2 and y1 < y2"),
    # Patterns that every validator reads cannot look ahead.
    (r"/prompts/\d+(/text)?", "holds the task prompt"),
    (r"/output(/prefix)?", "there is no bucket"),
    # Of a place: bytes, which are not characters; dots, which patterns could tell apart by looking ahead alone.
    (r"/output(/prefix)?", "an output prefix has"),
)
"""Where, and in which words, a request is refused that its schema admits."""

OPERATIONS = (
    "POST /v1/jobs",
    "GET /v1/jobs",
    "GET /v1/jobs/{job_id}",
    "GET /v1/jobs/{job_id}/results",
    "GET /v1/jobs/{job_id}/events",
    "POST /v1/jobs/{job_id}/cancel",
    "POST /v1/jobs/{job_id}/pause",
    "POST /v1/jobs/{job_id}/resume",
    "POST /v1/annotate",
    "GET /v1/tasks",
    "POST /v1/events/s3",
)


@pytest.fixture
def answered(hand: Hand) -> Iterator[None]:
    """Single pictures are done at once."""
    stopped = Event()

    def work() -> None:
        while not stopped.wait(0.002):
            for chunk in hand.take_all(Lane.INTERACTIVE):
                if str(hand.begin(chunk)) == "go":
                    hand.commit(chunk)

    thread = Thread(target=work)
    thread.start()
    yield
    stopped.set()
    thread.join()


@pytest.mark.usefixtures("answered", "moto_s3")
def test_every_answer_is_described(open_door: Open, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nname = "all"\nprompts = ["<OD>"]\noutput = "s3://results/"\n')
    schema = schemathesis.openapi.from_asgi("/openapi.json", open_door(rules=rules).app)
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        answer(operation, schemathesis.GenerationMode.POSITIVE)
        # Where nothing is said, nothing can be said wrongly.
        with suppress(Unsatisfiable):
            answer(operation, schemathesis.GenerationMode.NEGATIVE)
        tried += 1
    assert tried == len(OPERATIONS)


def answer(operation: Any, mode: schemathesis.GenerationMode) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def asked(case: schemathesis.Case) -> None:
        response = case.call(headers={"Host": "localhost"})
        case.validate_response(response, excluded_checks=excused(case, response))

    asked()


def excused(case: schemathesis.Case, response: schemathesis.Response) -> list[Any]:
    """The checks that this answer need not pass."""
    said = response.json() if response.status_code >= 400 else {}
    if said.get("errors") and all(is_beyond_json_schema(**finding) for finding in said["errors"]):
        return [positive_data_acceptance]
    if said.get("code") == "idempotency_key_reused":
        # By the request before, which was another.
        return [positive_data_acceptance]
    if said.get("code") == "bad_event":
        # What an event holds is up to whoever sends it: the schema says that it is an object, or some.
        return [positive_data_acceptance]
    if said.get("code") == "not_in_time" and case.body.get("timeout_s", 30) < 1:
        # It was asked for sooner than anybody could answer.
        return [not_a_server_error]
    if response.status_code == 200 and case.media_type == "multipart/form-data" and is_what_the_form_takes(case):
        # What Schemathesis has changed beside bytes it takes for wrong, and does not look whether it is.
        return [negative_data_rejection]
    return []


def is_what_the_form_takes(case: schemathesis.Case) -> bool:
    body = case.operation.schema.raw_schema["paths"]["/v1/annotate"]["post"]["requestBody"]
    form = Draft202012Validator(body["content"][case.media_type]["schema"])
    # Bytes of Schemathesis' own kind, which count as empty whatever they hold.
    image = getattr(case.body["image"], "data", case.body["image"])
    return bool(form.is_valid({**case.body, "image": "bytes" if image else ""}))


def is_beyond_json_schema(pointer: str, detail: str) -> bool:
    return any(re.fullmatch(place, pointer) and words in detail for place, words in BEYOND_JSON_SCHEMA)


def test_problems_are_described_and_fastapis_own_are_not(open_door: Open) -> None:
    document = open_door().get("/openapi.json").json()
    assert "ProblemDocument" in document["components"]["schemas"]
    assert "HTTPValidationError" not in str(document)
    for path in document["paths"].values():
        for operation in path.values():
            assert {"401", "403", "500", "503"} <= operation["responses"].keys()
