"""Object storage, against real servers: both S3 clients, and files."""

import http.server
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest

from arno_shared import errors
from arno_shared.storage import ObjectStore, StoredObject
from arno_shared.storage.s3 import S3
from arno_shared.uris import file_uri, split_s3
from tests.servers import ACCESS_KEY, SECRET_KEY, free_port
from tests.shared.storage.stores import S3_CLIENTS, make_store

S3_SERVERS = ("moto_s3", "rclone_s3")


class Place(NamedTuple):
    """A store, and a prefix in which nothing lies yet."""

    store: ObjectStore
    prefix: str


@cache
def _store(endpoint: str, client: str) -> ObjectStore:
    """One store for many tests: to make a boto3 client takes longer than most of them."""
    return make_store(client)


@cache
def _other_client(endpoint: str) -> Any:
    """A client that is not the one under test."""
    return boto3.session.Session().client("s3", endpoint_url=endpoint)


@cache
def _made(endpoint: str, name: str) -> str:
    _other_client(endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"


def _bucket(name: str) -> str:
    """A bucket that exists."""
    return _made(os.environ["AWS_ENDPOINT_URL_S3"], name)


@pytest.fixture(params=S3_CLIENTS)
def store(request: pytest.FixtureRequest, moto_s3: str) -> ObjectStore:
    return _store(moto_s3, request.param)


@pytest.fixture(params=[(server, client) for server in S3_SERVERS for client in S3_CLIENTS], ids="-".join)
def s3(request: pytest.FixtureRequest) -> Place:
    server, client = request.param
    store = _store(request.getfixturevalue(server), client)
    return Place(store, f"{_bucket('storage')}/{request.node.name}")


@pytest.fixture(
    params=[("file", "python"), *((server, client) for server in S3_SERVERS for client in S3_CLIENTS)], ids="-".join
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    server, client = request.param
    if server == "file":
        return Place(ObjectStore(), file_uri(tmp_path))
    store = _store(request.getfixturevalue(server), client)
    return Place(store, f"{_bucket('storage')}/{request.node.name}")


def test_what_is_put_can_be_got(place: Place) -> None:
    store, prefix = place
    for data in (b"", b"x", bytes(range(256)) * 4000):
        store.put(f"{prefix}/run/part-1.jsonl", data, "application/x-ndjson")
        assert store.get(f"{prefix}/run/part-1.jsonl") == data


def test_exists(place: Place) -> None:
    store, prefix = place
    store.put(f"{prefix}/run/there", b"1", "text/plain")
    assert store.exists(f"{prefix}/run/there")
    assert not store.exists(f"{prefix}/run/not-there")
    assert not store.exists(f"{prefix}/nowhere/not-there")


def test_a_listing_is_complete_and_in_order(place: Place) -> None:
    store, prefix = place
    names = ["run/a.jsonl", "run/a/deep/1", "run/b c+d%é.jsonl", "run/z"]
    for size, name in enumerate(names):
        uri = f"{prefix}/{name}" if prefix.startswith("s3") else file_uri(Path(prefix[7:]) / name)
        store.put(uri, b"." * size, "text/plain")
    store.put(f"{prefix}/other", b"", "text/plain")
    found = list(store.list(f"{prefix}/run/"))
    assert [entry.size_bytes for entry in found] == [0, 1, 2, 3]
    assert [store.get(entry.uri, etag=entry.etag) for entry in found] == [b"." * size for size in range(4)]
    assert all(entry.etag and '"' not in entry.etag for entry in found)


def test_an_empty_prefix_lists_nothing(place: Place) -> None:
    assert list(place.store.list(f"{place.prefix}/empty/")) == []


def test_a_missing_object_is_not_found(place: Place) -> None:
    with pytest.raises(errors.NotFound):
        place.store.get(f"{place.prefix}/missing")


def test_too_many_bytes(place: Place) -> None:
    store, prefix = place
    store.put(f"{prefix}/ten", b"0123456789", "text/plain")
    assert store.get(f"{prefix}/ten", max_bytes=10) == b"0123456789"
    with pytest.raises(errors.TooManyBytes):
        store.get(f"{prefix}/ten", max_bytes=9)


def test_a_changed_object(place: Place) -> None:
    store, prefix = place
    store.put(f"{prefix}/run/one", b"first", "text/plain")
    (entry,) = store.list(f"{prefix}/run/")
    assert store.get(entry.uri, etag=f'"{entry.etag}"') == b"first"
    store.put(entry.uri, b"second!", "text/plain")
    with pytest.raises(errors.Changed):
        store.get(entry.uri, etag=entry.etag)


def test_a_listing_reads_its_pages_one_by_one(moto_s3: str) -> None:
    store, bucket = ObjectStore(), _bucket("storage-pages")
    for number in range(5):
        store.put(f"{bucket}/{number}", b"", "text/plain")
    pages: list[object] = []
    client = store._s3._careful.client  # type: ignore[attr-defined]
    client.meta.events.register("before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=2))
    client.meta.events.register("before-call.s3.ListObjectsV2", lambda params, **_: pages.append(params))
    listing = store.list(f"{bucket}/")
    assert pages == []
    next(listing)
    assert len(pages) == 1
    assert len(list(listing)) == 4
    assert len(pages) == 3


def test_the_content_type_is_kept(s3: Place) -> None:
    s3.store.put(f"{s3.prefix}/table.parquet", b"PAR1", "application/vnd.apache.parquet")
    bucket, key = split_s3(f"{s3.prefix}/table.parquet")
    head = _other_client(os.environ["AWS_ENDPOINT_URL_S3"]).head_object(Bucket=bucket, Key=key)
    assert head["ContentType"] == "application/vnd.apache.parquet"


@pytest.mark.parametrize("key", ["/lead", "trail/", "a//b", "a/./b", "../b", "é ü+%41?#&=", "a\\b", "~!*'()", "日本"])
def test_keys_are_raw(store: ObjectStore, key: str) -> None:
    bucket = _bucket("storage-keys")
    other = _other_client(os.environ["AWS_ENDPOINT_URL_S3"])
    other.put_object(Bucket=bucket[5:], Key=key, Body=b"by another client")
    assert store.get(f"{bucket}/{key}") == b"by another client"
    store.put(f"{bucket}/{key}", b"by the store", "text/plain")
    assert other.get_object(Bucket=bucket[5:], Key=key)["Body"].read() == b"by the store"


def test_a_version_is_that_version(store: ObjectStore) -> None:
    bucket = _bucket("storage-versions")
    other = _other_client(os.environ["AWS_ENDPOINT_URL_S3"])
    other.put_bucket_versioning(Bucket=bucket[5:], VersioningConfiguration={"Status": "Enabled"})
    first = other.put_object(Bucket=bucket[5:], Key="k", Body=b"first")["VersionId"]
    other.put_object(Bucket=bucket[5:], Key="k", Body=b"second")
    assert store.get(f"{bucket}/k", version_id=first) == b"first"
    assert store.get(f"{bucket}/k") == b"second"
    with pytest.raises(errors.NotFound):
        store.get(f"{bucket}/k", version_id="no-such-version")


def test_a_bucket_that_is_not_there(s3: Place) -> None:
    with pytest.raises(errors.StorageRefused, match="no bucket 'not-there'"):
        s3.store.put("s3://not-there/k", b"", "text/plain")
    with pytest.raises(errors.NotFound):
        s3.store.get("s3://not-there/k")
    with pytest.raises(errors.NotFound):
        list(s3.store.list("s3://not-there/"))


def test_wrong_credentials_blame_no_object(rclone_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{_bucket('storage')}/credentials"
    _store(rclone_s3, "obstore").put(uri, b"1", "text/plain")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    store = ObjectStore()
    calls: list[Callable[[], object]] = [
        lambda: store.get(uri),
        lambda: store.put(uri, b"2", "text/plain"),
        lambda: store.put_new(uri, b"2", "text/plain"),
        lambda: store.conditional_writes(uri),
        lambda: store.exists(uri),
        lambda: list(store.list(uri)),
    ]
    for refused in calls:
        with pytest.raises(errors.CredentialsRefused, match="credentials") as caught:
            refused()
        assert "wrong-secret" not in str(caught.value)


def test_credentials_that_are_put_right_are_used(
    rclone_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{_bucket('storage')}/put-right"
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    store = ObjectStore()
    for key in ("wrong-key", "", ACCESS_KEY):
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET_KEY}\n" if key else "")
        if key != ACCESS_KEY:
            with pytest.raises(errors.CredentialsRefused):
                store.put(uri, b"1", "text/plain")
    store.put(uri, b"1", "text/plain")
    assert store.get(uri) == b"1"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", errors.CredentialsRefused),
        (400, "InvalidIdentityToken", errors.CredentialsRefused),
        (400, "ExpiredTokenException", errors.HouseError),
        (400, "Throttling", errors.HouseError),
        (500, "InternalFailure", errors.HouseError),
    ],
)
def test_a_role_that_is_not_given_blames_no_object(
    moto_s3: str, tmp_path: Path, status: int, code: str, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(f"<ErrorResponse><Error><Code>{code}</Code></Error></ErrorResponse>".encode())

        def log_message(self, *args: object) -> None:
            pass

    uri = f"{_bucket('storage')}/role"
    (tmp_path / "token").write_text("from the cluster")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/worker")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with _serving(Refusal) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", endpoint)
        store = ObjectStore()
        for call in (lambda: store.get(uri), lambda: store.put(uri, b"", "text/plain"), lambda: store.exists(uri)):
            with pytest.raises(errors.ArnoError) as caught:
                call()
            assert type(caught.value) is expected


def test_no_credentials(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = ObjectStore()
    with pytest.raises(errors.CredentialsRefused, match="AWS_ACCESS_KEY_ID"):
        store.get("s3://bucket/k")
    with pytest.raises(errors.CredentialsRefused, match="AWS_ACCESS_KEY_ID"):
        store.put("s3://bucket/k", b"", "text/plain")


@pytest.mark.parametrize(("name", "value"), [("AWS_PROFILE", "nobody"), ("AWS_ENDPOINT_URL_S3", "no url")])
def test_settings_that_make_no_sense(moto_s3: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(errors.StorageRefused, match="set up wrongly"):
        ObjectStore().get("s3://bucket/k")


def test_both_clients_go_where_the_configuration_file_says(
    moto_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = _bucket("storage")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {moto_s3}\n")
    monkeypatch.setattr(S3, "get", lambda *args, **options: pytest.fail("obstore went elsewhere"))
    store = ObjectStore()
    store.put(f"{bucket}/configured", b"1", "text/plain")
    assert store.get(f"{bucket}/configured") == b"1"


@pytest.mark.parametrize(
    ("client", "unused"),
    [("boto3", ("obstore.get", "obstore.put")), ("obstore", (f"{S3.__module__}.S3.get", f"{S3.__module__}.S3.put"))],
)
def test_each_client_does_its_own_work(
    moto_s3: str, client: str, unused: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, uri = _store(moto_s3, client), f"{_bucket('storage')}/by-{client}"
    for function in unused:
        monkeypatch.setattr(function, lambda *args, **options: pytest.fail("the other client was used"))
    store.put(uri, b"1", "text/plain")
    assert store.get(uri) == b"1"


def test_a_store_is_shared_by_threads(moto_s3: str) -> None:
    store, bucket = ObjectStore(connections=4), _bucket("storage-threads")

    def there_and_back(number: int) -> bytes:
        store.put(f"{bucket}/{number}", b"%d" % number, "text/plain")
        return store.get(f"{bucket}/{number}")

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(there_and_back, range(32))) == [b"%d" % number for number in range(32)]


# -- a server that misbehaves ------------------------------------------------------------------------------------------


class _Moody(http.server.BaseHTTPRequestHandler):
    """Answers with the status that the key names; `reset` and `short` break the connection."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mood = self.path.rsplit("/", 1)[1]
        if mood == "reset":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(200 if mood == "short" else int(mood))
        body = b"" if mood == "short" else _CODES.get(mood, b"")
        self.send_header("Content-Length", "1000" if mood == "short" else str(len(body)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Mon, 05 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    do_PUT = do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


_CODES = {
    "503": b"<Error><Code>SlowDown</Code></Error>",
    "403": b"<Error><Code>AccessDenied</Code></Error>",
    "400": b"<Error><Code>ExpiredToken</Code></Error>",
}


@pytest.fixture(scope="module")
def _moody() -> Iterator[str]:
    with _serving(_Moody) as endpoint:
        yield endpoint


@contextmanager
def _serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(params=S3_CLIENTS)
def moody(request: pytest.FixtureRequest, _moody: str, moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    # One attempt: how boto3 waits between attempts is not Arno's to test.
    monkeypatch.setattr("arno_shared.storage.s3.MAX_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", _moody)
    return _store(_moody, request.param)


@pytest.mark.parametrize(
    ("mood", "on_get", "on_put"),
    [
        ("429", errors.Throttled, errors.HouseError),
        ("503", errors.Throttled, errors.HouseError),
        ("500", errors.Unavailable, errors.HouseError),
        ("502", errors.Unavailable, errors.HouseError),
        ("501", errors.Unavailable, errors.StorageRefused),
        ("401", errors.CredentialsRefused, errors.CredentialsRefused),
        ("403", errors.AccessDenied, errors.StorageRefused),
        ("400", errors.HouseError, errors.HouseError),
        ("412", errors.Changed, errors.StorageRefused),
        ("418", errors.HttpError, errors.StorageRefused),
        ("reset", errors.HouseError, errors.HouseError),
    ],
)
def test_what_a_server_answers(moody: ObjectStore, mood: str, on_get: type[Exception], on_put: type[Exception]) -> None:
    with pytest.raises(errors.ArnoError) as got:
        moody.get(f"s3://bucket/{mood}")
    with pytest.raises(errors.ArnoError) as put:
        moody.put(f"s3://bucket/{mood}", b"x", "text/plain")
    assert (type(got.value), type(put.value)) == (on_get, on_put)


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"])
def test_wrong_credentials_are_told_from_a_forbidden_object(
    moody: ObjectStore, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_CODES, "403", f"<Error><Code>{code}</Code></Error>".encode())
    for call in (
        lambda: moody.get("s3://bucket/403"),
        lambda: moody.put("s3://bucket/403", b"x", "text/plain"),
        lambda: moody.exists("s3://bucket/403"),
    ):
        with pytest.raises(errors.CredentialsRefused, match=code):
            call()


def test_an_object_that_breaks_off(moody: ObjectStore) -> None:
    with pytest.raises(errors.ConnectionFailed):
        moody.get("s3://bucket/short")


def test_a_large_object_is_not_read(moody: ObjectStore) -> None:
    """`short` promises 1000 bytes and sends none: to read it would be ConnectionFailed."""
    with pytest.raises(errors.TooManyBytes):
        moody.get("s3://bucket/short", max_bytes=999)


@pytest.mark.parametrize("host", ["127.0.0.1", "arno.invalid"])
def test_storage_that_is_away(moto_s3: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arno_shared.storage.s3.MAX_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{free_port()}")
    store = ObjectStore()
    calls: list[Callable[[], object]] = [
        lambda: store.get("s3://bucket/k"),
        lambda: store.put("s3://bucket/k", b"", "text/plain"),
        lambda: store.exists("s3://bucket/k"),
        lambda: list(store.list("s3://bucket/")),
    ]
    for call in calls:
        with pytest.raises(errors.HouseError, match="cannot be reached"):
            call()


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket",
        "s3://bucket/",
        "s3:///key",
        "s3://-bucket/key",
        "s3://with space/key",
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint:mine/key",
        "s3://mine--use1-az1--x-s3/key",
        "s3://user:secret@bucket/key",
        "https://example.com/key",
        "no-uri",
    ],
)
def test_what_is_no_object(store: ObjectStore, uri: str) -> None:
    for call in (lambda: store.get(uri), lambda: store.put(uri, b"", "text/plain"), lambda: store.exists(uri)):
        with pytest.raises(errors.InvalidUri) as caught:
            call()
        assert "secret" not in str(caught.value)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = file_uri(tmp_path / "deep" / "part.jsonl")
    store = ObjectStore()
    store.put(uri, b"old", "text/plain")

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        store.put(uri, b"new", "text/plain")
    assert store.get(uri) == b"old"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["part.jsonl"]


def test_a_file_that_others_may_read(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        ObjectStore().put(file_uri(tmp_path / "part"), b"", "text/plain")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "part").stat().st_mode) == 0o644


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "below", tmp_path / "folder", tmp_path / ("x" * 300), Path("/proc/arno/part")):
        with pytest.raises(errors.StorageRefused, match="cannot be written"):
            ObjectStore().put(file_uri(path), b"", "text/plain")


def test_a_full_disk_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.HouseError, match="No space left"):
        ObjectStore().put(file_uri(tmp_path / "part"), b"", "text/plain")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    store = ObjectStore()
    for name in ("pipe", "folder", "missing", "pipe/below"):
        with pytest.raises(errors.NotFound):
            store.get(file_uri(tmp_path / name))
        assert not store.exists(file_uri(tmp_path / name))
    with pytest.raises(errors.InvalidUri):
        store.get(file_uri(tmp_path / ("x" * 300)))


def test_a_file_has_no_versions(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with pytest.raises(errors.NotFound):
        ObjectStore().get(file_uri(tmp_path / "a"), version_id="1")


def test_a_folder_is_listed_without_what_is_unfinished_or_linked(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_bytes(b"12")
    (tmp_path / "below" / "loop").symlink_to(tmp_path)
    (tmp_path / ".arno-0123").write_bytes(b"half")
    (found,) = ObjectStore().list(file_uri(tmp_path))
    assert (found.uri, found.size_bytes) == (file_uri(tmp_path / "below" / "a"), 2)
    assert isinstance(found, StoredObject)
