"""From an image's reference to its bytes."""

import os
from pathlib import Path

from arno_shared.errors import ForbiddenPath, HouseError, InvalidUri, NotAnImage, SchemeNotAllowed, StorageRefused
from arno_shared.messages import ImageRef
from arno_shared.settings import LimitSettings
from arno_shared.storage import ObjectStore
from arno_shared.uris import file_uri, path_of, redact, scheme_of
from arno_workers.fetch.http import HttpFetcher
from arno_workers.fetch.schemes import check_scheme


class ImageReader:
    """Reads images from wherever `limits` allows. Thread-safe; share one per process."""

    def __init__(self, store: ObjectStore, limits: LimitSettings) -> None:
        self._store = store
        self._limits = limits
        self._http = HttpFetcher(limits)

    def read(self, image: ImageRef) -> bytes:
        """The bytes of an image: at least one, at most `limits.max_bytes`.

        `version_id` and `etag` hold for s3 and file; http(s) has no use for them.
        Raises ItemError (what is wrong with this image) or HouseError (storage is away, or turns Arno itself down).
        """
        scheme = scheme_of(image.uri)
        check_scheme(scheme, self._limits)
        match scheme:
            case "s3":
                data = self._stored(image, image.uri)
            case "file":
                data = self._stored(image, file_uri(self._allowed_file(image.uri)))
            case "http" | "https":
                data = self._http.get(image.uri)
            case _:
                raise SchemeNotAllowed(f"images cannot be read from {scheme[:50]}://")
        if not data:
            raise NotAnImage(f"empty: {redact(image.uri)[:200]} has no bytes")
        return data

    def _stored(self, image: ImageRef, uri: str) -> bytes:
        try:
            return self._store.get(uri, version_id=image.version_id, etag=image.etag, max_bytes=self._limits.max_bytes)
        except StorageRefused as error:
            # Arno's credentials are wrong or missing: no image is to blame, and none may fail for it.
            raise HouseError(str(error)) from error

    def _allowed_file(self, uri: str) -> Path:
        """The file behind `uri` with every link and `..` resolved, if it lies below a root."""
        try:
            path = Path(os.path.realpath(path_of(uri)))
        except (OSError, ValueError):
            raise InvalidUri(f"not a file's path: {redact(uri)[:200]!r}") from None
        if not any(path.is_relative_to(os.path.realpath(root)) for root in self._limits.file_roots):
            raise ForbiddenPath(f"{redact(uri)[:200]} is not below a folder of ARNO_LIMITS__FILE_ROOTS")
        if os.path.exists(path) and not os.path.isfile(path):
            raise ForbiddenPath(f"{redact(uri)[:200]} is not a file")
        return path
