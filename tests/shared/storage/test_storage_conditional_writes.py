"""An object is written where there is none, whether or not storage helps."""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arno_shared.errors import CredentialsRefused, HouseError, StorageRefused
from arno_shared.storage import ObjectStore
from arno_shared.uris import file_uri
from tests.servers import make_bucket
from tests.shared.storage.s3_stub import Request, S3Stub
from tests.shared.storage.stores import S3_CLIENTS, make_store

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


# -- what a server may make of the condition ---------------------------------------------------------------------------


@pytest.fixture
def stub(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Stub]:
    # One attempt: how boto3 waits between attempts is not Arno's to test.
    monkeypatch.setattr("arno_shared.storage.s3.MAX_ATTEMPTS", 1)
    with S3Stub() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        yield server


@pytest.fixture(params=S3_CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_bucket_that_is_known_costs_one_conditional_write(stub: S3Stub, client: str) -> None:
    store = make_store(client)
    assert store.conditional_writes("s3://bucket/run/") is True
    assert list(stub.objects) == ["/bucket/run/_arno/conditional.txt"]
    assert [request.if_none_match for request in stub.requests] == ["*", "*"]
    stub.requests.clear()
    assert store.put_new("s3://bucket/run/part", b"x", "text/plain") is True
    assert store.conditional_writes("s3://bucket/another/") is True
    assert stub.requests == [Request("PUT", "*", client)]


@pytest.mark.parametrize("tried", [False, True])
def test_of_many_workers_at_once_one_writes(stub: S3Stub, client: str, tried: bool) -> None:
    stores = [make_store(client) for _ in range(4)]
    if tried:
        assert all(store.conditional_writes("s3://bucket/run/") for store in stores)
    with ThreadPoolExecutor(16) as threads:
        told = list(
            threads.map(
                lambda n: stores[n % 4].put_new("s3://bucket/run/part", b"%d" % n, "text/plain"),
                range(16),
            )
        )
    assert sum(told) == 1
    assert stub.objects["/bucket/run/part"] == b"%d" % told.index(True)


@pytest.mark.parametrize("status", [501, 400, 403])
def test_a_server_that_does_not_know_the_condition_is_written_to_without(
    stub: S3Stub, client: str, status: int
) -> None:
    stub.condition_status = status
    store = make_store(client)
    assert store.put_new("s3://bucket/run/part", b"first", "text/plain") is True
    assert store.put_new("s3://bucket/run/part", b"second", "text/plain") is False
    stub.requests.clear()
    assert store.conditional_writes("s3://bucket/run/") is False
    assert store.put_new("s3://bucket/run/other", b"first", "text/plain") is True
    assert [request.if_none_match for request in stub.requests] == [None, None]
    assert stub.objects == {"/bucket/run/part": b"first", "/bucket/run/other": b"first"}


def test_a_bucket_that_refuses_everything_is_tried_again(stub: S3Stub, client: str) -> None:
    store = make_store(client)
    stub.put_status = 403
    for call in (
        lambda: store.conditional_writes("s3://bucket/run/"),
        lambda: store.put_new("s3://bucket/run/part", b"x", "text/plain"),
    ):
        with pytest.raises(StorageRefused, match="s3:PutObject"):
            call()
    stub.put_status = None
    assert store.conditional_writes("s3://bucket/run/") is True


@pytest.mark.parametrize("tried", [False, True])
def test_a_conflict_says_nothing_of_who_came_first(stub: S3Stub, client: str, tried: bool) -> None:
    store = make_store(client)
    if tried:
        store.conditional_writes("s3://bucket/run/")
    stub.condition_status = 409
    with pytest.raises(HouseError):
        store.put_new("s3://bucket/run/part", b"ours", "text/plain")
    assert "/bucket/run/part" not in stub.objects
    stub.condition_status = None
    assert store.put_new("s3://bucket/run/part", b"ours", "text/plain") is True


def test_who_may_not_read_may_write(stub: S3Stub, client: str) -> None:
    stub.read_status = 403
    store = make_store(client)
    assert store.put_new("s3://bucket/run/part", b"first", "text/plain") is True
    assert store.put_new("s3://bucket/run/part", b"second", "text/plain") is False
    assert stub.objects == {"/bucket/run/part": b"first"}


@pytest.mark.parametrize(("status", "expected"), [(503, HouseError), (400, StorageRefused)])
def test_a_look_that_fails_blames_no_image(stub: S3Stub, client: str, status: int, expected: type[Exception]) -> None:
    stub.read_status = status
    with pytest.raises(expected):
        make_store(client).put_new("s3://bucket/run/part", b"x", "text/plain")
    assert stub.objects == {}


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the system calls that make a file durable and give it its name, as they succeed."""
    done: list[str] = []

    def watch(name: str) -> None:
        call = getattr(os, name)

        def watched(*arguments: Any) -> None:
            call(*arguments)
            done.append(name)

        monkeypatch.setattr(os, name, watched)

    for name in ("fsync", "link", "replace"):
        watch(name)
    return done


def test_a_file_is_durable_before_it_has_its_name_and_so_is_the_name(tmp_path: Path, steps: list[str]) -> None:
    uri = file_uri(tmp_path / "part")
    assert ObjectStore().put_new(uri, b"first", "text/plain") is True
    assert steps == ["fsync", "link", "fsync"]
    # Whoever wrote the first may not have come to the end yet: what this call reports must not be lost either.
    steps.clear()
    assert ObjectStore().put_new(uri, b"second", "text/plain") is False
    assert steps == ["fsync", "fsync"]
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was made durable, by its path, in that order."""
    done: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", watched)
    return done


@pytest.mark.parametrize("write", ["put", "put_new"])
def test_new_folders_are_durable_before_what_lies_in_them(tmp_path: Path, synced: list[str], write: str) -> None:
    folder = tmp_path / "job" / "run" / "a"
    getattr(ObjectStore(), write)(file_uri(folder / "part"), b"x", "text/plain")
    assert synced[:3] == [str(tmp_path), str(tmp_path / "job"), str(tmp_path / "job" / "run")]
    assert synced[-1] == str(folder)
    assert len(synced) == 5
    # Those that are there are not paid for again.
    synced.clear()
    getattr(ObjectStore(), write)(file_uri(folder / "other"), b"x", "text/plain")
    assert len(synced) == 2


@pytest.mark.parametrize("write", ["put", "put_new"])
def test_a_folder_that_another_makes_meanwhile_is_durable_too(
    tmp_path: Path, synced: list[str], write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def made_already(*arguments: Any, **options: Any) -> None:
        mkdir(*arguments, **options)
        mkdir(*arguments, **options)

    monkeypatch.setattr(os, "mkdir", made_already)
    getattr(ObjectStore(), write)(file_uri(tmp_path / "run" / "part"), b"x", "text/plain")
    assert synced[0] == str(tmp_path)


def test_of_many_at_once_one_writes_a_file(tmp_path: Path) -> None:
    store, uri = ObjectStore(), file_uri(tmp_path / "run" / "part")
    with ThreadPoolExecutor(16) as threads:
        told = list(threads.map(lambda number: store.put_new(uri, b"%d" % number, "text/plain"), range(16)))
    assert sum(told) == 1
    assert store.get(uri) == b"%d" % told.index(True)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_links_is_written_to_as_well(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    store, uri = ObjectStore(), file_uri(tmp_path / "run" / "part")
    assert store.put_new(uri, b"first", "text/plain") is True
    assert store.put_new(uri, b"second", "text/plain") is False
    assert store.get(uri) == b"first"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["part"]


def test_a_name_that_no_object_can_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    for path in (tmp_path / "folder", tmp_path / "nowhere", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(StorageRefused, match="cannot be written"):
            ObjectStore().put_new(file_uri(path), b"", "text/plain")


@pytest.mark.parametrize("name", ["fsync", "link"])
def test_a_full_disk_may_pass_and_leaves_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, name, full)
    with pytest.raises(HouseError, match="No space left"):
        ObjectStore().put_new(file_uri(tmp_path / "part"), b"x", "text/plain")
    assert list(tmp_path.iterdir()) == []
