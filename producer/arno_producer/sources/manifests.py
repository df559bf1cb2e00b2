"""Manifests: files that list images, on this machine or in s3://."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import BinaryIO

from arno_producer.sources.columns import Columns
from arno_producer.sources.lines import read_lines
from arno_producer.sources.tables import read_csv, read_parquet
from arno_shared.errors import InvalidRequest
from arno_shared.messages import ImageRef

_READERS = {
    ".txt": read_lines,
    ".jsonl": read_lines,
    ".ndjson": read_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
MANIFEST_EXTENSIONS = tuple(_READERS)

_CONNECTIONS = 10
"""As many as boto3 downloads one object with."""


def read_local(path: Path, columns: Columns) -> Iterator[ImageRef]:
    """Raises InvalidRequest, which names file and line."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
    with file:
        yield from _READERS[path.suffix.lower()](file, str(path), columns)


def read_object(uri: str, columns: Columns) -> Iterator[ImageRef]:
    """Raises InvalidRequest, which names file and line; NotFound, AccessDenied, HouseError and what else storage says.

    It is copied to a temporary file first: submission may take days, and no download stays open for so long.
    """
    with TemporaryFile() as file:
        _download(uri, file)
        file.seek(0)
        yield from _READERS[PurePosixPath(uri.lower()).suffix](file, uri, columns)


def _download(uri: str, file: BinaryIO) -> None:
    from boto3.exceptions import RetriesExceededError
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    from arno_shared.storage.s3 import S3, split_object
    from arno_shared.storage.s3_errors import why_not_read

    bucket, key = split_object(uri)
    client = S3(_CONNECTIONS).client
    try:
        client.download_fileobj(bucket, key, file)
    except (BotoCoreError, ClientError, HTTPError, RetriesExceededError) as error:
        raise why_not_read(uri, client.meta.endpoint_url, error) from error
