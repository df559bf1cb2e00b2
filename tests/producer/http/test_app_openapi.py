"""The door does what its OpenAPI document says, whatever it is asked."""

from contextlib import suppress
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error, positive_data_acceptance

from tests.producer.http.conftest import Open

# Pictures that nobody answers are a 504 that is meant, which a check would take for a crash.
_SERVER_ERRORS_THAT_ARE_MEANT = {502, 504}

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


def test_every_answer_is_described(open_door: Open) -> None:
    app = open_door(annotate_timeout_s=0.05).app
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
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
    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def asked(case: schemathesis.Case) -> None:
        response = case.call(headers={"Host": "localhost"})
        # What is well-formed may still be impossible, as a region that is inside out, and is answered with 422.
        excluded = [positive_data_acceptance]
        if response.status_code in _SERVER_ERRORS_THAT_ARE_MEANT:
            excluded.append(not_a_server_error)
        case.validate_response(response, excluded_checks=excluded)

    asked()


def test_problems_are_described_and_fastapis_own_are_not(open_door: Open) -> None:
    document = open_door().get("/openapi.json").json()
    assert "ProblemDocument" in document["components"]["schemas"]
    assert "HTTPValidationError" not in str(document)
    for path in document["paths"].values():
        for operation in path.values():
            assert {"401", "403", "500", "503"} <= operation["responses"].keys()
