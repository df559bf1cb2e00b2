"""What is said to whoever asks for what cannot be: one sentence for each field that is wrong, and where it stands."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from fastapi.testclient import TestClient

from arno_producer import Producer
from arno_producer.manifest import Manifest
from arno_shared.errors import InvalidRequest, StorageRefused
from arno_shared.settings import Settings
from tests.producer.conftest import Hand, Ran
from tests.producer.http.conftest import Open
from tests.shared.storage.s3_stub import S3Stub

JOB: dict[str, Any] = {"images": ["s3://photos/a.jpg"], "prompts": ["<OD>"]}
ONE: dict[str, Any] = {"image": "s3://photos/a.jpg", "prompts": ["<OD>"]}
PICTURE = ("image", ("a.png", b"\x89PNG", "image/png"))
NO_FIELD = "there is no such field: correct its name, or leave it out"
NO_TASK = "'<ODD>' is not a task of Florence-2; the tasks are <CAPTION>, "
NO_JOB_ID = "a job id has 1 to 128 letters, digits, '.', '_' or '-', and starts with a letter or a digit"
NO_KEY = "an Idempotency-Key has 1 to 255 characters of ASCII that can be seen, and no spaces"
INSIDE_OUT = "a region is (x1, y1, x2, y2) in pixels with x1 < x2 and y1 < y2"
GROUND = "<CAPTION_TO_PHRASE_GROUNDING>"
INSIDES = re.compile(r"constrained|function-|Value error|Input should|pattern|\^|pydantic|valid dictionary|validation")
"""Of the validator: nobody is told of them."""


def is_one_finding(answer: Any, pointer: str, words: str) -> None:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert [finding["pointer"] for finding in said["errors"]] == [pointer], said
    (finding,) = said["errors"]
    assert finding["detail"].startswith(words), said
    assert said["detail"].endswith(finding["detail"])
    assert not INSIDES.search(answer.text), answer.text


@pytest.mark.parametrize(
    ("wrong", "pointer", "words"),
    [
        ({"prompts": ["<ODD>"]}, "/prompts/0", NO_TASK),
        ({"prompts": ["<OD>", {"task": "<ODD>"}]}, "/prompts/1", NO_TASK),
        ({"prompts": ["x" * 4000]}, "/prompts/0", f"'{'x' * 80}' is not a task"),
        ({"prompts": [f"{GROUND}{'a' * 4097}"]}, "/prompts/0", "must have at most 4096 characters"),
        ({"prompts": [f"{GROUND}a <OD>"]}, "/prompts/0", f"{GROUND} takes a text, but the text given holds"),
        ({"prompts": ["<OD>a car"]}, "/prompts/0", "<OD> takes nothing beside the picture, but a text was given"),
        ({"prompts": [7]}, "/prompts/0", 'must be a task, as "<OD>", or an object with one in `task`'),
        ({"prompts": [{"text": "a"}]}, "/prompts/0", "name a task in `task`"),
        ({"prompts": [{"raw": "what?", "task": "<OD>"}]}, "/prompts/0", "`raw` is all that the model is asked"),
        ({"prompts": [{"raw": "what?", "parse": "ocr"}]}, "/prompts/0/parse", "must be 'text', 'boxes', "),
        ({"prompts": ["<CAPTOIN>"]}, "/prompts/0", "'<CAPTOIN>' is not a task"),
        ({"prompts": [{"task": "<OD>", "txt": "a"}]}, "/prompts/0/txt", NO_FIELD),
        ({"prompts": [{"task": "<REGION_TO_OCR>", "region": [9, 2, 3, 4]}]}, "/prompts/0/region", INSIDE_OUT),
        ({"prompts": [{"task": "<REGION_TO_OCR>", "region": "all"}]}, "/prompts/0/region", "must be a list"),
        ({"prompts": [{"task": "<REGION_TO_OCR>", "region": [1, 2, 3, "x"]}]}, "/prompts/0/region/3", "must be a num"),
        ({"prompts": []}, "/prompts", "must not be empty"),
        ({"prompts": ["<OD>"] * 65}, "/prompts", "must have at most 64 items"),
        ({"prompts": "<OD>"}, "/prompts", "must be a list"),
        ({"images": []}, "/images", "must not be empty"),
        ({"images": [""]}, "/images/0", "must not be empty"),
        ({"images": ["s3://b/a", 7]}, "/images/1", "must be the URI of an image, or an object with it in `uri`"),
        ({"images": [{"uri": "s3://b/a", "etga": "x"}]}, "/images/0/etga", NO_FIELD),
        ({"images": [{"uri": "", "id": "x"}]}, "/images/0/uri", "must not be empty"),
        ({"images": ["s3://b/" + "a" * 9000]}, "/images/0", "must have at most 8192 characters"),
        ({"images": ["s3://b/\ud83d"]}, "/images/0", "must be a text, and holds half of a character"),
        ({"output": "ftp://x"}, "/output", "results go to s3:// or file://, not to ftp://"),
        ({"output": "s3://b/../x/"}, "/output", "an output prefix has no '.', no '..' and no empty names"),
        ({"output": 42}, "/output", 'must be where results go, as "s3://bucket/prefix/"'),
        ({"output": {"prefix": "s3://b/x/", "format": "csv"}}, "/output/format", "must be 'jsonl' or 'parquet'"),
        ({"output": {"prefix": "s3://b/x/", "inline": "perhaps"}}, "/output/inline", "must be true or false"),
        ({"generation": {"num_beams": 0}}, "/generation/num_beams", "must be at least 1"),
        ({"generation": {"num_beams": 99}}, "/generation/num_beams", "must be at most 16"),
        ({"generation": {"num_beams": "three"}}, "/generation/num_beams", "must be a whole number"),
        ({"generation": {"num_beams": 1.5}}, "/generation/num_beams", "must be a whole number"),
        ({"generation": {"num_beams": True}}, "/generation/num_beams", "must be a number, and not true or false"),
        ({"generation": "greedy"}, "/generation", "must be an object"),
        ({"lane": "fast"}, "/lane", "'fast' is not a lane; the lanes are interactive, bulk"),
        ({"job_id": "../x"}, "/job_id", NO_JOB_ID),
        ({"job_id": ""}, "/job_id", NO_JOB_ID),
        ({"a/b~c": 1}, "/a~1b~0c", NO_FIELD),
    ],
)
def test_a_field_of_a_job_that_is_wrong_is_one_finding(
    client: TestClient, wrong: dict[str, Any], pointer: str, words: str
) -> None:
    body = json.dumps({**JOB, **wrong})
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    is_one_finding(answer, pointer, words)
    assert client.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    ("wrong", "pointer", "words"),
    [
        ({"prompts": ["<ODD>"]}, "/prompts/0", NO_TASK),
        ({"image": ""}, "/image", "must not be empty"),
        ({"image": 7}, "/image", "must be the URI of an image, or an object with it in `uri`"),
        ({"timeout_s": 0}, "/timeout_s", "must be more than 0"),
        ({"timeout_s": 601}, "/timeout_s", "must be at most 600"),
        ({"timeout_s": "soon"}, "/timeout_s", "must be a number"),
        ({"timeout_s": True}, "/timeout_s", "must be a number, and not true or false"),
        ({"colour": "red"}, "/colour", NO_FIELD),
    ],
)
def test_a_field_of_a_picture_that_is_wrong_is_one_finding(
    client: TestClient, wrong: dict[str, Any], pointer: str, words: str
) -> None:
    is_one_finding(client.post("/v1/annotate", json={**ONE, **wrong}), pointer, words)


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"prompts": "<ODD>"}, "/prompts/0", NO_TASK),
        ({"prompts": ["<OD>", "<ODD>"]}, "/prompts/1", NO_TASK),
        ({"prompts": '["<OD>", "<ODD>"]'}, "/prompts/1", NO_TASK),
        ({"prompts": '{"task": "<OD>", "txt": "a"}'}, "/prompts/0/txt", NO_FIELD),
        ({}, "/prompts", "is missing"),
        ({"prompts": "<OD>", "timeout_s": "soon"}, "/timeout_s", "must be a number"),
        ({"prompts": "<OD>", "generation": "{}"}, "/generation", NO_FIELD),
        ({"prompts": "<OD>", "colour": "red"}, "/colour", NO_FIELD),
    ],
)
def test_a_field_of_a_form_that_is_wrong_is_one_finding(
    client: TestClient, fields: dict[str, Any], pointer: str, words: str
) -> None:
    is_one_finding(client.post("/v1/annotate", data=fields, files=[PICTURE]), pointer, words)


def test_a_form_holds_one_picture_that_is_not_empty(client: TestClient) -> None:
    fields = {"prompts": "<OD>"}
    empty = client.post("/v1/annotate", data=fields, files=[("image", ("a.png", b"", "image/png"))])
    is_one_finding(empty, "/image", "the file is empty")
    text = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\ns3://b/a\r\n--x--\r\n'
    answer = client.post("/v1/annotate", content=text, headers={"Content-Type": "multipart/form-data; boundary=x"})
    is_one_finding(answer, "/image", "must be a file: the picture")
    two = client.post("/v1/annotate", data=fields, files=[PICTURE, PICTURE])
    none = client.post("/v1/annotate", content=b"x", headers={"Content-Type": "multipart/form-data"})
    for answer, why in ((two, "Too many files. Maximum number of files is 1"), (none, "Missing boundary in multipart")):
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
        assert answer.json()["detail"] == f"the form cannot be read: it holds one file, `image`, and texts ({why})"


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/annotate", "/v1/events/s3"])
@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"images": [\n  "s3://b/a",]}', "expecting value (line 2, column 14)"),
        (b"{", "expecting property name enclosed in double quotes (line 1, column 2)"),
        (b'{"images": "\xe9"}', "byte 13 is not UTF-8"),
        (b"[" * 100_000, "it is nested too deeply to be read"),
        (b'{"timeout_s": NaN}', "it has no NaN"),
        (b"1" * 5000, "a number in it has too many digits"),
    ],
)
def test_a_body_that_is_no_json_is_told_where(client: TestClient, path: str, body: bytes, why: str) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json()["detail"] == f"the body is not JSON that can be read: {why}"


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/annotate", "/v1/events/s3"])
def test_a_body_of_another_kind_is_told_which(client: TestClient, path: str) -> None:
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {}):
        answer = client.post(path, content=b'{"images": []}', headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
        assert "application/json" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/annotate", "/v1/events/s3"])
@pytest.mark.parametrize(("body", "words"), [(b'"x"', "must be an "), (b"", "is missing")])
def test_a_body_that_is_wrong_as_a_whole_is_pointed_to_as_a_whole(
    client: TestClient, path: str, body: bytes, words: str
) -> None:
    is_one_finding(client.post(path, content=body, headers={"Content-Type": "application/json"}), "", words)


@pytest.mark.parametrize(
    ("method", "path", "headers", "where", "words"),
    [
        ("GET", "/v1/jobs?limit=0", {}, "limit", "must be at least 1"),
        ("GET", "/v1/jobs?limit=ten", {}, "limit", "must be a whole number"),
        ("GET", "/v1/jobs/run-7/results?limit=10001", {}, "limit", "must be at most 10000"),
        ("GET", "/v1/jobs/run-7/results?cursor=x", {}, "cursor", "this cursor was not made by a page of results"),
        ("GET", "/v1/jobs/-run", {}, "job_id", NO_JOB_ID),
        ("POST", f"/v1/jobs/{'a' * 129}/cancel", {}, "job_id", NO_JOB_ID),
        ("GET", "/v1/jobs/run-7/events", {"Last-Event-ID": "last"}, "Last-Event-ID", "must be the id of an event"),
        ("POST", "/v1/jobs", {"Idempotency-Key": "order 66"}, "Idempotency-Key", NO_KEY),
        ("POST", "/v1/jobs", {"Idempotency-Key": "x" * 256}, "Idempotency-Key", NO_KEY),
        ("POST", "/v1/jobs", {"Idempotency-Key": ""}, "Idempotency-Key", NO_KEY),
    ],
)
def test_a_parameter_that_is_wrong_is_one_finding(
    client: TestClient, method: str, path: str, headers: dict[str, str], where: str, words: str
) -> None:
    is_one_finding(client.request(method, path, headers=headers, json=JOB), where, words)


def test_each_field_that_is_wrong_is_named(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json={"images": [7, ""], "prompts": ["<ODD>"], "lane": "fast"})
    pointers = [finding["pointer"] for finding in answer.json()["errors"]]
    assert pointers == ["/images/0", "/images/1", "/prompts/0", "/lane"]


@pytest.mark.parametrize(
    "body",
    [
        {**JOB, "output": "https://me:hunter2@results/?token=hunter2"},
        {**JOB, "output": {"prefix": "s3://b/x/", "format": "hunter2"}},
        {**JOB, "images": [{"uri": "https://h/a.jpg?sig=hunter2", "id": 7}]},
        {**JOB, "job_id": "https://h/?sig=hunter2"},
    ],
)
def test_secrets_are_not_echoed(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert "hunter2" not in answer.text


def test_half_a_character_in_a_name_breaks_nothing(client: TestClient) -> None:
    for path, body in (("/v1/jobs", b'{"\\ud83d": 1}'), ("/v1/annotate", b'{"\\ud83d": 1}')):
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


@pytest.mark.parametrize(
    ("asked", "options", "words"),
    [
        ({"prompts": ["<ODD>"]}, ("-p", "<ODD>"), NO_TASK),
        ({"prompts": [f"{GROUND} "]}, ("-p", f"{GROUND} "), f"{GROUND} takes a text, but none was given"),
        ({"output": "ftp://x"}, ("--output", "ftp://x"), "results go to s3:// or file://, not to ftp://"),
        ({"output": "s3://b/a//x"}, ("--output", "s3://b/a//x"), "an output prefix has no '.', no '..'"),
        (
            {"output": "s3://no-such-bucket/x/"},
            ("--output", "s3://no-such-bucket/x/"),
            "results cannot go to s3://no-such-bucket/x/: there is no bucket 'no-such-bucket' at http://",
        ),
        ({"generation": {"num_beams": 0}}, ("--num-beams", "0"), "must be at least 1"),
        ({"generation": {"max_new_tokens": 9999}}, ("--max-new-tokens", "9999"), "must be at most 4096"),
        ({"job_id": "../x"}, ("--job-id", "../x"), NO_JOB_ID),
    ],
)
@pytest.mark.usefixtures("moto_s3")
def test_all_ways_in_say_it_in_the_same_words(
    client: TestClient,
    producer: Producer,
    arno: Callable[..., Ran],
    asked: dict[str, Any],
    options: tuple[str, ...],
    words: str,
) -> None:
    (finding,) = client.post("/v1/jobs", json={**JOB, **asked}).json()["errors"]
    assert finding["detail"].startswith(words)
    with pytest.raises(InvalidRequest) as refused:
        producer.submit(**{**JOB, **asked})
    assert str(refused.value).endswith(finding["detail"])
    ran = arno("submit", "s3://photos/a.jpg", *(() if options[0] == "-p" else ("-p", "OD")), *options)
    assert (ran.code, ran.err.rstrip().endswith(finding["detail"])) == (2, True), ran.err


# Where results go


@pytest.fixture
def stub(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Stub]:
    with S3Stub() as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        yield stub


@pytest.mark.usefixtures("moto_s3")
def test_a_bucket_that_does_not_exist_is_the_callers_mistake_and_leaves_no_job(client: TestClient, hand: Hand) -> None:
    for output in ("s3://no-such-bucket/x/", {"prefix": "s3://no-such-bucket/x/", "inline": True}):
        answer = client.post("/v1/jobs", json={**JOB, "output": output, "job_id": "run-7"})
        is_one_finding(answer, "/output", "results cannot go to s3://no-such-bucket/x/: there is no bucket")
        assert answer.json()["code"] == "output_refused"
    assert client.get("/v1/jobs/run-7").status_code == 404
    assert client.get("/v1/jobs").json()["jobs"] == []
    assert hand.take_all() == []


@pytest.mark.parametrize("denied", ["read_status", "put_status"])
def test_a_bucket_that_may_not_be_used_is_the_callers_mistake(client: TestClient, stub: S3Stub, denied: str) -> None:
    setattr(stub, denied, 403)
    is_one_finding(
        client.post("/v1/jobs", json={**JOB, "output": "s3://theirs/x/"}), "/output", "results cannot go to s3://theirs"
    )


@pytest.mark.usefixtures("moto_s3")
def test_a_house_without_its_bucket_is_the_houses_trouble(settings: Settings) -> None:
    from arno_producer.http.app import door

    own = settings.model_copy(update={"output_prefix": "s3://no-such-house/out/"})
    client = TestClient(door(Producer(own)), base_url="http://localhost")
    upload = {"data": {"prompts": "<OD>"}, "files": [PICTURE]}
    for path, given in (
        ("/v1/jobs", {"json": JOB}),
        ("/v1/jobs", {"json": {**JOB, "output": "s3://no-such-house/out/mine/"}}),
        ("/v1/annotate", upload),
    ):
        answer = client.post(path, **given)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["code"]) == (502, "storage_refused")
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("status", "code"), [(401, "credentials_refused"), (503, "house_unavailable")])
def test_storage_that_is_wrong_or_away_is_the_houses_trouble(
    client: TestClient, stub: S3Stub, status: int, code: str
) -> None:
    stub.read_status = status
    answer = client.post("/v1/jobs", json={**JOB, "output": "s3://theirs/x/"})
    assert (answer.status_code, answer.json()["code"]) == (502 if status == 401 else 503, code)
    assert ("retry-after" in answer.headers) == (status == 503)


def test_redis_that_refuses_is_the_houses_trouble_and_not_to_be_tried_at_once(
    client: TestClient, producer: Producer
) -> None:
    producer.redis.execute_command("ACL", "SETUSER", "default", "-@scripting")
    try:
        answer = client.post("/v1/jobs", json=JOB)
    finally:
        producer.redis.execute_command("ACL", "SETUSER", "default", "+@all")
    assert (answer.status_code, answer.json()["code"]) == (503, "redis_refused")
    assert "retry-after" not in answer.headers
    assert "ACL SETUSER" in answer.json()["detail"]


def test_a_job_that_is_refused_halfway_does_not_run_on(
    client: TestClient, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanished(*_: object) -> None:
        raise StorageRefused(f"there is no bucket {bucket!r}")

    mine = {**JOB, "output": f"s3://{bucket}/x/", "job_id": "run-7"}
    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "keep_block", vanished)
        for asked in ({**JOB, "output": f"s3://{bucket}/y/"}, mine):
            answer = client.post("/v1/jobs", json=asked)
            is_one_finding(answer, "/output", f"results cannot go to {asked['output']}: there is no bucket")
    # Whoever knows its id may come again.
    assert [job["state"] for job in client.get("/v1/jobs").json()["jobs"]] == ["running", "cancelled"]
    assert client.post("/v1/jobs", json=mine).status_code == 200
    assert client.get("/v1/jobs/run-7").json()["sealed"]


def test_results_whose_bucket_has_vanished_are_gone(client: TestClient, bucket: str, hand: Hand) -> None:
    view = client.post("/v1/jobs", json={**JOB, "output": f"s3://{bucket}/x/"}).json()
    hand.commit(hand.take_all()[0])
    assert client.get(view["links"]["results"]).status_code == 200
    emptied = boto3.resource("s3").Bucket(bucket)
    emptied.objects.all().delete()
    emptied.delete()
    answer = client.get(view["links"]["results"])
    assert (answer.status_code, answer.json()["code"]) == (410, "results_gone")
    assert f"s3://{bucket}/x/part-000000000.jsonl" in answer.json()["detail"]


@pytest.mark.parametrize(("status", "answered"), [(403, 403), (503, 503)])
def test_results_that_cannot_be_read_are_nobodys_bad_request(
    client: TestClient, stub: S3Stub, hand: Hand, status: int, answered: int
) -> None:
    view = client.post("/v1/jobs", json={**JOB, "output": "s3://theirs/x/"}).json()
    hand.commit(hand.take_all()[0])
    stub.read_status = status
    answer = client.get(view["links"]["results"])
    assert (answer.status_code, answer.headers["content-type"]) == (answered, "application/problem+json")
    assert "s3://theirs/x/part-000000000.jsonl" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/nowhere", 404, "there is nothing at this path: /openapi.json lists what there is"),
        ("PUT", "/v1/jobs", 405, "PUT is not allowed at this path; allowed is GET, POST"),
    ],
)
def test_what_is_not_there_is_said_in_words(open_door: Open, method: str, path: str, status: int, words: str) -> None:
    answer = open_door().request(method, path)
    assert (answer.status_code, answer.json()["detail"]) == (status, words)
