"""S3 through obstore: the fast path for whole objects.

It takes a tenth of boto3's time under the interpreter lock, which a worker's GPU thread needs. What it cannot do, and
whatever it fails at for any reason, goes through boto3: errors, retries and odd keys are dealt with in one place.

Only its synchronous calls are used: its asynchronous ones can abort the interpreter at exit.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO

import obstore
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

from arno_shared.storage.backend import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    StoredObject,
    bare_etag,
    check_etag,
    check_size,
)
from arno_shared.storage.checksum import Checksum
from arno_shared.storage.s3 import S3, split_object

if TYPE_CHECKING:
    from obstore import GetOptions


class BulkS3:
    """The backend of `s3://` where obstore is installed."""

    def __init__(self, careful: S3, connections: int) -> None:
        self._careful = careful
        self._connections = connections
        self._stores: dict[str, S3Store] = {}
        self._lock = Lock()

    def get(self, uri: str, *, version_id: str | None, etag: str | None, max_bytes: int | None) -> bytes:
        bucket, key = split_object(uri)
        if version_id is None and _is_plain(key):
            with suppress(Exception):
                answer = obstore.get(self._store(bucket), key)
                check_etag(uri, etag, answer.meta["e_tag"] or "")
                check_size(uri, answer.meta["size"], max_bytes)
                return answer.bytes().to_bytes()
        return self._careful.get(uri, version_id=version_id, etag=etag, max_bytes=max_bytes)

    def get_range(self, uri: str, start: int, stop: int, *, etag: str | None) -> bytes:
        bucket, key = split_object(uri)
        if _is_plain(key):
            with suppress(Exception):
                # obstore itself refuses an answer that is of another range.
                options: GetOptions = {"range": (start, stop), "if_match": etag and f'"{bare_etag(etag)}"'}
                answer = obstore.get(self._store(bucket), key, options=options)
                check_etag(uri, etag, answer.meta["e_tag"] or "")
                return answer.bytes().to_bytes()
        return self._careful.get_range(uri, start, stop, etag=etag)

    def checksum(self, uri: str, *, etag: str) -> Checksum | None:
        return self._careful.checksum(uri, etag=etag)

    def download(self, uri: str, file: BinaryIO) -> None:
        self._careful.download(uri, file)

    def put(self, uri: str, data: bytes, content_type: str) -> None:
        bucket, key = split_object(uri)
        if _is_plain(key):
            with suppress(Exception):
                attributes = {"Content-Type": content_type}
                obstore.put(self._store(bucket), key, data, attributes=attributes, use_multipart=False)
                return
        self._careful.put(uri, data, content_type)

    def put_new(self, uri: str, data: bytes, content_type: str) -> bool:
        bucket, key = split_object(uri)
        if self._careful.honours.get(bucket) and _is_plain(key):
            # AlreadyExistsError is not trusted: obstore raises it also for 409, which says that the outcome is open.
            with suppress(Exception):
                attributes = {"Content-Type": content_type}
                obstore.put(self._store(bucket), key, data, attributes=attributes, use_multipart=False, mode="create")
                return True
        return self._careful.put_new(uri, data, content_type)

    def conditional_writes(self, prefix_uri: str) -> bool:
        return self._careful.conditional_writes(prefix_uri)

    def exists(self, uri: str) -> bool:
        return self._careful.exists(uri)

    def delete(self, uri: str) -> None:
        self._careful.delete(uri)

    def list(self, prefix_uri: str) -> Iterator[StoredObject]:
        return self._careful.list(prefix_uri)

    def _store(self, bucket: str) -> S3Store:
        with self._lock:
            if bucket not in self._stores:
                self._stores[bucket] = self._open(bucket)
            return self._stores[bucket]

    def _open(self, bucket: str) -> S3Store:
        # boto3's own endpoint, in whichever way it was configured: the two must never write to different servers.
        endpoint = self._careful.client.meta.endpoint_url
        return S3Store(
            bucket,
            endpoint=endpoint,
            virtual_hosted_style_request=False,
            # Asked again and again, which is free, so that what boto3 has renewed is soon used here too.
            credential_provider=Boto3CredentialProvider(self._careful.session, ttl=timedelta(minutes=1)),
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
                "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
                "pool_max_idle_per_host": str(self._connections),
            },
            retry_config={"max_retries": 0},
        )


def _is_plain(key: str) -> bool:
    """Whether obstore asks for this key as written: it drops slashes at the ends, and refuses these segments."""
    return not {"", ".", ".."} & set(key.split("/"))
