"""The network and the server fail in the middle of it: nothing is reported as written that is not, and nothing is read
by halves. Both S3 clients, against real servers behind a proxy that misbehaves.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple

import pytest

from arno_shared.errors import ArnoError, HouseError, Throttled, Timeout
from arno_shared.storage import ObjectStore
from tests.faults.proxy import TcpProxy
from tests.servers import make_bucket
from tests.shared.storage.s3_stub import S3Stub
from tests.shared.storage.stores import S3_CLIENTS, make_store

# Many wait for real timeouts.
pytestmark = pytest.mark.long

SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: 41\r\n\r\n"
    b"<Error><Code>SlowDown</Code></Error>     "
)

Write = Callable[[ObjectStore, str, bytes], bool | None]


def put(store: ObjectStore, uri: str, data: bytes) -> None:
    store.put(uri, data, "text/plain")


def put_new(store: ObjectStore, uri: str, data: bytes) -> bool:
    return store.put_new(uri, data, "text/plain")


def put_new_in_a_known_bucket(store: ObjectStore, uri: str, data: bytes) -> bool:
    """Of which it is known whether it honours conditions: `prepare` sees to it."""
    return store.put_new(uri, data, "text/plain")


class Line(NamedTuple):
    """A store that reaches its server through a proxy, and one that reaches it without."""

    store: ObjectStore
    direct: ObjectStore
    proxy: TcpProxy
    uri: str


@pytest.fixture(params=[(server, client) for server in ("moto_s3", "rclone_s3") for client in S3_CLIENTS], ids="-".join)
def connect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Line]]:
    """Makes the line. `attempts` are boto3's; a server that is silent for `read_timeout_s` is given up."""
    server, client = request.param
    host, port = request.getfixturevalue(server).removeprefix("http://").split(":")
    uri = f"s3://{make_bucket()}/run/part"
    direct = make_store("boto3")
    with TcpProxy(host, int(port)) as proxy:

        def connect(attempts: int = 1, read_timeout_s: int = 20) -> Line:
            monkeypatch.setattr("arno_shared.storage.s3.MAX_ATTEMPTS", attempts)
            for module in ("s3", "s3_bulk"):
                monkeypatch.setattr(f"arno_shared.storage.{module}.READ_TIMEOUT_S", read_timeout_s)
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://{}:{}".format(*proxy.address))
            return Line(make_store(client), direct, proxy, uri)

        yield connect


@pytest.fixture(params=[put, put_new, put_new_in_a_known_bucket])
def write(request: pytest.FixtureRequest) -> Write:
    found: Write = request.param
    return found


def prepare(line: Line, write: Write) -> None:
    if write is put_new_in_a_known_bucket:
        line.store.conditional_writes(line.uri.removesuffix("part"))


def test_a_write_whose_answers_are_all_lost_is_not_reported_and_stands(
    connect: Callable[..., Line], write: Write
) -> None:
    line = connect()
    prepare(line, write)
    line.proxy.drop_answers(b"PUT ")
    with pytest.raises(HouseError):
        write(line.store, line.uri, b"ours")
    assert line.direct.get(line.uri) == b"ours"
    line.proxy.heal()
    # What the caller does next.
    assert write(line.store, line.uri, b"ours") is (None if write is put else False)
    assert line.store.get(line.uri) == b"ours"


def test_a_write_whose_first_answer_is_lost_is_done(connect: Callable[..., Line], write: Write) -> None:
    line = connect(attempts=2)
    prepare(line, write)
    line.proxy.drop_answers(b"PUT ", times=1)
    written = write(line.store, line.uri, b"ours")
    assert line.proxy.matched == 1
    assert written in ((None,) if write is put else (True, False))
    assert line.direct.get(line.uri) == b"ours"


def test_a_write_after_a_lost_answer_leaves_what_another_wrote(connect: Callable[..., Line]) -> None:
    line = connect()
    prepare(line, put_new_in_a_known_bucket)
    line.direct.put(line.uri, b"theirs", "text/plain")
    line.proxy.drop_answers(times=1)
    assert put_new_until_told(line, b"ours") is False
    assert line.direct.get(line.uri) == b"theirs"


def put_new_until_told(line: Line, data: bytes) -> bool:
    """As callers do it: what may pass is tried again."""
    while True:
        try:
            return line.store.put_new(line.uri, data, "text/plain")
        except HouseError:
            continue


def test_a_server_that_is_asked_too_often_has_written_nothing(connect: Callable[..., Line], write: Write) -> None:
    line = connect()
    prepare(line, write)
    line.proxy.answer(SLOW_DOWN, b"PUT ")
    with pytest.raises(HouseError, match="SlowDown"):
        write(line.store, line.uri, b"ours")
    assert not line.direct.exists(line.uri)
    line.proxy.heal()
    assert write(line.store, line.uri, b"ours") is (None if write is put else True)
    assert line.direct.get(line.uri) == b"ours"


@pytest.mark.parametrize("connect", [("moto_s3", client) for client in S3_CLIENTS], indirect=True, ids="-".join)
def test_a_write_that_nobody_answers_is_given_up(connect: Callable[..., Line], write: Write) -> None:
    line = connect(read_timeout_s=2)
    prepare(line, write)
    line.proxy.freeze()
    with pytest.raises(HouseError):
        write(line.store, line.uri, b"ours")
    assert not line.direct.exists(line.uri)


def test_a_write_that_breaks_off_is_not_reported(connect: Callable[..., Line], write: Write) -> None:
    line = connect()
    prepare(line, write)
    line.proxy.slow(200_000)
    line.proxy.drop_answers(b"PUT ")
    begun = 0
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(write, line.store, line.uri, bytes(2_000_000))
        while not wait([writing], timeout=0.01).done:
            # Once a request has begun to arrive, whose body takes seconds.
            if line.proxy.matched > begun:
                begun = line.proxy.matched
                line.proxy.cut()
    assert begun
    assert isinstance(writing.exception(), HouseError)
    assert not line.direct.exists(line.uri)


def test_a_write_that_takes_long_is_whole(connect: Callable[..., Line], write: Write) -> None:
    line = connect()
    data = bytes(range(256)) * 1000
    prepare(line, write)
    line.proxy.slow(400_000)
    assert write(line.store, line.uri, data) is (None if write is put else True)
    assert line.direct.get(line.uri) == data


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_read_that_takes_long_is_whole(connect: Callable[..., Line]) -> None:
    line = connect(read_timeout_s=2)
    data = bytes(range(256)) * 3000
    line.direct.put(line.uri, data, "text/plain")
    line.proxy.slow(300_000)
    assert line.store.get(line.uri) == data


def test_a_read_whose_first_answer_is_lost_is_done(connect: Callable[..., Line]) -> None:
    line = connect(attempts=2)
    line.direct.put(line.uri, b"there", "text/plain")
    line.proxy.drop_answers(b"GET ", times=1)
    assert line.store.get(line.uri) == b"there"
    assert line.proxy.matched == 1


def lose(proxy: TcpProxy) -> None:
    proxy.drop_answers(b"GET ")


def ask_too_often(proxy: TcpProxy) -> None:
    proxy.answer(SLOW_DOWN, b"GET ")


def fall_silent(proxy: TcpProxy) -> None:
    proxy.freeze()


@pytest.mark.parametrize(("fail", "expected"), [(lose, HouseError), (ask_too_often, Throttled), (fall_silent, Timeout)])
def test_a_read_that_fails_may_pass(
    connect: Callable[..., Line], fail: Callable[[TcpProxy], None], expected: type[ArnoError]
) -> None:
    line = connect(read_timeout_s=1)
    line.direct.put(line.uri, b"there", "text/plain")
    fail(line.proxy)
    with pytest.raises(expected):
        line.store.get(line.uri)
    assert expected.retryable


@pytest.mark.parametrize("client", S3_CLIENTS)
def test_a_read_that_stalls_half_way_is_given_up(client: str, moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("s3", "s3_bulk"):
        monkeypatch.setattr(f"arno_shared.storage.{module}.READ_TIMEOUT_S", 1)
    with S3Stub() as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        store = make_store(client)
        store.put("s3://bucket/picture", bytes(100_000), "image/png")
        stub.stalls = True
        with pytest.raises(Timeout):
            store.get("s3://bucket/picture")
