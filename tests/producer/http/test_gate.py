"""Who may come in, how much they may send, and how they are refused."""

from collections.abc import Iterator

import pytest

from arno_shared.errors import InvalidRequest
from tests.producer.http.conftest import Open

JOB = {"images": ["s3://photos/a.jpg"], "prompts": ["<OD>"]}


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic c2VzYW1l", "sesame", "Bearer", "Bearer sesam\xe9"])
def test_without_its_token_nobody_comes_in(open_door: Open, header: str | None) -> None:
    client = open_door(tokens=["sesame", "other"], host="0.0.0.0")
    given = {"Authorization": header.encode("latin-1")} if header else {}
    for method, path in (("GET", "/v1/tasks"), ("POST", "/v1/jobs"), ("GET", "/nowhere")):
        answer = client.request(method, path, headers=given)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["type"] == "urn:arno:problem:unauthorized"
    assert client.get("/healthz").status_code == 200
    assert client.head("/v1/events/s3").status_code == 200
    assert "arno_http_requests_total" in client.get("/metrics").text


@pytest.mark.parametrize("token", ["sesame", "other"])
def test_each_token_opens_the_door(open_door: Open, token: str) -> None:
    client = open_door(tokens=["sesame", "other"], host="0.0.0.0")
    assert client.get("/v1/tasks", headers={"Authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize("settings_of_the_door", [{"host": "0.0.0.0"}, {"host": "example.org"}, {"tokens": [" "]}])
def test_a_door_for_everybody_is_not_opened(open_door: Open, settings_of_the_door: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="ARNO_HTTP__TOKENS"):
        open_door(**settings_of_the_door)


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 403)]
)
def test_a_page_elsewhere_cannot_lead_a_browser_here(open_door: Open, host: str, status: int) -> None:
    assert open_door().get("/v1/tasks", headers={"Host": host}).status_code == status


def test_other_origins_are_let_in_only_when_they_are_listed(open_door: Open) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in open_door().options("/v1/jobs", headers=asked).headers
    listed = open_door(cors_origins=["https://app.example"])
    allowed = listed.options("/v1/jobs", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert (
        "access-control-allow-origin"
        not in listed.options("/v1/jobs", headers={**asked, "Origin": "https://x.example"}).headers
    )


def test_a_body_that_is_too_large_is_refused_announced_or_not(open_door: Open) -> None:
    client = open_door(max_body_bytes=1000)

    def unannounced() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    for body in (b" " * 1001, unannounced()):
        answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert client.post("/v1/jobs", json=JOB).status_code == 201


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"images": ["s3://b/\\ud83d"], "prompts": ["<OD>"]}', 422),
        (b'{"images": [], "prompts": ["<OD>"]}', 422),
        (b'{"images": ["s3://b/a"], "prompts": ["<NO>"]}', 422),
        (b'{"images": ["s3://b/a"], "prompts": ["<OD>"], "colour": 1}', 422),
        (b"\xff\xfe", 400),
    ],
)
def test_what_cannot_be_right_is_a_problem_and_no_crash(open_door: Open, body: bytes, status: int) -> None:
    answer = open_door().post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().keys() >= {"type", "title", "status", "detail", "code"}


def test_findings_point_into_the_body(open_door: Open) -> None:
    answer = open_door().post("/v1/jobs", json={"images": ["s3://b/a", 7], "prompts": ["<OD>"]})
    assert answer.json()["errors"][0]["pointer"].startswith("/images/1")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("PUT", "/v1/jobs", 405)])
def test_what_is_not_there_is_a_problem_too(open_door: Open, method: str, path: str, status: int) -> None:
    answer = open_door().request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    if status == 405:
        assert answer.headers["allow"] == "GET, POST"


def test_routes_and_not_paths_are_counted(open_door: Open) -> None:
    client = open_door()
    for number in range(3):
        client.get(f"/v1/jobs/unknown-{number}")
        client.get(f"/nowhere/{number}")
    told = client.get("/metrics").text
    assert 'arno_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="404"} 3.0' in told
    assert 'arno_http_requests_total{method="GET",route="none",status="404"} 3.0' in told
    assert "unknown-1" not in told
