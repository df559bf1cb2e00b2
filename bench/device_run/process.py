"""A part's process from outside: it begins when the one before has ended, and ends when its time is up.

It is a group of its own, so that what it started is killed with it. Nothing that a piece does reaches the others: after
one that took the process or the device with it, the pieces that are left go on in a new process.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

from device_run.child import BLOCKING, DEVICE_LOST, NO_DEVICE
from device_run.part import Part
from device_run.report import is_bad, tail_of, write

ROOT = Path(__file__).parents[2]
DIED = ("the device was lost", "ended with")
_IMPORT_S = 90


class PartProcess:
    """It imports what it needs before its time begins."""

    def __init__(self, name: str, part: Part, arguments: Sequence[str], work: Path, blocking: bool = False) -> None:
        """`arguments`: of the command that is running, for the same device and sizes. `blocking`: for one piece only,
        every launch waited for."""
        self.part, self.blocking, self._again = part, blocking, partial(PartProcess, name, part, arguments, work)
        self.state_file, self.log = work / f"{name}.json", work / f"{name}.log"
        self._ready = self.state_file.with_suffix(".ready")
        self._ready.unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                # The script that was started, so that a script may have parts of its own.
                [sys.executable, str(Path(sys.argv[0]).resolve()), *arguments, "--child", name, "--work", str(work)],
                env={**environment, BLOCKING: "1"} if blocking else environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                process_group=0,
            )

    def again(self, blocking: bool) -> "PartProcess":
        """For the pieces that are left."""
        return self._again(blocking=blocking)

    def get_ready(self) -> None:
        give_up_s = monotonic() + _IMPORT_S
        while not self._ready.exists() and self._process.poll() is None and monotonic() < give_up_s:
            sleep(0.02)
        if self._process.poll() == NO_DEVICE:
            sys.exit("torch sees no CUDA device; --device cpu --tiny runs what a CPU can run, in small")

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = {"pieces": {}}
        if self.state_file.exists():
            found = json.loads(self.state_file.read_text())
        return found

    def run(self, ends_s: float) -> str:
        """How it ended: '' by itself, else why it was killed or died."""
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.write(f"{ends_s}\n".encode())
            self._process.stdin.close()
        while self._process.poll() is None:
            if why := self._too_long(ends_s):
                self.kill()
                return why
            sleep(0.05)
        self.kill()
        code = self._process.returncode
        return "" if code == 0 else DIED[0] if code == DEVICE_LOST else f"{DIED[1]} {code}"

    def kill(self) -> None:
        """With all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _too_long(self, ends_s: float) -> str:
        state = self.state()
        if "running" in state and time() - state["since_s"] > self.part.piece_limit_s:
            return f"killed after {self.part.piece_limit_s:.0f} s"
        return "its part's time was up" if monotonic() > ends_s else ""


def run_part(process: PartProcess, limit_s: float) -> dict[str, Any]:
    """All pieces, in as many processes as it takes; `process` is the first."""
    process.get_ready()
    began_s = monotonic()
    try:
        while True:
            before = len(process.state()["pieces"])
            ended = process.run(began_s + limit_s)
            state = _with_the_last(process, ended)
            is_left = len(state["pieces"]) > before and (ended or process.blocking)
            if not is_left or monotonic() > began_s + limit_s:
                break
            blocking = process.part.again_blocking and ended.startswith(DIED) and not process.blocking
            if blocking:
                last = list(state["pieces"])[-1]
                state["pieces"][f"{last}, at first"] = state["pieces"].pop(last)
            write(process.state_file, state)
            process = process.again(blocking)
            process.get_ready()
    finally:
        process.kill()
    pieces = state["pieces"]
    failed = [piece for piece, each in pieces.items() if is_bad(each)]
    status = ended or (f"{len(failed)} of {len(pieces)} pieces failed" if failed else "done")
    found = {"status": status, "failed": failed, "seconds": monotonic() - began_s, "limit_s": limit_s}
    # It died before any piece that could say of what.
    return {**found, **({"log": tail_of(process.log)} if ended and not failed else {}), "pieces": pieces}


def _with_the_last(process: PartProcess, ended: str) -> dict[str, Any]:
    """The state, and in it the piece that was running when the process ended."""
    state = process.state()
    if running := state.pop("running", None):
        took_s = time() - state.pop("since_s")
        state["pieces"][running] = {"seconds": took_s, "error": ended, "traceback": tail_of(process.log)}
    return state
