"""S3 through boto3: every operation, and errors told precisely."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from arno_shared.errors import InvalidUri, NotFound, StorageRefused
from arno_shared.storage.backend import StoredObject, bare_etag, check_etag, check_size
from arno_shared.storage.s3_errors import why_not_read, why_not_written
from arno_shared.uris import redact, split_s3

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20
MAX_ATTEMPTS = 3

# A name only: an ARN, or a suffix such as `--x-s3`, would let a stranger's URI choose the host that is connected to.
_BUCKET = re.compile(r"(?!.*--[a-z]+-s3$)[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class S3:
    """The backend of `s3://` for everything. Credentials, region and endpoint are found as AWS's tools find them."""

    def __init__(self, connections: int) -> None:
        try:
            self.session = boto3.session.Session()
            self.client = self.session.client("s3", config=_config(connections))
        except (BotoCoreError, ValueError) as error:
            raise StorageRefused(f"object storage is set up wrongly, check AWS_*: {redact(str(error))}") from error

    def get(self, uri: str, *, version_id: str | None, etag: str | None, max_bytes: int | None) -> bytes:
        bucket, key = split_object(uri)
        pins: dict[str, Any] = {}
        if version_id is not None:
            pins["VersionId"] = version_id
        if etag is not None:
            pins["IfMatch"] = f'"{bare_etag(etag)}"'
        with self._reading(uri):
            answer = self.client.get_object(Bucket=bucket, Key=key, **pins)
            # Closed, not drained: what is over the limit is never read.
            with answer["Body"]:
                check_etag(uri, etag, answer.get("ETag", ""))
                check_size(uri, answer.get("ContentLength", 0), max_bytes)
                data: bytes = answer["Body"].read()
                return data

    def download(self, uri: str, file: BinaryIO) -> None:
        bucket, key = split_object(uri)
        with self._reading(uri):
            self.client.download_fileobj(bucket, key, file)

    def put(self, uri: str, data: bytes, content_type: str) -> None:
        bucket, key = split_object(uri)
        try:
            self.client.put_object(Bucket=bucket, Key=key, Body=data, ContentType=content_type)
        except (BotoCoreError, ClientError, HTTPError) as error:
            raise why_not_written(bucket, self.client.meta.endpoint_url, error) from error

    def exists(self, uri: str) -> bool:
        bucket, key = split_object(uri)
        try:
            with self._reading(uri):
                self.client.head_object(Bucket=bucket, Key=key)
        except NotFound:
            return False
        return True

    def list(self, prefix_uri: str) -> Iterator[StoredObject]:
        bucket, prefix = _split(prefix_uri)
        with self._reading(prefix_uri):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for entry in page.get("Contents", ()):
                    yield StoredObject(f"s3://{bucket}/{entry['Key']}", entry["Size"], bare_etag(entry["ETag"]))

    @contextmanager
    def _reading(self, uri: str) -> Iterator[None]:
        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError, HTTPError) as error:
            raise why_not_read(uri, self.client.meta.endpoint_url, error) from error


def split_object(uri: str) -> tuple[str, str]:
    """`s3://bucket/key` → bucket, key. Raises InvalidUri when either is missing or the bucket is no plain name."""
    bucket, key = _split(uri)
    if not key:
        raise InvalidUri(f"no key in {redact(uri)[:200]!r}")
    return bucket, key


def _split(uri: str) -> tuple[str, str]:
    bucket, key = split_s3(uri)
    if not _BUCKET.fullmatch(bucket):
        raise InvalidUri(f"what follows s3:// is not a bucket's name: {redact(uri)[:200]!r}")
    return bucket, key


def _config(connections: int) -> Config:
    has_own_endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return Config(
        max_pool_connections=connections,
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        s3={"addressing_style": "path" if has_own_endpoint else "auto"},
        # Servers other than AWS's own do not all know the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
