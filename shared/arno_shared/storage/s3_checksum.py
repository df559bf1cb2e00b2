"""What S3 says of an object's bytes when it is asked for their checksum."""

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

from arno_shared.storage.backend import bare_etag
from arno_shared.storage.checksum import Checksum

_MD5 = re.compile(r"[0-9a-f]{32}(?:-(?P<parts>[1-9]\d{0,4}))?")


def of_whole_object(head: Mapping[str, Any]) -> Checksum | None:
    """The strongest one in what HEAD answers, of those that are of the whole object rather than of its parts."""
    kind_of = head.get("ChecksumType")
    # Of what was uploaded in parts, a checksum of which nothing is said may be of the parts' checksums.
    if kind_of == "COMPOSITE" or (kind_of is None and "-" in str(head.get("ETag", ""))):
        return None
    for field, kind in (("ChecksumSHA256", "sha256"), ("ChecksumSHA1", "sha1"), ("ChecksumCRC32", "crc32")):
        value = str(head.get(field, ""))
        # Servers without ChecksumType tell by the number of parts after a hyphen, which base64 does not have.
        if value and "-" not in value:
            return Checksum(kind, base64.b64decode(value).hex())
    return None


def of_etag(head: Mapping[str, Any], part_bytes: Callable[[int], int | None]) -> Checksum | None:
    """The MD5 that an ETag is, or the MD5 of those of the parts that the object was uploaded in; None where it is
    neither, or the parts are not of one size. `part_bytes` asks for the size of a part, counted from 1."""
    # With other keys than the storage's own, the ETag is that of what is encrypted.
    if head.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in head:
        return None
    found = _MD5.fullmatch(bare_etag(head["ETag"]).lower())
    if found is None:
        return None
    if found["parts"] is None:
        return Checksum("md5", found[0])
    parts, size_bytes = int(found["parts"]), int(head["ContentLength"])
    first, last = part_bytes(1), part_bytes(parts)
    if not first or not last or first * (parts - 1) + last != size_bytes or last > first:
        return None
    return Checksum("md5", found[0], first)
