"""Objects, copied into a folder: many parts at once, each of the object that was listed, and checked at the end."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TypeVar

from arno_shared.errors import ConnectionFailed, ItemError, ModelUnusable
from arno_shared.logs import get_logger
from arno_shared.storage import ObjectStore, StoredObject
from arno_shared.uris import redact

log = get_logger(__name__)

PART_BYTES = 16 * 2**20
"""As much of each part that is under way is in memory."""

_PARTS_AT_ONCE = 8
_TRIES = 3

S = TypeVar("S")
T = TypeVar("T")


class _Part(NamedTuple):
    found: StoredObject
    start: int
    stop: int


class Transfer:
    """Copies objects into `folder`, each under the last name of its key."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._done_bytes = 0
        self._lock = Lock()

    @property
    def done_bytes(self) -> int:
        return self._done_bytes

    def copy(self, objects: Sequence[StoredObject]) -> dict[str, str]:
        """Returns, of each file, by what it was checked; all are on the disk then.

        Raises Changed when an object is no longer the one that was listed, ModelUnusable when it comes wrong twice, the
        store's errors, OSError.
        """
        checked_by = self._copied(objects)
        if wrong := [found for found in objects if not checked_by[found.uri]]:
            log.warning("wrong bytes came, fetching them once more", objects=[found.uri for found in wrong])
            checked_by |= self._copied(wrong)
        for found in wrong:
            if not checked_by[found.uri]:
                raise ModelUnusable(
                    f"what comes of {redact(found.uri)} is not what storage says it is: its checksum differs, twice. "
                    "Upload it again, or name a folder of this machine"
                )
        return {self._path(found).name: checked_by[found.uri] for found in objects}

    def _copied(self, objects: Sequence[StoredObject]) -> dict[str, str]:
        """By URI: by what each was checked; an empty text when it was found wrong."""
        for found in objects:
            with self._path(found).open("wb") as file:
                file.truncate(found.size_bytes)
        parts = [
            _Part(found, start, min(start + PART_BYTES, found.size_bytes))
            for found in objects
            for start in range(0, found.size_bytes, PART_BYTES)
        ]
        _at_once(self._copy, parts)
        return dict(zip([found.uri for found in objects], _at_once(self._check, objects), strict=True))

    def _copy(self, part: _Part) -> None:
        data = self._read(part)
        with self._path(part.found).open("r+b") as file:
            file.seek(part.start)
            file.write(data)
        with self._lock:
            self._done_bytes += len(data)

    def _read(self, part: _Part, tries: int = _TRIES) -> bytes:
        found, start, stop = part
        try:
            data = self._store.get_range(found.uri, start, stop, etag=found.etag or None)
            if len(data) != stop - start:
                raise ConnectionFailed(f"{len(data)} bytes came of {redact(found.uri)} where {stop - start} were due")
        except ItemError as error:
            if not error.retryable or tries == 1:
                raise
            log.warning("a part did not come, asking again", object=found.uri, start=start, error=str(error))
            return self._read(part, tries - 1)
        return data

    def _check(self, found: StoredObject) -> str:
        path = self._path(found)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        checksum = self._store.checksum(found.uri, etag=found.etag) if found.etag else None
        if checksum is None:
            return "size"
        return checksum.kind if checksum.fits(path) else ""

    def _path(self, found: StoredObject) -> Path:
        return self._folder / found.uri.rpartition("/")[2]


def _at_once(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """What the first that fails raises, once those that are under way have ended; the others do not begin."""
    pool = ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="model-download")
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)
