"""Objects in S3 and in files, told apart by their URI."""

from arno_shared.storage.backend import StoredObject
from arno_shared.storage.checksum import Checksum
from arno_shared.storage.store import ObjectStore

__all__ = ["Checksum", "ObjectStore", "StoredObject"]
