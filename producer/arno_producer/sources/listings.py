"""Listings: the images below a local folder, or under a prefix of a bucket."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from arno_shared.errors import InvalidRequest
from arno_shared.messages import ImageRef
from arno_shared.storage import ObjectStore
from arno_shared.uris import file_uri

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def folder_images(folder: Path) -> Iterator[ImageRef]:
    """In an order that is the same every time, so that a job can be submitted again. Links to folders are not followed.

    Raises InvalidRequest when a folder cannot be read.
    """
    for directory, subfolders, names in os.walk(folder, onerror=_refuse):
        subfolders.sort()
        for name in sorted(names):
            if name.lower().endswith(IMAGE_EXTENSIONS):
                yield ImageRef(uri=_uri(Path(directory, name)))


def bucket_images(prefix_uri: str, store: ObjectStore) -> Iterator[ImageRef]:
    """In the bucket's own order. A prefix is how keys begin: `s3://bucket/a` has `ab.jpg` too, `s3://bucket/a/` not."""
    for stored in store.list(prefix_uri):
        if stored.uri.lower().endswith(IMAGE_EXTENSIONS):
            yield ImageRef(uri=stored.uri)


def _refuse(error: OSError) -> NoReturn:
    raise InvalidRequest(f"{error.filename} cannot be read: {error.strerror}")


def _uri(path: Path) -> str:
    try:
        return file_uri(path)
    except UnicodeEncodeError:
        raise InvalidRequest(f"{str(path)!r}: the name is not UTF-8, as a URI's must be; rename the file") from None
