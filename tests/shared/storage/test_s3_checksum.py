"""What S3's answers to HEAD say of an object's bytes, and what they do not."""

import base64
import hashlib
import zlib
from pathlib import Path
from typing import Any

import pytest

from arno_shared.storage import Checksum
from arno_shared.storage.s3_checksum import of_etag, of_whole_object

DATA = b"weights" * 1000
MD5 = hashlib.md5(DATA).hexdigest()


def _never(part: int) -> int | None:
    pytest.fail(f"the size of part {part} was asked for")


@pytest.mark.parametrize(
    ("field", "digest"),
    [
        ("ChecksumSHA256", hashlib.sha256(DATA).digest()),
        ("ChecksumSHA1", hashlib.sha1(DATA).digest()),
        ("ChecksumCRC32", zlib.crc32(DATA).to_bytes(4, "big")),
    ],
)
def test_a_checksum_of_the_whole_object_is_taken(field: str, digest: bytes, tmp_path: Path) -> None:
    found = of_whole_object({field: base64.b64encode(digest).decode(), "ChecksumType": "FULL_OBJECT"})
    assert found
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_bytes(DATA)
    wrong.write_bytes(DATA + b"!")
    assert found.fits(right)
    assert not found.fits(wrong)


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"ChecksumSHA256": "q83vEjRWeJA=-3"},
        {"ChecksumSHA256": "q83vEjRWeJA=", "ChecksumType": "COMPOSITE"},
        {"ChecksumCRC64NVME": "q83vEjRWeJA=", "ChecksumType": "FULL_OBJECT"},
        {"ChecksumCRC32": "oU1Myg==", "ETag": '"0123-8"'},
    ],
)
def test_checksums_of_parts_and_of_other_kinds_are_passed_over(head: dict[str, Any]) -> None:
    assert of_whole_object(head) is None


def test_the_strongest_checksum_is_taken() -> None:
    found = of_whole_object({"ChecksumCRC32": "AAAAAA==", "ChecksumSHA256": "q83vEjRWeJA="})
    assert found
    assert found.kind == "sha256"


def test_an_etag_that_is_an_md5_is_taken() -> None:
    assert of_etag({"ETag": f'"{MD5}"'}, _never) == Checksum("md5", MD5)
    assert of_etag({"ETag": f'"{MD5}"', "ServerSideEncryption": "AES256"}, _never) == Checksum("md5", MD5)


@pytest.mark.parametrize(
    "head",
    [
        {"ETag": f'"{MD5}"', "ServerSideEncryption": "aws:kms"},
        {"ETag": f'"{MD5}"', "ServerSideEncryption": "aws:kms:dsse"},
        {"ETag": f'"{MD5}"', "SSECustomerAlgorithm": "AES256"},
        {"ETag": '"0x8DC0FFEE"'},
        {"ETag": '"1784f-60a"'},
    ],
)
def test_an_etag_that_is_no_md5_of_what_is_read_says_nothing(head: dict[str, Any]) -> None:
    assert of_etag(head, _never) is None


@pytest.mark.parametrize(
    ("sizes", "part_bytes"),
    [
        ([7, 7, 4], 7),
        ([7], 7),
        # Not of one size, more than the object has, a server that knows no parts, and one that does not answer.
        ([7, 5, 7], None),
        ([4, 7, 7], None),
        ([18, 18, 18], None),
        ([None, None, None], None),
    ],
)
def test_an_etag_of_parts_is_taken_where_they_are_of_one_size(sizes: list[int | None], part_bytes: int | None) -> None:
    etag = f"{MD5}-{len(sizes)}"
    size_bytes = 7 if len(sizes) == 1 else 18 if sizes[0] != 7 or sizes[1] == 7 else 19
    found = of_etag({"ETag": f'"{etag}"', "ContentLength": size_bytes}, lambda part: sizes[part - 1])
    assert found == (Checksum("md5", etag, part_bytes) if part_bytes else None)
