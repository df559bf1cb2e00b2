"""Folders that files are read from: on a disk, or elsewhere, as long as they can be read in pieces."""

import json
from collections.abc import Callable, Collection, Mapping
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Any, Protocol

from arno_shared.errors import ModelUnusable
from arno_shared.storage import ObjectStore
from arno_shared.uris import redact

_MOST_JSON_BYTES = 64 * 2**20
_PIECE_BYTES = 2**20
_LFS_POINTER = b"version https://git-lfs"


_SAVED_IN_TRAINING = "checkpoint-"
"""How the names of sub-folders begin in which training leaves what it has."""


class Folder(Protocol):
    """Files by name; none of sub-folders."""

    @property
    def name(self) -> str:
        """As people are told of it."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """Of each file, in bytes."""
        ...

    @property
    def names(self) -> Collection[str]:
        """Of its files, and with slashes of those that training left in sub-folders."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """To read and seek in. Raises ModelUnusable."""
        ...


class LocalFolder:
    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        self.name = name or str(path)
        """Raises ModelUnusable."""
        try:
            self.sizes = {file.name: file.stat().st_size for file in sorted(path.iterdir()) if file.is_file()}
            saved = sorted(path.glob(f"{_SAVED_IN_TRAINING}*/*"))
        except OSError as error:
            raise ModelUnusable(f"the folder {self.name} cannot be read: {error.strerror}") from error
        self.names = [*self.sizes, *(file.relative_to(path).as_posix() for file in saved)]

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self.path / name).open("rb")
        except OSError as error:
            raise ModelUnusable(f"{name} cannot be read: {error.strerror}") from error


class StoredFolder:
    """A folder in object storage, of whose files no more is read than is asked for."""

    def __init__(self, uri: str, store: ObjectStore) -> None:
        """Raises HouseError, and ItemError of what storage says of the folder."""
        self.name, self._store = redact(uri), store
        prefix = uri.rstrip("/") + "/"
        found = {one.uri.removeprefix(prefix): one for one in store.list(prefix)}
        self._objects = {name: one for name, one in found.items() if name and "/" not in name}
        self.sizes = {name: one.size_bytes for name, one in self._objects.items()}
        self.names = [name for name in found if name in self.sizes or name.startswith(_SAVED_IN_TRAINING)]

    def open(self, name: str) -> IO[bytes]:
        one = self._objects[name]

        def read_range(start: int, stop: int) -> bytes:
            return self._store.get_range(one.uri, start, stop, etag=one.etag)

        return RangedFile.buffered(one.size_bytes, read_range)


class RangedFile(RawIOBase):
    """A file of which any range of bytes can be asked for, as a file to seek in."""

    def __init__(self, size_bytes: int, read_range: Callable[[int, int], bytes]) -> None:
        """`read_range`: the bytes from a place to another, which is not among them."""
        self._size, self._read_range, self._at = size_bytes, read_range, 0

    @classmethod
    def buffered(cls, size_bytes: int, read_range: Callable[[int, int], bytes]) -> BufferedReader:
        return BufferedReader(cls(size_bytes, read_range), _PIECE_BYTES)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + {0: 0, 1: self._at, 2: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._size, self._at + len(buffer))
        if stop <= self._at:
            return 0
        data = self._read_range(self._at, stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def read_json(folder: Folder, name: str) -> dict[str, Any]:
    """An object of JSON. Raises ModelUnusable when it is none."""
    if folder.sizes[name] > _MOST_JSON_BYTES:
        raise ModelUnusable(f"{name} has {folder.sizes[name]:,} bytes, which no {name} has")
    with folder.open(name) as file:
        data = file.read()
    check_no_pointer(name, data)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelUnusable(f"{name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelUnusable(f"{name} is not an object of JSON")
    return value


def check_no_pointer(name: str, beginning: bytes) -> None:
    """Raises ModelUnusable when git left a pointer in place of a large file."""
    if beginning.startswith(_LFS_POINTER):
        raise ModelUnusable(f"{name} is a pointer of Git LFS and not the file itself: run `git lfs pull` in its folder")
