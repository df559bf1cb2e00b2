"""The engine's tests that need a GPU, folder by folder, in a pytest that has nothing but what they import."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import Any

from device_run.machine import Machine, Pieces
from device_run.report import tail_of

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests/workers/engine"


def pieces(machine: Machine) -> Pieces:
    # Other files import what such a machine may lack.
    files = [file for file in sorted(TESTS.rglob("test_*.py"), key=lambda file: file.parent) if _needs_gpu(file)]
    return {
        folder.name: partial(run, machine, list(together)) for folder, together in groupby(files, lambda f: f.parent)
    }


def run(machine: Machine, files: Sequence[Path]) -> dict[str, Any]:
    machine.needs_cuda()
    log, code = machine.work / "pytest.txt", "killed: its time was up"
    with log.open("wb") as out, suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            command(files),
            stdout=out,
            stderr=out,
            timeout=max(1.0, machine.ends_s - monotonic() - 2),
            cwd=ROOT,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        )
        code = str(done.returncode)
    print(log.read_text(errors="replace"), file=sys.stderr)
    return {"ok": code == "0", "exit": code, "tail": tail_of(log)}


def command(files: Sequence[Path]) -> list[str]:
    """Without the conftest.py of all tests, whose servers are not there."""
    pytest = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", f"--confcutdir={TESTS}", "-p", "no:cacheprovider"]
    options = ["-o", "addopts=", "--import-mode=importlib", "-W", "default", "--disable-warnings", "--tb=short"]
    return [*pytest, *options, *map(str, files)]


def _needs_gpu(file: Path) -> bool:
    both = (file, file.with_name("conftest.py"))
    return any("mark.gpu" in each.read_text() for each in both if each.exists())
