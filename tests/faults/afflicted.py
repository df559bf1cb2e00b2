"""A worker with the null replica, which suffers from certain pictures: the colour of a picture's corner says how.

Run as the worker is: `python -m tests.faults.afflicted --device cpu --name …`. AFFLICTED_IMAGE_S makes each picture
take that long; AFFLICTED_AILING is a file: while it exists, pictures of the colours below are harmful.
"""

import ctypes
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from time import sleep

from arno_workers import cli
from arno_workers.engine import Answer
from arno_workers.engine.null import NullReplica
from arno_workers.engine.scheduler import Request, Work

KILLS, HANGS, HOLDS_THE_LOCK, MEMORY_ERROR, SYSTEM_EXIT, OUT_OF_MEMORY = range(1, 7)
"""Blue of a picture whose red is 250 and whose green is 0."""

_healthy_run, _healthy_is_out_of_memory = NullReplica.run, NullReplica.is_out_of_memory


def colour(affliction: int) -> tuple[int, int, int]:
    return (250, 0, affliction)


def _suffer(affliction: int) -> None:
    match affliction:
        case 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case 2:
            threading.Event().wait()
        case 3:
            # Called as a function of Python's own, it does not let other threads in.
            ctypes.PyDLL(None).sleep(3600)
        case 4:
            raise MemoryError
        case 5:
            raise SystemExit(3)
        case 6:
            raise RuntimeError("CUDA out of memory")


def _run(self: NullReplica, work: Work) -> Sequence[tuple[Request, Answer | None]]:
    for picture in work.vision:
        sleep(float(os.environ.get("AFFLICTED_IMAGE_S", "0")))
        red, green, blue = picture.pixels.getpixel((0, 0))
        ailing = os.environ.get("AFFLICTED_AILING")
        if (red, green) == (250, 0) and (ailing is None or Path(ailing).exists()):
            _suffer(blue)
    return _healthy_run(self, work)


def _is_out_of_memory(self: NullReplica, error: Exception) -> bool:
    return "out of memory" in str(error)


if __name__ == "__main__":
    NullReplica.run = _run  # type: ignore[method-assign]
    NullReplica.is_out_of_memory = _is_out_of_memory  # type: ignore[method-assign]
    cli.main()
