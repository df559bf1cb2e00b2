"""The door does what its OpenAPI document says, whatever it is asked."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import positive_data_acceptance

from tests.producer.http.conftest import Open

# Pictures that nobody answers are a 504 that is meant, which a check would take for a crash.
_SERVER_ERRORS_THAT_ARE_MEANT = {502, 504}


@pytest.fixture
def described(open_door: Open) -> schemathesis.BaseSchema:
    app = open_door(annotate_timeout_s=0.05).app
    return schemathesis.openapi.from_asgi("/openapi.json", app)


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_every_answer_is_described(case: schemathesis.Case) -> None:
    response = case.call(headers={"Host": "localhost"})
    # What is well-formed may still be impossible, as a region that is inside out, and is answered with 422.
    excluded = [positive_data_acceptance]
    if response.status_code in _SERVER_ERRORS_THAT_ARE_MEANT:
        excluded.append(schemathesis.checks.not_a_server_error)
    case.validate_response(response, excluded_checks=excluded)


def test_problems_are_described_and_fastapis_own_are_not(open_door: Open) -> None:
    document = open_door().get("/openapi.json").json()
    assert "ProblemDocument" in document["components"]["schemas"]
    assert "HTTPValidationError" not in str(document)
    for path in document["paths"].values():
        for operation in path.values():
            assert {"401", "403", "500", "503"} <= operation["responses"].keys()
