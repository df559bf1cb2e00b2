"""Parts of objects, against real servers: both S3 clients, and files."""

import os
from pathlib import Path

import boto3
import pytest

from arno_shared import errors
from arno_shared.storage import ObjectStore
from arno_shared.uris import file_uri
from tests.servers import make_bucket
from tests.shared.storage.s3_stub import S3Stub
from tests.shared.storage.stores import S3_CLIENTS, make_store

DATA = bytes(range(256)) * 40


@pytest.fixture(
    params=["file", *(f"{server}-{client}" for server in ("moto_s3", "rclone_s3") for client in S3_CLIENTS)]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ObjectStore, str]:
    """A store, and the URI of an object with DATA."""
    if request.param == "file":
        store, uri = ObjectStore(), file_uri(tmp_path / "odd name%20")
    else:
        server, client = request.param.split("-")
        request.getfixturevalue(server)
        store, uri = make_store(client), f"s3://{make_bucket()}/an odd/näme%20+"
    store.put(uri, DATA, "application/octet-stream")
    return store, uri


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, len(DATA)), (300, 1000), (len(DATA) - 1, len(DATA))])
def test_a_part_of_an_object_is_read(place: tuple[ObjectStore, str], start: int, stop: int) -> None:
    store, uri = place
    assert store.get_range(uri, start, stop) == DATA[start:stop]


def test_a_range_that_passes_the_end_gives_what_there_is(place: tuple[ObjectStore, str]) -> None:
    store, uri = place
    assert store.get_range(uri, len(DATA) - 5, len(DATA) + 5) == DATA[-5:]
    assert store.get_range(uri, 7, 7) == b""


def test_a_range_beyond_the_end_is_refused(place: tuple[ObjectStore, str]) -> None:
    store, uri = place
    with pytest.raises(errors.HttpError):
        store.get_range(uri, len(DATA), len(DATA) + 1)


def test_a_part_of_an_object_that_changed_is_not_read(place: tuple[ObjectStore, str]) -> None:
    store, uri = place
    (found,) = store.list(uri.rpartition("/")[0] + "/")
    assert store.get_range(uri, 0, 4, etag=found.etag) == DATA[:4]
    store.put(uri, DATA[1:], "application/octet-stream")
    with pytest.raises(errors.Changed):
        store.get_range(uri, 0, 4, etag=found.etag)


def test_a_part_of_what_is_missing_is_not_found(place: tuple[ObjectStore, str]) -> None:
    store, uri = place
    with pytest.raises(errors.NotFound):
        store.get_range(f"{uri}-missing", 0, 4)


@pytest.mark.parametrize("client", S3_CLIENTS)
def test_a_server_that_gives_the_whole_for_a_part_is_not_believed(
    client: str, moto_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Stub() as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        store = make_store(client)
        store.put("s3://bucket/key", DATA, "text/plain")
        with pytest.raises(errors.HttpError, match="knows no ranges"):
            store.get_range("s3://bucket/key", 2, 4)


def test_storage_says_what_an_object_adds_up_to(moto_s3: str, tmp_path: Path) -> None:
    bucket, store = make_bucket(), ObjectStore()
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    store.put(f"s3://{bucket}/f/plain", DATA, "text/plain")
    client.put_object(Bucket=bucket, Key="f/sha256", Body=DATA, ChecksumAlgorithm="SHA256")
    upload = client.create_multipart_upload(Bucket=bucket, Key="f/parts")["UploadId"]
    part_bytes = 5 * 2**20 + 1
    parts = [b"a" * part_bytes, b"b" * part_bytes, DATA]
    done = [
        {
            "PartNumber": number,
            "ETag": client.upload_part(Bucket=bucket, Key="f/parts", UploadId=upload, PartNumber=number, Body=part)[
                "ETag"
            ],
        }
        for number, part in enumerate(parts, 1)
    ]
    client.complete_multipart_upload(Bucket=bucket, Key="f/parts", UploadId=upload, MultipartUpload={"Parts": done})

    right, wrong = tmp_path / "right", tmp_path / "wrong"
    kinds = {}
    for found in store.list(f"s3://{bucket}/f/"):
        data = b"".join(parts) if found.uri.endswith("parts") else DATA
        right.write_bytes(data)
        wrong.write_bytes(data[:-1] + b"?")
        checksum = store.checksum(found.uri, etag=found.etag)
        assert checksum
        assert checksum.fits(right)
        assert not checksum.fits(wrong)
        kinds[found.uri.rpartition("/")[2]] = (checksum.kind, checksum.part_bytes)
    assert kinds == {"plain": ("md5", None), "sha256": ("sha256", None), "parts": ("md5", part_bytes)}


def test_the_checksum_of_an_object_that_changed_is_not_told(moto_s3: str) -> None:
    store, uri = ObjectStore(), f"s3://{make_bucket()}/f/object"
    store.put(uri, DATA, "text/plain")
    with pytest.raises(errors.Changed):
        store.checksum(uri, etag="0" * 32)


def test_files_have_no_checksum(tmp_path: Path) -> None:
    assert ObjectStore().checksum(file_uri(tmp_path), etag="") is None
