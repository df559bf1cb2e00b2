"""Stores that use one S3 client or the other."""

import sys

import pytest

from arno_shared.storage import ObjectStore

S3_CLIENTS = ("boto3", "obstore")


def make_store(client: str) -> ObjectStore:
    """A store that goes where the environment says now."""
    store = ObjectStore()
    with pytest.MonkeyPatch.context() as patch:
        if client == "boto3":
            patch.setitem(sys.modules, "arno_shared.storage.s3_bulk", None)
        assert store._s3
    return store
