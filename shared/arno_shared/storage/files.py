"""Objects as local files."""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from arno_shared.errors import (
    AccessDenied,
    ArnoError,
    HouseError,
    HttpError,
    InvalidUri,
    NotFound,
    StorageRefused,
    Unavailable,
)
from arno_shared.storage.backend import Arbiter, StoredObject, check_etag, check_size
from arno_shared.storage.checksum import Checksum
from arno_shared.uris import path_of, redact

_UNFINISHED = ".arno-"
"""How the name of a file begins while it is being written."""

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a file system answers that has one name for each file, such as exFAT and some network drives."""

_MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}


class Files:
    """The backend of `file://`. A file's ETag is made of its size and the time of its last change."""

    def __init__(self, arbiter: Arbiter) -> None:
        self._arbiter = arbiter

    def get(self, uri: str, *, version_id: str | None, etag: str | None, max_bytes: int | None) -> bytes:
        if version_id is not None:
            raise NotFound(f"files have no versions: {redact(uri)}")
        return read_file(uri, str(path_of(uri)), etag, max_bytes)

    def get_range(self, uri: str, start: int, stop: int, *, etag: str | None) -> bytes:
        try:
            with path_of(uri).open("rb") as file:
                status = os.fstat(file.fileno())
                check_etag(uri, etag, _etag(status))
                if start >= status.st_size:
                    raise HttpError(f"{redact(uri)[:200]} has {status.st_size} bytes, none at {start}")
                file.seek(start)
                return file.read(stop - start)
        except (OSError, ValueError) as error:
            raise _why_not_read(uri, error) from error

    def checksum(self, uri: str, *, etag: str) -> Checksum | None:
        return None

    def download(self, uri: str, file: BinaryIO) -> None:
        try:
            with path_of(uri).open("rb") as source:
                shutil.copyfileobj(source, file)
        except (OSError, ValueError) as error:
            raise _why_not_read(uri, error) from error

    def put(self, uri: str, data: bytes, content_type: str) -> None:
        path = path_of(uri)
        try:
            with _written(path, data) as unfinished:
                os.replace(unfinished, path)
            sync_folder(path.parent)
        except (OSError, ValueError) as error:
            raise _why_not_written(path, error) from error

    def put_new(self, uri: str, data: bytes, content_type: str) -> bool:
        path = path_of(uri)
        try:
            with _written(path, data) as unfinished:
                is_new = self._name_if_free(uri, data, unfinished, path)
            # Also for a file that stands there: whoever named it may not have come to this yet.
            sync_folder(path.parent)
        except (OSError, ValueError) as error:
            raise _why_not_written(path, error) from error
        return is_new

    def _name_if_free(self, uri: str, data: bytes, unfinished: Path, path: Path) -> bool:
        """Whether the file got the name; False when another file has it. Raises FileExistsError when no file has it."""
        try:
            os.link(unfinished, path)
        except FileExistsError:
            if not path.is_file():
                raise
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Without links nothing here is both atomic and whole.
            return self._arbiter.write_new(uri, data, path.is_file, lambda: _renamed(unfinished, path))
        return True

    def conditional_writes(self, prefix_uri: str) -> bool:
        return True

    def exists(self, uri: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(path_of(uri)).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError) as error:
            raise _why_not_read(uri, error) from error

    def delete(self, uri: str) -> None:
        path = path_of(uri)
        try:
            path.unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            raise _why_not_written(path, error) from error

    def list(self, prefix_uri: str) -> Iterator[StoredObject]:
        root = path_of(prefix_uri)
        base_uri = prefix_uri.rstrip("/")
        try:
            for path in _walk(str(root)):
                with suppress(FileNotFoundError):
                    status = os.stat(path)
                    relative = os.path.relpath(path, root)
                    yield StoredObject(f"{base_uri}/{quote(relative)}", status.st_size, _etag(status))
        except (OSError, ValueError) as error:
            raise _why_not_read(prefix_uri, error) from error


def read_file(
    uri: str,
    path: str,
    etag: str | None,
    max_bytes: int | None,
    allowed: Callable[[str], None] | None = None,
) -> bytes:
    """The bytes of the file that `uri` names. `allowed` is given the path of the file once it is open, every link in
    it resolved, and raises when it may not be read: nothing can be swapped in between.

    Raises as `ObjectStore.get` does. Few system calls: each lets go of Python's lock, and other threads in.
    """
    try:
        # Not blocking: opening a pipe would otherwise wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            if allowed is not None:
                allowed(_path_of_open_file(descriptor, path))
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise NotFound(f"not a file: {redact(uri)}")
            check_etag(uri, etag, _etag(status))
            check_size(uri, status.st_size, max_bytes)
            data = _read_whole(descriptor, status.st_size)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise _why_not_read(uri, error) from error
    return data


def _read_whole(descriptor: int, size_bytes: int) -> bytes:
    """As much as the file held when it was opened; less when it was cut short meanwhile."""
    blocks, missing = [], size_bytes
    while missing and (block := os.read(descriptor, missing)):
        blocks.append(block)
        missing -= len(block)
    return b"".join(blocks)


def _path_of_open_file(descriptor: int, path: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:  # no /proc, as on macOS
        return os.path.realpath(path)


def _walk(folder: str) -> Iterator[str]:
    """Every file below, in the order of their full names, which is S3's; one folder's names at a time in memory."""
    try:
        with os.scandir(folder) as entries:
            found = [(e.name + "/" if e.is_dir(follow_symlinks=False) else e.name, e.is_file()) for e in entries]
    except FileNotFoundError:
        return
    for name, is_file in sorted(found):
        path = os.path.join(folder, name)
        if name.endswith("/"):
            yield from _walk(path)
        elif is_file and not name.startswith(_UNFINISHED):
            yield path


@contextmanager
def _written(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside `path` that is whole and on the disk, to be given its name: readers never see half of one."""
    _make_folder(path.parent)
    unfinished = path.parent / f"{_UNFINISHED}{uuid.uuid4().hex}"
    try:
        with open(unfinished, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield unfinished
    finally:
        unfinished.unlink(missing_ok=True)


def _renamed(unfinished: Path, path: Path) -> bool:
    os.replace(unfinished, path)
    return True


def _make_folder(folder: Path) -> None:
    """With all that is missing above it, durably. Also when another makes it at the same time, who may not have come
    to that yet."""
    missing = takewhile(lambda above: not above.exists(), (folder, *folder.parents))
    for new in reversed(list(missing)):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in it durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _why_not_read(uri: str, error: Exception) -> ArnoError:
    name = redact(uri)[:200]
    match error:
        case FileNotFoundError() | NotADirectoryError() | IsADirectoryError():
            return NotFound(f"no such file: {name}")
        case PermissionError():
            return AccessDenied(f"the file may not be read by this user: {name}")
        case OSError(errno=number) if number in _MAY_PASS:
            return Unavailable(f"{name} cannot be read just now: {error.strerror}")
        case _:
            return InvalidUri(f"{name} cannot be a file: {getattr(error, 'strerror', None) or 'bad characters'}")


def _why_not_written(path: Path, error: Exception) -> ArnoError:
    reason = getattr(error, "strerror", None) or "bad characters in its name"
    if getattr(error, "errno", None) in _MAY_PASS:
        return HouseError(f"{path} cannot be written just now: {reason}")
    return StorageRefused(
        f"{path} cannot be written: {reason}. Give another output prefix, or make its folder writable"
    )
