"""The one door to stored objects."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from threading import Lock
from typing import BinaryIO

from arno_shared.errors import CredentialsRefused, InvalidUri
from arno_shared.storage.backend import Arbiter, Backend, NoArbiter, StoredObject
from arno_shared.storage.checksum import Checksum
from arno_shared.storage.files import Files
from arno_shared.uris import redact, scheme_of


class ObjectStore:
    """Reads and writes objects by URI (`s3://bucket/key`, `file:///path`). Thread-safe; share one per process.

    S3 is reached with AWS's own variables; `connections` is how many threads may use it at once. `arbiter`, where it
    is given, stands in for storage that cannot write conditionally (`storage.arbiter`).

    Every method raises HouseError when storage cannot be reached, CredentialsRefused when it turns Arno itself away (no
    credentials, or wrong ones; they are looked up anew by the next call) and InvalidUri. What the storage says of one
    object is an ItemError.
    """

    def __init__(self, connections: int = 16, arbiter: Arbiter | None = None) -> None:
        self._connections = connections
        self._arbiter = arbiter or NoArbiter()
        self._files = Files(self._arbiter)
        self._lock = Lock()

    def get(
        self, uri: str, *, version_id: str | None = None, etag: str | None = None, max_bytes: int | None = None
    ) -> bytes:
        """The bytes of an object.

        Raises NotFound, AccessDenied, Changed (`etag` given, and the object has another), TooManyBytes (before the
        object is read), HttpError, Timeout, Throttled, Unavailable, ConnectionFailed.
        """
        with self._backend(uri) as backend:
            return backend.get(uri, version_id=version_id, etag=etag, max_bytes=max_bytes)

    def get_range(self, uri: str, start: int, stop: int, *, etag: str | None = None) -> bytes:
        """The bytes from `start` to before `stop`, fewer where the object ends earlier; none are asked for when the
        range is empty. Raises as `get` does, and HttpError where the object does not reach to `start`."""
        if start >= stop:
            return b""
        with self._backend(uri) as backend:
            return backend.get_range(uri, start, stop, etag=etag)

    def download(self, uri: str, file: BinaryIO) -> None:
        """Copies an object of any size to the end of `file`. Raises as `get` does."""
        with self._backend(uri) as backend:
            backend.download(uri, file)

    def checksum(self, uri: str, *, etag: str) -> Checksum | None:
        """What the storage says of the bytes of the object with this ETag; None where it says nothing that can be
        computed here. Raises as `get` does."""
        with self._backend(uri) as backend:
            return backend.checksum(uri, etag=etag)

    def put(self, uri: str, data: bytes, content_type: str) -> None:
        """Write an object whole, in place of any that is there; when it returns, the object is durable.

        Raises HouseError for anything that may pass, and StorageRefused for what will not: no such bucket, access
        denied, a path that cannot be written.
        """
        with self._backend(uri) as backend:
            backend.put(uri, data, content_type)

    def put_new(self, uri: str, data: bytes, content_type: str) -> bool:
        """Write an object where there is none: True when this call wrote it, and it is durable; False when one stands
        there, which is left as it is. Raises as `put` does.

        False does not say that somebody else wrote it: where the answer to a write is lost, it is tried again, and
        meets its own object. Callers read what stands there.

        Where `conditional_writes` is False, storage is asked first and written to afterwards. The arbiter lets one at a
        time do so, and others wait shortly, then get HouseError; without one, who writes in between is overwritten. So
        is, in either case, what these credentials may not see.
        """
        with self._backend(uri) as backend:
            return backend.put_new(uri, data, content_type)

    def conditional_writes(self, prefix_uri: str) -> bool:
        """Whether storage itself sees to it that of several that call `put_new` at the same moment only one gets True,
        below a prefix that ends in a slash. Files always do; a bucket is tried once, with a small object that is left
        below the prefix. Raises as `put` does.
        """
        with self._backend(prefix_uri) as backend:
            return backend.conditional_writes(prefix_uri)

    def exists(self, uri: str) -> bool:
        """Whether there is an object. Raises as `get` does, but for NotFound."""
        with self._backend(uri) as backend:
            return backend.exists(uri)

    def delete(self, uri: str) -> None:
        """Removes an object; one that is not there is removed already. Raises as `put` does."""
        with self._backend(uri) as backend:
            backend.delete(uri)

    def list(self, prefix_uri: str) -> Iterator[StoredObject]:
        """The objects whose URI starts with `prefix_uri`, page by page, in order. A `file://` prefix is a folder.

        Where nothing lies, nothing is listed; a bucket that does not exist raises NotFound.
        """
        with self._backend(prefix_uri) as backend:
            yield from backend.list(prefix_uri)

    @contextmanager
    def _backend(self, uri: str) -> Iterator[Backend]:
        backend = self._backend_of(uri)
        try:
            yield backend
        except CredentialsRefused:
            # boto3 keeps what it found first: only a new session sees what was put right, in a file or by a role.
            with self._lock:
                if self.__dict__.get("_s3") is backend:
                    del self._s3
            raise

    def _backend_of(self, uri: str) -> Backend:
        match scheme_of(uri):
            case "file":
                return self._files
            case "s3":
                with self._lock:
                    return self._s3
            case scheme:
                raise InvalidUri(f"objects are stored in s3:// or file://, not in {scheme}://: {redact(uri)[:200]!r}")

    @cached_property
    def _s3(self) -> Backend:
        # Imported late: boto3 takes a third of a second, which a process that only knows files need not wait for.
        from arno_shared.storage.s3 import S3

        careful = S3(self._connections, self._arbiter)
        try:
            from arno_shared.storage.s3_bulk import BulkS3
        except ImportError:
            return careful
        return BulkS3(careful, self._connections)
