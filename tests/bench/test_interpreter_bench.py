"""The benchmark of the interpreter runs, and fails when an answer is read differently than by transformers."""

import subprocess
from pathlib import Path

from tests.acceptance.fork_server import FLORENCE, fork_server

BENCH = Path(__file__).parents[2] / "bench"
SHORT = ["--answers", "2", "--rounds", "1"]
ONE_PIXEL_AWAY = f"""
import sys
sys.path.insert(0, {str(BENCH)!r})
import interpreter
from arno_workers.engine import parsing
right = parsing.dequantize

if __name__ == "__main__":
    parsing.dequantize = lambda *given: [pixel + 1 for pixel in right(*given)]
    interpreter.main()
"""


def run(*command: object) -> subprocess.CompletedProcess[str]:
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(BENCH)}
    return fork_server(*FLORENCE).run(*map(str, command), env=env, timeout_s=240)


def test_every_stage_is_measured_for_every_task() -> None:
    done = run(BENCH / "interpreter.py", *SHORT)
    assert done.returncode == 0, done.stderr
    for named in ("np.array", "CAPTION", "OD", "OCR_WITH_REGION", "ask", "submit", "confidences", "JSON"):
        assert named in done.stdout
    (ratios,) = [line for line in done.stdout.splitlines() if "ratio to parse" in line]
    assert ratios.count("×") == 3


def test_a_pixel_that_is_wrong_fails_the_run(tmp_path: Path) -> None:
    script = tmp_path / "one_pixel_away.py"
    script.write_text(ONE_PIXEL_AWAY)
    done = run(script, *SHORT)
    assert done.returncode == 1
    assert "<OD> is read differently" in done.stderr, done.stderr
