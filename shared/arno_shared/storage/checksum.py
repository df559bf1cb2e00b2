"""What the bytes of an object add up to, in one of the ways that the standard library knows."""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Checksum:
    kind: str
    """`crc32`, or one of hashlib's."""
    value: str
    """Hexadecimal; of a digest of parts, followed by their number, as in an ETag: `…-7`."""
    part_bytes: int | None = None
    """Of a digest of the digests of parts: the size of each but the last."""

    def fits(self, path: Path) -> bool:
        """Whether the file at `path` has it. Raises OSError."""
        if self.part_bytes is None:
            return self._of_whole(path) == self.value
        digests = list(_md5_of_parts(path, self.part_bytes))
        whole = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
        return f"{whole}-{len(digests)}" == self.value

    def _of_whole(self, path: Path) -> str:
        with path.open("rb") as file:
            if self.kind != "crc32":
                return hashlib.file_digest(file, lambda: hashlib.new(self.kind, usedforsecurity=False)).hexdigest()
            crc = 0
            while block := file.read(_BLOCK_BYTES):
                crc = zlib.crc32(block, crc)
            return f"{crc:08x}"


def _md5_of_parts(path: Path, part_bytes: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        digest, missing = hashlib.md5(usedforsecurity=False), part_bytes
        while block := file.read(min(_BLOCK_BYTES, missing)):
            digest.update(block)
            missing -= len(block)
            if not missing:
                yield digest.digest()
                digest, missing = hashlib.md5(usedforsecurity=False), part_bytes
        if missing != part_bytes:
            yield digest.digest()
