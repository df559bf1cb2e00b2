"""Where results go is said by strangers: what is taken is written there and nowhere else, what is not is told."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from arno_producer import Producer
from arno_shared.controls import escape_controls, has_controls
from arno_shared.errors import InvalidMessage, InvalidRequest
from arno_shared.messages import MAX_CHUNKS, parse_message
from arno_shared.names import check_job_id, job_record_uri, manifest_uri, part_uri
from arno_shared.settings import Settings
from arno_shared.storage import ObjectStore
from arno_shared.uris import check_output_prefix, file_uri, path_of, split_s3
from tests.servers import make_bucket

patient = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])

CONTROLS = "control or format characters"
NAMES = "no empty names"
LENGTH = "at most"

REFUSED = {
    "s3://results/../up/": NAMES,
    "s3://results/a/../../up/": NAMES,
    "s3://results/..": NAMES,
    "s3://results/./a/": NAMES,
    "s3://results//a/": NAMES,
    "s3://results/a//b/": NAMES,
    "s3://results/a//": NAMES,
    "s3://results//": NAMES,
    "file:///results/../up/": NAMES,
    "file:///results/%2e%2e/up/": NAMES,
    "file:///results/.%2E/up/": NAMES,
    "file:///results%2f..%2fup/": NAMES,
    "file:///results/%2Fetc/": NAMES,
    "file:///../etc/": NAMES,
    "file:///results/./a/": NAMES,
    "file:////etc/": NAMES,
    "file://localhost//etc/": NAMES,
    "s3://results/a\n/": CONTROLS,
    "s3://results/a\r\nX-Evil: 1/": CONTROLS,
    "s3://results/a\tb/": CONTROLS,
    "s3://results/a\x1b[2J/": CONTROLS,
    "s3://results/a\x7f/": CONTROLS,
    "s3://results/a\x9b2J/": CONTROLS,
    "s3://results/a\0/": CONTROLS,
    "s3://results/\u202egpj.a/": CONTROLS,
    "s3://results/a\u2066b/": CONTROLS,
    "s3://results/a\u200bb/": CONTROLS,
    "s3://results/\ufeffa/": CONTROLS,
    "s3://results/a\u2028b/": CONTROLS,
    "s3://results/a\ud800/": CONTROLS,
    "s3://results/a\U000e0041/": CONTROLS,
    "file:///results/a%0ab/": CONTROLS,
    "file:///results/%1B[2J/": CONTROLS,
    "file:///results/%7f/": CONTROLS,
    "file:///results/%E2%80%AEgpj/": CONTROLS,
    "file:///results/a\ud800/": CONTROLS,
    r"s3://results/..\up/": "backslashes",
    r"s3://results/a\b/": "backslashes",
    r"file:///results/..\..\up/": "backslashes",
    "file:///results/..%5cup/": "backslashes",
    "file:///results/a%00/": "not a file path",
    r"file://\\host\share/": "three slashes",
    "file://../etc/": "three slashes",
    r"s3://results\..\up/": "bucket's name",
    "s3://results\n/a/": "bucket's name",
    "s3://../a/": "bucket's name",
    "s3://user:hunter2@results/a/": "bucket's name",
    "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint:a/b/": "bucket's name",
    "s3://a--use1-az1--x-s3/b/": "bucket's name",
    "ftp://results/a/": "not to ftp://",
    "x" * 5000 + "://results/a/": "not to x",
    "../results/": "not a URI",
    "/results/": "not a URI",
    "": "not a URI",
    f"s3://results/{'a' * 960}/": LENGTH,
    f"s3://results/{'é' * 480}/": LENGTH,
    f"file:///{'a' * 256}/": LENGTH,
    f"file:///{'é' * 128}/": LENGTH,
    f"file:///{'%C3%A9' * 128}/": LENGTH,
    f"file:///{'a/' * 2017}": LENGTH,
}

TAKEN = [
    "s3://results/",
    "s3://results/a b/",
    "s3://results/.hidden/a..b/.../",
    "s3://results/%2e%2e/%0a/",
    "s3://results/año=2026/画像/пример/",
    "s3://results/a?b#c/",
    "s3://results/a:b@c/",
    "s3://results/'quoted'/$HOME/*/",
    "file:///",
    "file:///a b/%20/",
    "file:///.hidden/...",
    "file:///a%3Fb%25/",
    "file:///画像/%C3%A9/",
    "file://localhost/a/",
    f"s3://results/{'a' * 959}/",
    f"file:///{'%C3%A9' * 127}/",
]


@pytest.mark.parametrize("prefix", REFUSED)
def test_a_prefix_that_can_never_be_right_is_refused_in_few_words(prefix: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[prefix]) as caught:
        check_output_prefix(prefix)
    assert type(caught.value) is ValueError
    assert len(str(caught.value)) < 400
    assert not has_controls(str(caught.value))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("prefix", TAKEN)
def test_a_prefix_that_is_only_unusual_is_taken_as_it_is(prefix: str) -> None:
    assert check_output_prefix(prefix) == (prefix if prefix.endswith("/") else prefix + "/")


@pytest.mark.parametrize("prefix", ["s3://results/../up/", "s3://results/a\x1b[2J/", r"file:///a/..\b/"])
def test_it_is_an_invalid_request_of_a_caller_and_an_invalid_message_of_a_sender(
    prefix: str, valkey_url: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidMessage, match=r"output.*prefix"):
        parse_message([], {"images": "s3://a/b", "prompts": "<OD>", "output": prefix})
    producer = Producer(Settings(redis_url=valkey_url, output_prefix=file_uri(tmp_path)))
    with pytest.raises(InvalidRequest, match=r"output.*prefix"):
        producer.submit(["s3://a/b"], "<OD>", output=prefix)
    assert not producer.redis.keys("*job*")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "job_id",
    ["..", ".", "../up", "a/b", "a/../../b", "/etc", r"a\b", "a\n", "a\0", "\x1b[2J", "a\u202e", "é", "a" * 129, "%2e"],
)
def test_a_job_id_is_no_path(job_id: str) -> None:
    with pytest.raises(ValueError, match="a job id has"):
        check_job_id(job_id)


def _everything_below(prefix: str) -> list[str]:
    """The longest names of what Arno writes."""
    return [
        part_uri(prefix, MAX_CHUNKS - 1, 1000, "parquet"),
        job_record_uri(prefix),
        manifest_uri(prefix, MAX_CHUNKS - 1),
    ]


names = st.text(st.one_of(st.sampled_from("./\\%2eEfFcC5 \n\x1b\x7f\x9b\u202e\0"), st.characters()), max_size=30)


@patient
@given(names)
@example("../etc")
@example("%2e%2e/etc")
@example("a//b")
def test_whatever_is_taken_lies_below_the_folder_that_was_named(name: str) -> None:
    try:
        prefix = check_output_prefix(f"file:///results/{name}")
    except ValueError:
        return
    folder = str(path_of(prefix))
    assert folder == os.path.normpath(folder)
    assert folder == "/results" or folder.startswith("/results/")
    for uri in _everything_below(prefix):
        assert os.path.normpath(path_of(uri)) == str(path_of(uri))
        assert str(path_of(uri)).startswith(folder + "/")


@patient
@given(names)
def test_whatever_is_taken_of_s3_is_one_spelling_of_one_place(name: str) -> None:
    try:
        prefix = check_output_prefix(f"s3://results/{name}")
    except ValueError:
        return
    _, key = split_s3(prefix)
    assert os.path.normpath(f"/{key}") == f"/{key}".rstrip("/") or key == ""
    assert all(len(split_s3(uri)[1].encode()) <= 1024 for uri in _everything_below(prefix))


def _longest(before: str, max_bytes: int) -> str:
    """So many bytes from the first slash of `before` on, in names of 200."""
    missing = max_bytes - len(before)
    return before + ("é" * 99 + "x/") * (missing // 200) + "x" * (missing % 200)


def test_the_longest_path_has_room_for_everything(tmp_path: Path) -> None:
    longest = _longest(f"{tmp_path}/", 4032 + 1)
    with pytest.raises(ValueError, match=LENGTH):
        check_output_prefix(f"file://{longest}x")
    prefix, store = check_output_prefix(f"file://{longest}"), ObjectStore()
    for uri in _everything_below(prefix):
        store.put(uri, b"data", "text/plain")
        assert store.get(uri) == b"data"


@pytest.mark.parametrize("server", ["moto_s3", "rclone_s3"])
def test_the_longest_key_has_room_for_everything(server: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(server)
    longest = f"s3://{make_bucket()}/{_longest('', 960)}"
    with pytest.raises(ValueError, match=LENGTH):
        check_output_prefix(f"{longest}x")
    prefix, store = check_output_prefix(longest), ObjectStore()
    uris = _everything_below(prefix)
    for uri in uris:
        store.put(uri, b"data", "text/plain")
        assert store.get(uri) == b"data"
    assert sorted(stored.uri for stored in store.list(prefix)) == sorted(uris)


@pytest.mark.parametrize("server", ["moto_s3", "rclone_s3"])
@pytest.mark.parametrize("name", ["a b", "画像/é", ".hidden/a..b/...", "%2e%2e/%0a", "a?b#c", "a:b@c", "'q'/$HOME/*"])
def test_an_unusual_prefix_is_written_where_it_is_listed(
    server: str, name: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(server)
    bucket, store = make_bucket(), ObjectStore()
    uris = _everything_below(check_output_prefix(f"s3://{bucket}/{name}"))
    for uri in uris:
        store.put(uri, b"data", "text/plain")
    assert sorted(stored.uri for stored in store.list(f"s3://{bucket}/")) == sorted(uris)


@patient
@given(st.text())
@example("\x1b[2J\x9b2J\x7f\0\u202e\u2028\U000e0041\ud800\r\n")
def test_escaped_text_has_no_controls_and_loses_nothing_else(text: str) -> None:
    escaped = escape_controls(text)
    assert not has_controls(escaped)
    assert escape_controls(escaped) == escaped
    assert escaped == text or has_controls(text)
