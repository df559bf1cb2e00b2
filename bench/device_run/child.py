"""Inside a part's process: it imports, hears on stdin until when it has time, and runs the pieces that are left.

Before a piece the state file says which one it is, and after it what it found: whatever a piece does to the process,
the one outside knows who did it, and what was found before.
"""

import faulthandler
import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from time import monotonic, perf_counter, time
from typing import Any

from device_run.machine import Machine, Skipped
from device_run.part import Part
from device_run.report import TAIL_LINES, write

DEVICE_LOST, NO_DEVICE = 70, 72
BLOCKING = "CUDA_LAUNCH_BLOCKING"


def run_child(part: Part, machine: Machine, state_file: Path) -> None:
    """Never returns, and not by way of destructors, which may hang on a device that failed."""
    faulthandler.enable()
    try:
        # While the part before still has the device.
        part.load()
        if machine.on_cuda and not _sees_cuda():
            os._exit(NO_DEVICE)
        state_file.with_suffix(".ready").touch()
        if ends_s := sys.stdin.readline():
            machine.ends_s = float(ends_s)
            run_pieces(part, machine, state_file)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def run_pieces(part: Part, machine: Machine, state_file: Path) -> None:
    """Those that the state file has no word of."""
    state: dict[str, Any] = json.loads(state_file.read_text()) if state_file.exists() else {"pieces": {}}
    for name, run in part.pieces(machine).items():
        if name in state["pieces"] or not re.search(machine.only, name):
            continue
        write(state_file, {**state, "running": name, "since_s": time()})
        left_s = min(machine.ends_s - monotonic(), part.piece_limit_s, 3600)
        # Where it hung is in the log before it is killed.
        faulthandler.dump_traceback_later(max(0.5, left_s - 1.5))
        print(f"--- {name}", file=sys.stderr, flush=True)
        state["pieces"][name] = run_piece(run)
        faulthandler.cancel_dump_traceback_later()
        write(state_file, state)
        if "error" in state["pieces"][name] and machine.on_cuda and not _device_works():
            os._exit(DEVICE_LOST)
        if BLOCKING in os.environ:
            break


def run_piece(run: Callable[[], Any]) -> dict[str, Any]:
    began_s = perf_counter()
    try:
        outcome: dict[str, Any] = {"found": run()}
    except Skipped as reason:
        outcome = {"skipped": str(reason)}
    except Exception as error:
        traceback.print_exc()
        lines = "".join(traceback.format_exception(error)).splitlines()[-TAIL_LINES:]
        outcome = {"error": f"{type(error).__name__}: {error}"[:600], "traceback": [line[:300] for line in lines]}
    return {"seconds": perf_counter() - began_s, **outcome}


def _sees_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _device_works() -> bool:
    """After some errors, nothing in this process works on the device any more."""
    import torch

    try:
        torch.cuda.empty_cache()
        return float(torch.ones(8, device="cuda").sum()) == 8
    except Exception:
        return False
