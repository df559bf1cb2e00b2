"""S3 through boto3: every operation, and errors told precisely."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from arno_shared.errors import (
    AccessDenied,
    HouseError,
    HttpError,
    InvalidUri,
    ItemError,
    NotFound,
    StorageRefused,
    Unavailable,
)
from arno_shared.names import conditional_probe_uri
from arno_shared.storage.backend import (
    CONNECT_TIMEOUT_S,
    MAX_ATTEMPTS,
    READ_TIMEOUT_S,
    Arbiter,
    StoredObject,
    bare_etag,
    check_etag,
    check_size,
)
from arno_shared.storage.checksum import Checksum
from arno_shared.storage.s3_checksum import of_etag, of_whole_object
from arno_shared.storage.s3_errors import is_unmet_condition, why_not_read, why_not_written
from arno_shared.uris import redact, split_s3


class S3:
    """The backend of `s3://` for everything. Credentials, region and endpoint are found as AWS's tools find them."""

    def __init__(self, connections: int, arbiter: Arbiter) -> None:
        self._arbiter = arbiter
        self.honours: dict[str, bool] = {}
        """By bucket: whether it honours `If-None-Match: *`. Many stores do not, and half of those say nothing."""
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

    def get_range(self, uri: str, start: int, stop: int, *, etag: str | None) -> bytes:
        bucket, key = split_object(uri)
        pins: dict[str, Any] = {"IfMatch": f'"{bare_etag(etag)}"'} if etag is not None else {}
        with self._reading(uri):
            answer = self.client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **pins)
            with answer["Body"]:
                check_etag(uri, etag, answer.get("ETag", ""))
                # A server that knows no ranges answers with the whole.
                if not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
                    raise HttpError(f"object storage gives no part of {redact(uri)[:500]}: it knows no ranges")
                data: bytes = answer["Body"].read()
                return data

    def checksum(self, uri: str, *, etag: str) -> Checksum | None:
        head = self._head(uri, IfMatch=f'"{bare_etag(etag)}"', ChecksumMode="ENABLED")
        check_etag(uri, etag, head.get("ETag", ""))
        return of_whole_object(head) or of_etag(head, lambda part: self._part_bytes(uri, part))

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

    def put_new(self, uri: str, data: bytes, content_type: str) -> bool:
        bucket, _ = split_object(uri)
        if self.honours.get(bucket):
            return self._create(uri, data, content_type)

        def write() -> bool:
            if bucket not in self.honours:
                return self._create_and_learn(uri, data, content_type)
            self.put(uri, data, content_type)
            return True

        return self._arbiter.write_new(uri, data, lambda: self._stands(uri), write)

    def conditional_writes(self, prefix_uri: str) -> bool:
        bucket, _ = split_s3(prefix_uri)
        if bucket not in self.honours:
            self._create_and_learn(conditional_probe_uri(prefix_uri), b"", "text/plain")
        return self.honours[bucket]

    def exists(self, uri: str) -> bool:
        try:
            self._look(uri)
        except NotFound:
            return False
        return True

    def delete(self, uri: str) -> None:
        bucket, key = split_object(uri)
        try:
            self.client.delete_object(Bucket=bucket, Key=key)
        except (BotoCoreError, ClientError, HTTPError) as error:
            raise why_not_written(bucket, self.client.meta.endpoint_url, error) from error

    def list(self, prefix_uri: str) -> Iterator[StoredObject]:
        bucket, prefix = split_s3(prefix_uri)
        with self._reading(prefix_uri):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for entry in page.get("Contents", ()):
                    yield StoredObject(f"s3://{bucket}/{entry['Key']}", entry["Size"], bare_etag(entry["ETag"]))

    def _part_bytes(self, uri: str, part: int) -> int | None:
        """Of an object that was uploaded in parts; None where the storage does not say."""
        try:
            # Without a condition: some servers tell the part's own ETag.
            size_bytes: int | None = self._head(uri, PartNumber=part).get("ContentLength")
        except (HttpError, Unavailable):
            return None
        return size_bytes

    def _head(self, uri: str, **options: Any) -> Mapping[str, Any]:
        bucket, key = split_object(uri)
        with self._reading(uri):
            return self.client.head_object(Bucket=bucket, Key=key, **options)

    def _create(self, uri: str, data: bytes, content_type: str) -> bool:
        """`put` on the condition that nothing stands there: False when something does."""
        bucket, key = split_object(uri)
        try:
            self.client.put_object(Bucket=bucket, Key=key, Body=data, ContentType=content_type, IfNoneMatch="*")
        except (BotoCoreError, ClientError, HTTPError) as error:
            if is_unmet_condition(error):
                return False
            raise why_not_written(bucket, self.client.meta.endpoint_url, error) from error
        return True

    def _create_and_learn(self, uri: str, data: bytes, content_type: str) -> bool:
        """`_create`, twice: a bucket that lets it through again ignores the condition. The same bytes do no harm."""
        bucket, _ = split_object(uri)
        try:
            created = self._create(uri, data, content_type)
            self.honours[bucket] = not (created and self._create(uri, data, content_type))
        except StorageRefused:
            # Perhaps of the condition alone: a plain put tells.
            self.put(uri, data, content_type)
            self.honours[bucket] = False
            return True
        return created

    def _stands(self, uri: str) -> bool:
        """`exists`, with the errors of a put."""
        try:
            return self.exists(uri)
        except AccessDenied:
            # So says AWS also of what is not there, to whom may not list: whether it may be written shows when it is.
            return False
        except ItemError as error:
            raise (HouseError if error.retryable else StorageRefused)(str(error)) from error

    def _look(self, uri: str) -> None:
        bucket, key = split_object(uri)
        try:
            with self._reading(uri):
                self.client.head_object(Bucket=bucket, Key=key)
        except (AccessDenied, HttpError):
            # What answers HEAD cannot say why, and no object is to blame for wrong credentials: GET is told.
            with self._reading(uri):
                self.client.get_object(Bucket=bucket, Key=key)["Body"].close()

    @contextmanager
    def _reading(self, uri: str) -> Iterator[None]:
        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError, HTTPError) as error:
            raise why_not_read(uri, self.client.meta.endpoint_url, error) from error


def split_object(uri: str) -> tuple[str, str]:
    """`s3://bucket/key` → bucket, key. Raises InvalidUri when either is missing or the bucket is no plain name."""
    bucket, key = split_s3(uri)
    if not key:
        raise InvalidUri(f"no key in {redact(uri)[:200]!r}")
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
