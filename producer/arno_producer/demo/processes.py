"""Child processes that are gone when their owner is, however it ends."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from arno_shared.errors import DemoFailed

_POLL_S = 0.05
_GRACE_S = 6.0
_TAIL_LINES = 20
_PR_SET_PDEATHSIG = 1

# Found before any fork: between fork and exec, no library may be looked for.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(lines) or "(it logged nothing)"

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Children:
    """Starts processes that log into `folder`; on exit they are stopped, the last one first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._children:
            self._children.pop().stop()

    def start(self, name: str, command: Sequence[str]) -> None:
        """Only from the main thread: Linux ends the child with the thread that started it."""
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the whole foreground group; the children are stopped in order instead.
                start_new_session=True,
                preexec_fn=partial(_die_with_parent, os.getpid()),
            )
        self._children.append(Child(name, process, log))

    def check(self) -> None:
        """Raises DemoFailed when one of them has ended."""
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                raise DemoFailed(f"{child.name} {_describe_end(code)}. The end of its log:\n{child.log_tail()}")

    def wait_until(self, ready: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Raises DemoFailed when a child ends meanwhile, or when the time is up."""
        deadline = monotonic() + timeout_s
        while not ready():
            self.check()
            if monotonic() > deadline:
                raise self.failure(f"{what}: not ready after {timeout_s:.0f} s")
            sleep(_POLL_S)

    def failure(self, what: str) -> DemoFailed:
        """For when it is not known whose fault it is: with the end of every log."""
        tails = "\n".join(f"--- {child.name}\n{child.log_tail()}" for child in self._children)
        return DemoFailed(f"{what}. The ends of the logs:\n{tails}")


def _describe_end(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _die_with_parent(parent_pid: int) -> None:
    """Asks Linux to end this process when its parent does, even when that is killed outright."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have ended before it was asked for.
        if os.getppid() != parent_pid:
            os._exit(1)
