"""What every kind of storage can do, and the checks that they share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from arno_shared.errors import Changed, TooManyBytes
from arno_shared.storage.checksum import Checksum
from arno_shared.uris import redact

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20
MAX_ATTEMPTS = 3
"""Of calls of S3."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing. `etag` comes without its quotation marks."""

    uri: str
    size_bytes: int
    etag: str


class Backend(Protocol):
    """One kind of storage. The methods and their errors are those of `ObjectStore`."""

    def get(self, uri: str, *, version_id: str | None, etag: str | None, max_bytes: int | None) -> bytes: ...

    def get_range(self, uri: str, start: int, stop: int, *, etag: str | None) -> bytes: ...

    def download(self, uri: str, file: BinaryIO) -> None: ...

    def checksum(self, uri: str, *, etag: str) -> Checksum | None: ...

    def put(self, uri: str, data: bytes, content_type: str) -> None: ...

    def put_new(self, uri: str, data: bytes, content_type: str) -> bool: ...

    def conditional_writes(self, prefix_uri: str) -> bool: ...

    def exists(self, uri: str) -> bool: ...

    def delete(self, uri: str) -> None: ...

    def list(self, prefix_uri: str) -> Iterator[StoredObject]: ...


class Arbiter(Protocol):
    """Stands between those that look whether an object stands and then write it."""

    def write_new(self, uri: str, data: bytes, stands: Callable[[], bool], write: Callable[[], bool]) -> bool:
        """False when the object `stands`; else what `write` says, which writes `data` there."""
        ...


class NoArbiter:
    """Whoever writes between another's look and its write is overwritten."""

    def write_new(self, uri: str, data: bytes, stands: Callable[[], bool], write: Callable[[], bool]) -> bool:
        return not stands() and write()


def bare_etag(etag: str) -> str:
    """The ETag without quotation marks and weakness: events, listings and headers each write it differently."""
    return etag.removeprefix("W/").strip('"')


def check_etag(uri: str, expected: str | None, found: str) -> None:
    """Raises Changed. Some servers ignore `If-Match`, so the answer is checked too."""
    if expected is not None and bare_etag(expected) != bare_etag(found):
        raise Changed(f"{redact(uri)} is no longer the object that was asked for: its ETag differs")


def check_size(uri: str, size_bytes: int, max_bytes: int | None) -> None:
    """Raises TooManyBytes."""
    if max_bytes is not None and size_bytes > max_bytes:
        raise TooManyBytes(f"{redact(uri)} has {size_bytes} bytes; at most {max_bytes} are allowed")
