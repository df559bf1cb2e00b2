"""A folder in object storage, kept on this machine: downloaded once, whichever process needs it first."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from arno_shared.checkpoint.contents import Contents, check_contents
from arno_shared.checkpoint.files import Wanted, files_to_read
from arno_shared.errors import ArnoError, Changed, ModelUnusable, NotFound
from arno_shared.logs import get_logger
from arno_shared.storage import ObjectStore, StoredObject
from arno_shared.storage.files import sync_folder
from arno_shared.uris import redact
from arno_workers.engine.checkpoint.file_lock import lock
from arno_workers.engine.checkpoint.progress import logged
from arno_workers.engine.checkpoint.transfer import Transfer
from arno_workers.engine.checkpoint.unwritable import why_not_kept

log = get_logger(__name__)

_LOCKS = ".locks"
_PARTIAL = ".partial-"
"""How the name of a folder begins that is not whole yet."""


def fetch_folder(uri: str, wanted: Wanted, cache: Path, store: ObjectStore) -> Path:
    """A folder with those of the files below `uri` that are read. It is kept under the digest of their names and ETags:
    a changed one is a new download. Raises ModelUnusable."""
    try:
        try:
            return _fetched(uri, wanted, cache, store)
        except Changed as error:
            log.warning("the folder changed while it was downloaded, beginning again", model=uri, error=str(error))
            return _fetched(uri, wanted, cache, store)
    except ModelUnusable:
        raise
    except Changed as error:
        raise ModelUnusable(f"{redact(uri)} changes while it is downloaded: {error}") from error
    except ArnoError as error:
        raise ModelUnusable(f"the {wanted} at {redact(uri)} cannot be read: {error}") from error
    except OSError as error:
        raise why_not_kept(redact(uri), cache, "ARNO_WORKER__MODEL_CACHE", error) from error


def _fetched(uri: str, wanted: Wanted, cache: Path, store: ObjectStore) -> Path:
    """Raises Changed, too."""
    prefix = uri.rstrip("/") + "/"
    listed = {found.uri.removeprefix(prefix): found for found in store.list(prefix)}
    if not listed:
        raise ModelUnusable(f"there is no object below {redact(prefix)}: {wanted.setting} names a folder with files")
    check_contents(Contents(uri, listed, lambda name: store.get(listed[name].uri)), wanted)
    objects = [listed[name] for name in files_to_read(listed, wanted)]
    folder = cache / _digest(objects)
    if not _is_whole(folder, objects):
        (cache / _LOCKS).mkdir(parents=True, exist_ok=True)
        with lock(cache / _LOCKS / folder.name, lambda: log.info("another worker downloads it, waiting", model=uri)):
            # Perhaps it is there by now.
            if not _is_whole(folder, objects):
                _remove_leftovers(cache)
                _download(uri, objects, folder, store)
    return folder


def _download(uri: str, objects: Sequence[StoredObject], folder: Path, store: ObjectStore) -> None:
    """Under another name until it is whole and on the disk."""
    partial = folder.with_name(_PARTIAL + folder.name)
    shutil.rmtree(partial, ignore_errors=True)
    if folder.exists():
        log.warning("what is kept of it is damaged, downloading it anew", model=uri, folder=str(folder))
        os.rename(folder, partial)
        shutil.rmtree(partial)
    partial.mkdir()
    try:
        transfer = Transfer(store, partial)
        total_bytes = sum(found.size_bytes for found in objects)
        with logged(uri, len(objects), total_bytes, lambda: transfer.done_bytes):
            try:
                checked_by = transfer.copy(objects)
            except NotFound as error:
                raise Changed(str(error)) from error
        log.info("checked", model=uri, by=checked_by)
        sync_folder(partial)
        os.rename(partial, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_leftovers(cache: Path) -> None:
    """Of processes that died over a download."""
    for partial in cache.glob(f"{_PARTIAL}*"):
        with lock(cache / _LOCKS / partial.name.removeprefix(_PARTIAL)) as is_dead:
            if is_dead:
                shutil.rmtree(partial, ignore_errors=True)


def _digest(objects: Sequence[StoredObject]) -> str:
    listing = "".join(f"{found.uri} {found.etag} {found.size_bytes}\n" for found in objects)
    return hashlib.sha256(listing.encode()).hexdigest()[:32]


def _is_whole(folder: Path, objects: Sequence[StoredObject]) -> bool:
    try:
        return all((folder / found.uri.rpartition("/")[2]).stat().st_size == found.size_bytes for found in objects)
    except (FileNotFoundError, NotADirectoryError):
        return False
