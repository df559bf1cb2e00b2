"""A lock that the processes of one machine have on a file; it is let go when its process dies."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Whether it is ours within. Where another has it, `on_wait` is called and it is waited for; without `on_wait` it
    is not. The file stays: were it removed, two could have the lock, each of a file of its own. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is None:
                yield False
                return
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield True
    finally:
        os.close(descriptor)
