"""Manifests: files that list images, on this machine or in s3://."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile

from arno_producer.sources.columns import Columns
from arno_producer.sources.lines import read_lines
from arno_producer.sources.tables import read_csv, read_parquet
from arno_shared.errors import InvalidRequest
from arno_shared.messages import ImageRef
from arno_shared.storage import ObjectStore

_READERS = {
    ".txt": read_lines,
    ".jsonl": read_lines,
    ".ndjson": read_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
MANIFEST_EXTENSIONS = tuple(_READERS)


def read_local(path: Path, columns: Columns) -> Iterator[ImageRef]:
    """Raises InvalidRequest, which names file and line."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
    with file:
        yield from _READERS[path.suffix.lower()](file, str(path), columns)


def read_object(uri: str, store: ObjectStore, columns: Columns) -> Iterator[ImageRef]:
    """Raises InvalidRequest, which names file and line; NotFound, AccessDenied, HouseError and what else storage says.

    It is copied to a temporary file first: submission may take days, and no download stays open for so long.
    """
    with TemporaryFile() as file:
        store.download(uri, file)
        file.seek(0)
        yield from _READERS[PurePosixPath(uri.lower()).suffix](file, uri, columns)
