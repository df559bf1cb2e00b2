"""The engine's tests that need a GPU, in a pytest that has nothing but what they import."""

import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from device_run.machine import Machine, Pieces
from device_run.report import tail_of

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests/workers/engine"


def pieces(machine: Machine) -> Pieces:
    # Others import what such a machine may lack.
    files = [file for file in sorted(TESTS.rglob("test_*.py")) if "mark.gpu" in file.read_text()]
    return {file.stem: partial(run, machine, file) for file in files}


def run(machine: Machine, file: Path) -> dict[str, Any]:
    machine.needs_cuda()
    # Without the tests' own conftest.py, whose servers are not there, but with the engine's fixtures.
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "--noconftest", "-p", "tests.workers.engine.conftest"]
    command += ["-p", "no:cacheprovider", "-W", "default", "--disable-warnings", "--tb=short"]
    command += ["-o", "addopts=", "--import-mode=importlib", str(file)]
    log, code = machine.work / "pytest.txt", "killed: its time was up"
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with log.open("wb") as out, suppress(subprocess.TimeoutExpired):
        patience_s = max(1.0, machine.ends_s - monotonic() - 2)
        done = subprocess.run(command, stdout=out, stderr=out, timeout=patience_s, cwd=ROOT, env=environment)
        code = str(done.returncode)
    print(log.read_text(errors="replace"), file=sys.stderr)
    return {"ok": code == "0", "exit": code, "tail": tail_of(log)}
