"""How far a download is, said in the log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import perf_counter

from arno_shared.logs import get_logger

log = get_logger(__name__)

SAID_EVERY_S = 10.0


@contextmanager
def logged(name: str, files: int, total_bytes: int, so_far_bytes: Callable[[], int]) -> Iterator[None]:
    """Says at the beginning what is downloaded, how much of it is there from time to time, and at its end that it is
    there. `so_far_bytes` is asked on another thread."""
    log.info("downloading", model=name, files=files, bytes=total_bytes)
    began_s, ended = perf_counter(), Event()

    def watch() -> None:
        while not ended.wait(SAID_EVERY_S):
            done = so_far_bytes()
            # What is downloaded twice, or beside it, would be more than all.
            percent = min(100, 100 * done // total_bytes) if total_bytes else None
            log.info("downloading", model=name, bytes_so_far=done, bytes=total_bytes, percent=percent)

    watcher = Thread(target=watch, name="download-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
    log.info("downloaded", model=name, files=files, bytes=total_bytes, took_s=round(perf_counter() - began_s, 1))
