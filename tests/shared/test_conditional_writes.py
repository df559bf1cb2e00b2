"""An object is written where there is none, whether or not storage helps, and whatever becomes of the answers."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

from arno_shared.errors import CredentialsRefused, HouseError, StorageRefused
from arno_shared.storage import ObjectStore
from arno_shared.uris import file_uri
from tests.faults.proxy import TcpProxy
from tests.servers import make_bucket
from tests.shared.stores import S3_CLIENTS, make_store

HONOURS = {"file": True, "moto_s3": True, "rclone_s3": False}
"""moto checks `If-None-Match`; rclone ignores it in silence."""


class Place(NamedTuple):
    store: ObjectStore
    prefix: str
    honours: bool


@pytest.fixture(
    params=[("file", ""), *((server, client) for server in ("moto_s3", "rclone_s3") for client in S3_CLIENTS)]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    server, client = request.param
    if server == "file":
        return Place(ObjectStore(), file_uri(tmp_path) + "/", True)
    request.getfixturevalue(server)
    return Place(make_store(client), f"s3://{make_bucket()}/run/", HONOURS[server])


def test_the_first_writes_and_the_second_is_told(place: Place) -> None:
    for number in range(3):
        # The first of a bucket, which also shows whether it honours conditions, and those that come after.
        uri = f"{place.prefix}part-{number}"
        assert place.store.put_new(uri, b"first", "text/plain") is True
        assert place.store.put_new(uri, b"second", "text/plain") is False
        assert place.store.get(uri) == b"first"


def test_what_stands_in_a_bucket_not_tried_yet_is_not_replaced_to_find_out(place: Place) -> None:
    uri = f"{place.prefix}part"
    place.store.put(uri, b"first", "text/plain")
    assert place.store.put_new(uri, b"second", "text/plain") is False
    assert place.store.get(uri) == b"first"


def test_whether_storage_honours_conditions_is_tried_and_known(place: Place) -> None:
    assert place.store.conditional_writes(place.prefix) is place.honours
    # Asked again, and after the object of the first trial is there.
    assert place.store.conditional_writes(place.prefix) is place.honours


def test_of_many_at_once_one_writes_where_conditions_are_honoured(place: Place) -> None:
    if not place.honours:
        pytest.skip("two within a moment may both write")
    assert place.store.conditional_writes(place.prefix)
    uri = f"{place.prefix}part"
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(lambda number: place.store.put_new(uri, b"%d" % number, "text/plain"), range(8)))
    assert sum(told) == 1
    assert place.store.get(uri) == b"%d" % told.index(True)


@pytest.mark.parametrize("client", S3_CLIENTS)
def test_a_server_that_does_not_know_the_condition_is_written_to_without(
    client: str, monkeypatch: pytest.MonkeyPatch, moto_s3: str
) -> None:
    with old_server() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        store = make_store(client)
        assert store.conditional_writes("s3://bucket/run/") is False
        assert store.put_new("s3://bucket/run/part", b"first", "text/plain") is True
        assert store.put_new("s3://bucket/run/part", b"second", "text/plain") is False
        assert store.get("s3://bucket/run/part") == b"first"


@pytest.mark.parametrize("client", S3_CLIENTS)
@pytest.mark.parametrize("server", ["moto_s3", "rclone_s3"])
@pytest.mark.parametrize("tried", [False, True])
def test_a_write_whose_answer_was_lost_stands_and_is_ours(
    tried: bool, server: str, client: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with before(request.getfixturevalue(server), monkeypatch) as proxy:
        store, prefix = make_store(client), f"s3://{make_bucket()}/run/"
        if tried:
            store.conditional_writes(prefix)
        proxy.drop_answers(b"PUT ", times=1)
        store.put_new(f"{prefix}part", b"ours", "text/plain")
        assert proxy.matched == 1
        assert store.get(f"{prefix}part") == b"ours"


@pytest.mark.parametrize("client", S3_CLIENTS)
def test_what_cannot_be_written_now_is_never_said_to_be(
    client: str, moto_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down = b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    with before(moto_s3, monkeypatch) as proxy:
        store, prefix = make_store(client), f"s3://{make_bucket()}/run/"
        proxy.answer(slow_down, b"PUT ")
        writes: list[Callable[[], object]] = [
            lambda: store.put(f"{prefix}a", b"x", "text/plain"),
            lambda: store.put_new(f"{prefix}b", b"x", "text/plain"),
        ]
        for write in writes:
            with pytest.raises(HouseError):
                write()
        proxy.heal()
        assert [stored.uri for stored in store.list(prefix)] == []
        assert store.put_new(f"{prefix}b", b"x", "text/plain") is True


@pytest.mark.parametrize("client", S3_CLIENTS)
def test_wrong_credentials_are_told_from_a_bucket_that_refuses(
    client: str, rclone_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"s3://{make_bucket()}/run/"
    with pytest.raises(StorageRefused) as refused:
        make_store(client).put_new("s3://no-such-bucket/run/part", b"x", "text/plain")
    assert not isinstance(refused.value, CredentialsRefused)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = make_store(client)
    for write in (store.put, store.put_new):
        with pytest.raises(CredentialsRefused):
            write(f"{prefix}part", b"x", "text/plain")


@contextmanager
def before(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """A proxy before an S3 server, to which this test's clients go."""
    host, port = endpoint.removeprefix("http://").split(":")
    with TcpProxy(host, int(port)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://{}:{}".format(*proxy.address))
        yield proxy


@contextmanager
def old_server() -> Iterator[str]:
    """The endpoint of a server that keeps objects, and answers 501 to a condition."""
    objects: dict[str, bytes] = {}

    class Old(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if "If-None-Match" in self.headers:
                self._answer(501, b"<Error><Code>NotImplemented</Code></Error>")
            else:
                objects[self.path] = body
                self._answer(200)

        def do_GET(self) -> None:
            found = objects.get(self.path.partition("?")[0])
            self._answer(404) if found is None else self._answer(200, found)

        do_HEAD = do_GET

        def _answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"e"')
            self.send_header("Last-Modified", "Wed, 25 Nov 2026 00:00:00 GMT")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Old)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
