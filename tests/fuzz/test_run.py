"""`python -m tests.fuzz.run` finds what there is to find, and says so."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz import run

needs_atheris = pytest.mark.skipif(find_spec("atheris") is None, reason="needs pip install -e '.[fuzz]'")


Fuzzer = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ran(tmp_path: Path) -> Fuzzer:
    """Runs the command; what it keeps, it keeps in the test's folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.fuzz.run", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)})

    return run


@needs_atheris
def test_a_planted_bug_is_found_and_its_input_kept(ran: Fuzzer) -> None:
    done = ran("60", "tests.fuzz.planted")
    assert done.returncode == 1, done.stderr
    assert "AssertionError: the planted bug" in done.stdout
    assert re.search(r"tests\.fuzz\.planted: [1-9][\d,]* runs", done.stdout)
    (kept,) = re.findall(r"is kept in (\S+)", done.stdout)
    found = Path(kept).read_bytes()
    assert found.startswith(b"bug")
    assert f"the input: {found!r}\n" in done.stdout


@needs_atheris
def test_where_nothing_is_found_it_says_how_much_was_tried(ran: Fuzzer) -> None:
    done = ran("1", "event")
    assert done.returncode == 0, done.stdout
    assert re.fullmatch(r"tests\.fuzz\.fuzz_event: [1-9][\d,]* runs\n", done.stdout)


def test_without_atheris_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    monkeypatch.setattr(sys, "argv", ["run", "5"])
    assert run.main() == 2
    assert "pip install" in capsys.readouterr().err


@needs_atheris
@pytest.mark.parametrize("target", ["nothing", "tests.fuzz.nothing"])
def test_a_target_that_is_not_there_is_named(ran: Fuzzer, target: str) -> None:
    done = ran("5", target)
    assert done.returncode == 2
    assert target in done.stderr
    assert "answer, event, images, message" in done.stderr


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("fuzz_*.py")), ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_seed_of_every_target_is_as_it_should_be(path: Path) -> None:
    target = import_module(f"tests.fuzz.{path.stem}")
    assert target.SEEDS
    for seed in target.SEEDS:
        target.test_one_input(seed)
