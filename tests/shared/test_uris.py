"""URIs are split as they are written, and are shown without their secrets."""

import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arno_shared.errors import InvalidUri
from arno_shared.uris import check_output_prefix, file_uri, path_of, redact, scheme_of, split_s3

patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
"""Machines may be busy: how long an example takes says nothing."""

hosts = st.text(string.ascii_lowercase, min_size=1, max_size=10)
paths = st.text(string.ascii_lowercase + "/._-@", max_size=10)
# Upper case, so that a secret found in the redacted text can have come from nowhere else.
secrets = st.text("XYZ0123456789", min_size=6, max_size=20).map("Q".__add__)
around = st.text(string.ascii_lowercase + string.punctuation + " \n", max_size=5).filter(lambda text: "://" not in text)
schemes = st.sampled_from(["https", "HTTPS", "s3", "S3", "redis", "rediss", "Http", "sqs+tls"])


@patient
@given(around, schemes, secrets, st.sampled_from(["", "@", "%40", ":", "$"]), hosts, paths, around)
def test_no_password_survives(
    before: str, scheme: str, secret: str, special: str, host: str, path: str, after: str
) -> None:
    uri = f"{scheme}://user:{secret}{special}{secret}@{host}/{path}"
    assert secret not in redact(f"{before} {uri} {after}")


@patient
@given(around, schemes, secrets, st.text(string.printable, max_size=5), hosts, paths, around)
def test_no_value_of_a_query_or_a_fragment_survives(
    before: str, scheme: str, secret: str, other: str, host: str, path: str, after: str
) -> None:
    query = f"a={quote(other)}&X-Amz-Signature={secret}"
    for mark in "?#":
        assert secret not in redact(f"{before} {scheme}://{host}/{path}{mark}{query} {after}")


@patient
@given(st.lists(st.tuples(hosts, secrets), min_size=2, max_size=4))
def test_every_uri_of_a_sentence_is_redacted(pairs: list[tuple[str, str]]) -> None:
    sentence = redact(", ".join(f"'https://{host}/?sig={secret}'" for host, secret in pairs))
    assert not any(secret in sentence for _, secret in pairs)
    assert all(f"https://{host}/?***" in sentence for host, _ in pairs)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/a.jpg?X-Amz-Signature=abc&b=c", "https://host/a.jpg?***"),
        ("redis://:hunter2@host:6379/0", "redis://***@host:6379/0"),
        ("redis://:hunter@2@host:6379/0", "redis://***@host:6379/0"),
        ("HTTPS://Host/a.jpg?sig=abc", "HTTPS://Host/a.jpg?***"),
        ("no bucket in 's3://?k=v'", "no bucket in 's3://?***'"),
        ("s3://photos/me@home.jpg", "s3://photos/me@home.jpg"),
        ("mail me@home.org about a?b", "mail me@home.org about a?b"),
    ],
)
def test_what_is_not_secret_is_kept(text: str, shown: str) -> None:
    assert redact(text) == shown


@patient
@given(st.text())
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("uri", ["s3://b/k", "S3://b/k", "https://h/", "file:///tmp/a"])
def test_the_scheme_is_told_in_lower_case(uri: str) -> None:
    assert scheme_of(uri) == uri.partition(":")[0].lower()


@pytest.mark.parametrize("uri", ["", "photos/a.jpg", "/photos/a.jpg", "s3:/b/k", "://b/k", "1s3://b/k", "s 3://b/k"])
def test_what_has_no_scheme_is_no_uri(uri: str) -> None:
    with pytest.raises(InvalidUri, match="not a URI"):
        scheme_of(uri)


@pytest.mark.parametrize(
    "key", ["a.jpg", "a b.jpg", "a%20b.jpg", "a+b.jpg", "a?b=c.jpg", "a#b.jpg", "", "/a.jpg", "a//b.jpg", "ä/🏔.jpg"]
)
def test_an_s3_key_is_taken_as_it_is_written(key: str) -> None:
    assert split_s3(f"s3://photos/{key}") == ("photos", key)


@patient
@given(st.text())
def test_any_s3_key_is_taken_as_it_is_written(key: str) -> None:
    assert split_s3(f"s3://photos/{key}") == ("photos", key)


@pytest.mark.parametrize("uri", ["s3://", "s3:///a.jpg"])
def test_an_s3_uri_without_a_bucket_is_refused(uri: str) -> None:
    with pytest.raises(InvalidUri, match="no bucket"):
        split_s3(uri)


def test_a_refused_uri_is_shown_without_its_secrets() -> None:
    with pytest.raises(InvalidUri) as refused:
        path_of("file://me:hunter2@host/a.jpg?sig=hunter2")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///data/a.jpg", "/data/a.jpg"),
        ("file://localhost/data/a.jpg", "/data/a.jpg"),
        ("FILE:///data/a.jpg", "/data/a.jpg"),
        ("file:///data/a%20b.jpg", "/data/a b.jpg"),
        ("file:///data/a b.jpg", "/data/a b.jpg"),
        ("file:///data/a%3Fb.jpg", "/data/a?b.jpg"),
        ("file:///data/a?b.jpg", "/data/a?b.jpg"),
        ("file:///data/a#b.jpg", "/data/a#b.jpg"),
        ("file:///data/%C3%A4.jpg", "/data/ä.jpg"),
    ],
)
def test_a_file_uri_leads_to_its_path(uri: str, path: str) -> None:
    assert path_of(uri) == Path(path)


@pytest.mark.parametrize(
    "uri", ["file://host/a.jpg", "file://", "file://a.jpg", "file:///a%00.jpg", "file://[::1/a.jpg", "file://[/a.jpg"]
)
def test_a_file_uri_with_a_host_or_without_a_path_is_refused(uri: str) -> None:
    with pytest.raises(InvalidUri):
        path_of(uri)


@patient
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20))
def test_a_path_survives_its_uri(name: str) -> None:
    path = Path("/data") / name
    assert path_of(file_uri(path)) == path


def test_a_relative_path_and_a_home_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_of(file_uri(Path("a b"))) == tmp_path / "a b"
    assert path_of(file_uri(Path("~/a"))) == tmp_path / "a"


@pytest.mark.parametrize("prefix", ["s3://results/run-7", "s3://results/run-7/", "file:///results/run-7"])
def test_an_output_prefix_ends_in_one_slash(prefix: str) -> None:
    assert check_output_prefix(prefix) == prefix.rstrip("/") + "/"


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("results", "not a URI"),
        ("https://results/", "not to https://"),
        ("s3:///run-7/", "no bucket"),
        ("file://results/", "three slashes"),
    ],
)
def test_an_output_prefix_that_cannot_be_written_is_refused_with_its_reason(prefix: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_output_prefix(prefix)
