"""The run on a device tells what it can, whatever its pieces do; on a CPU, each part measures something small."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.acceptance.fork_server import FLORENCE, fork_server

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench"
PARTS = (
    *("facts", "first_contact", "engine_caption", "engine_ocr", "switches", "kernels", "gpu_tests", "baseline"),
    *("vision", "steps", "large", "compile", "attention"),
    # It starts a process that imports torch.
    pytest.param("feeding", marks=pytest.mark.long),
)

ONE_PART = f"""
import sys
sys.path.insert(0, {str(BENCH)!r})
from pathlib import Path
from device import PARTS
from device_run.child import run_pieces
from device_run.machine import Machine

if __name__ == "__main__":
    work = Path(sys.argv[2])
    run_pieces(PARTS[sys.argv[1]], Machine("cpu", True, work), work / "state.json")
"""

PLANTED_PIECES = """
import os, signal
from threading import Event

def fails():
    raise ValueError("planted")

def ends():
    os.kill(os.getpid(), signal.SIGKILL)

def ends_unless_watched():
    if "CUDA_LAUNCH_BLOCKING" not in os.environ:
        ends()
    return {"x": 7}

def hangs():
    Event().wait()

KNOWN = {"works": lambda: {"x": 1}, "fails": fails, "ends": ends, "ends_unless_watched": ends_unless_watched,
         "hangs": hangs, "works_too": lambda: {"x": 2}, "wrong": lambda: {"ok": False}}

def pieces(machine, *, names):
    return {name: KNOWN[name] for name in names}
"""

PLANTED_RUN = f"""
import sys
sys.path.insert(0, {str(BENCH)!r})
from pathlib import Path
import device, device_parts
from device import Part

device_parts.__path__.append(str(Path(__file__).parent))

def planted(*names, limit_s=30, **limits):
    return Part("planted", limit_s, {{"names": names}}, **limits)

facts = device.PARTS["facts"]
device.PARTS.clear()
device.PARTS.update(
    raises=planted("works", "fails", "works_too", "wrong"),
    dies=planted("works", "ends", "works_too"),
    dies_at_first=planted("ends_unless_watched", "works_too", again_blocking=True),
    hangs=planted("hangs", "works_too", piece_limit_s=1),
    never_ends=planted("works", "hangs", "works_too", limit_s=1),
    has_no_file=Part("nothing", 30),
    is_too_long=planted("works", limit_s=10_000),
    facts=facts,
)

if __name__ == "__main__":
    device.main()
"""


@pytest.fixture(autouse=True)
def scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)


def test_every_part_is_tried_here() -> None:
    from device import PARTS as there

    assert {str(part if isinstance(part, str) else part.values[0]) for part in PARTS} == set(there)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_measures_what_it_can_on_a_cpu(part: str, tmp_path: Path) -> None:
    script = tmp_path / "one_part.py"
    script.write_text(ONE_PART)
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{BENCH}:{ROOT}"}
    done = fork_server(*FLORENCE).run(str(script), part, str(tmp_path), env=env, timeout_s=240)
    assert done.returncode == 0, done.stderr
    pieces = json.loads((tmp_path / "state.json").read_text())["pieces"]
    assert {name: piece["error"] for name, piece in pieces.items() if "error" in piece} == {}
    assert [name for name, piece in pieces.items() if is_wrong(piece)] == []
    why = {piece["skipped"] for piece in pieces.values() if "skipped" in piece}
    assert all(reason.startswith(("needs CUDA", "the engine has no")) for reason in why), why
    assert part in ("kernels", "gpu_tests") or any("found" in piece for piece in pieces.values())


def is_wrong(piece: dict[str, Any]) -> bool:
    return isinstance(piece.get("found"), dict) and piece["found"].get("ok") is False


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where a run of planted parts left its files, and what it printed."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "planted.py").write_text(PLANTED_PIECES)
    (folder / "run.py").write_text(PLANTED_RUN)
    command = [sys.executable, folder / "run.py", "--device", "cpu", "--tiny", "--out", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def found(planted: tuple[Path, str], part: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((planted[0] / "device.json").read_text())["parts"][part]
    return report


def test_after_a_piece_that_raises_the_others_go_on(planted: tuple[Path, str]) -> None:
    part = found(planted, "raises")
    assert part["status"] == "2 of 4 pieces failed"
    assert part["failed"] == ["fails", "wrong"]
    assert part["pieces"]["fails"]["error"] == "ValueError: planted"
    assert part["pieces"]["works_too"]["found"] == {"x": 2}


def test_a_piece_that_takes_its_process_with_it_takes_nothing_else(planted: tuple[Path, str]) -> None:
    part = found(planted, "dies")
    assert part["pieces"]["ends"]["error"] == "ended with -9"
    assert [part["pieces"][name]["found"] for name in ("works", "works_too")] == [{"x": 1}, {"x": 2}]


def test_a_piece_that_died_is_tried_once_more_with_launches_waited_for(planted: tuple[Path, str]) -> None:
    part = found(planted, "dies_at_first")
    assert part["pieces"]["ends_unless_watched, at first"]["error"] == "ended with -9"
    assert part["pieces"]["ends_unless_watched"]["found"] == {"x": 7}
    assert part["pieces"]["works_too"]["found"] == {"x": 2}


def test_a_piece_that_hangs_is_killed_alone_and_says_where(planted: tuple[Path, str]) -> None:
    part = found(planted, "hangs")
    assert part["pieces"]["hangs"]["error"] == "killed after 1 s"
    assert "planted.py" in "\n".join(part["pieces"]["hangs"]["traceback"])
    assert part["pieces"]["works_too"]["found"] == {"x": 2}


def test_a_part_whose_time_is_up_keeps_what_it_found(planted: tuple[Path, str]) -> None:
    part = found(planted, "never_ends")
    assert part["status"] == "its part's time was up"
    assert part["pieces"]["works"]["found"] == {"x": 1}
    assert part["failed"] == ["hangs"]
    assert "works_too" not in part["pieces"]


def test_a_part_that_does_not_even_begin_shows_its_log(planted: tuple[Path, str]) -> None:
    part = found(planted, "has_no_file")
    assert part["status"] == "ended with 1"
    assert "No module named 'device_parts.nothing'" in part["log"][-1]


def test_a_part_for_which_there_is_no_time_is_skipped(planted: tuple[Path, str]) -> None:
    assert found(planted, "is_too_long")["status"].startswith("skipped: ")
    assert found(planted, "facts")["pieces"]["matmul"]["found"]["tflops"] > 0


def test_all_is_told_to_a_reader_too(planted: tuple[Path, str]) -> None:
    folder, printed = planted
    text, log = ((folder / name).read_text() for name in ("device.md", "device.log"))
    assert "### ✗ fails" in text
    assert "### works_too" in text
    assert "ValueError: planted" in log
    assert "raises: 2 of 4 pieces failed" in printed
    assert "is_too_long: skipped" in printed


def test_an_unknown_part_is_an_error_that_names_the_others() -> None:
    done = subprocess.run(
        [sys.executable, BENCH / "device.py", "--parts", "facts,luck"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "there is no part luck; there are facts, first_contact" in done.stderr


def test_an_expression_that_is_none_is_an_error_that_shows_it() -> None:
    command = [sys.executable, str(BENCH / "device.py"), "--only", "(", "--parts", "facts"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "'(' is no regular expression" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so_and_ends(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "device.py"), "--parts", "facts,switches", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "torch sees no CUDA device; --device cpu --tiny runs what a CPU can run, in small\n"


def test_the_engine_is_held_against_the_best_of_transformers() -> None:
    from device_run.report import against_transformers, as_markdown

    def rate(images_per_s: float, task: str = "CAPTION", beams: int = 3) -> dict[str, Any]:
        return {"seconds": 1.0, "found": {"task": task, "beams": beams, "images_per_s": images_per_s}}

    def part(**pieces: Any) -> dict[str, Any]:
        return {"status": "done", "pieces": pieces}

    parts = {
        "engine_caption": part(beams_3=rate(600.0), beams_1=rate(900.0, beams=1)),
        "engine_ocr": part(beams_3=rate(400.0, "OCR_WITH_REGION")),
        "baseline": part(slow=rate(50.0), fast=rate(200.0), broken={"seconds": 1.0, "error": "no"}),
    }
    (row,) = against_transformers(parts)
    assert (row["task"], row["ratio"], row["its fastest"], row["aim"]) == ("CAPTION", 3.0, "fast", 3)
    assert "| CAPTION | 600 | 200 | fast | 3 | 3 |" in as_markdown({"device": "cuda", "tiny": False, "parts": parts})


def test_every_kernel_of_the_engine_is_measured() -> None:
    from device_parts.kernels import OPERANDS, there

    assert there() - OPERANDS.keys() == set()
