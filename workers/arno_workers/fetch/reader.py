"""From an image's reference to its bytes."""

import os

from arno_shared.errors import (
    ForbiddenPath,
    HouseError,
    InvalidUri,
    NotAnImage,
    NotFound,
    SchemeNotAllowed,
    StorageRefused,
)
from arno_shared.messages import ImageRef
from arno_shared.settings import LimitSettings
from arno_shared.storage import ObjectStore
from arno_shared.storage.files import read_file
from arno_shared.uris import path_of, redact, scheme_of
from arno_workers.fetch.http import HttpFetcher
from arno_workers.fetch.schemes import check_scheme


class ImageReader:
    """Reads images from wherever `limits` allows. Thread-safe; share one per process."""

    def __init__(self, store: ObjectStore, limits: LimitSettings, uploads: str = "") -> None:
        """`uploads`: the prefix of pictures that the HTTP door was sent, which may be read whatever the limits say."""
        self._store = store
        self._limits = limits
        self._http = HttpFetcher(limits)
        self._uploads = uploads
        roots = [*limits.file_roots, *([path_of(uploads)] if uploads.startswith("file:") else [])]
        self._roots = tuple(os.path.join(os.path.abspath(root), "") for root in roots)
        self._real_roots = tuple(os.path.join(os.path.realpath(root), "") for root in roots)

    def read(self, image: ImageRef) -> bytes:
        """The bytes of an image: at least one, at most `limits.max_bytes`.

        `version_id` and `etag` hold for s3 and file; http(s) has no use for them.
        Raises ItemError (what is wrong with this image) or HouseError (storage is away, or turns Arno itself down).
        """
        scheme = scheme_of(image.uri)
        if not (self._uploads and image.uri.startswith(self._uploads)):
            check_scheme(scheme, self._limits)
        match scheme:
            case "s3":
                data = self._stored(image)
            case "file":
                data = self._file(image)
            case "http" | "https":
                data = self._http.get(image.uri)
            case _:
                raise SchemeNotAllowed(f"images cannot be read from {scheme[:50]}://")
        if not data:
            raise NotAnImage(f"empty: {redact(image.uri)[:200]} has no bytes")
        return data

    def _stored(self, image: ImageRef) -> bytes:
        try:
            return self._store.get(
                image.uri, version_id=image.version_id, etag=image.etag, max_bytes=self._limits.max_bytes
            )
        except StorageRefused as error:
            # Arno's credentials are wrong or missing: no image is to blame, and none may fail for it.
            raise HouseError(str(error)) from error

    def _file(self, image: ImageRef) -> bytes:
        if image.version_id is not None:
            raise NotFound(f"files have no versions: {redact(image.uri)}")
        try:
            path = os.path.normpath(path_of(image.uri))
        except ValueError:
            raise InvalidUri(f"not a file's path: {redact(image.uri)[:200]!r}") from None
        # Before it is opened: opening a device may do something.
        if not path.startswith((*self._roots, *self._real_roots)):
            raise _outside(image.uri)

        def check(real_path: str) -> None:
            if not real_path.startswith(self._real_roots):
                raise _outside(image.uri)

        return read_file(image.uri, path, image.etag, self._limits.max_bytes, allowed=check)


def _outside(uri: str) -> ForbiddenPath:
    return ForbiddenPath(f"{redact(uri)[:200]} is not below a folder of ARNO_LIMITS__FILE_ROOTS")
