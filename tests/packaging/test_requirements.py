"""What the code imports is required, and what is required is imported."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared", "producer", "workers")


def deptry(project: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("deptry")
    return subprocess.run([program, "--no-ansi", *PACKAGES], cwd=project, capture_output=True, text=True)


def test_what_is_imported_is_required_and_what_is_required_is_imported() -> None:
    done = deptry(ROOT)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("models", "__pycache__"))
    return tmp_path


@pytest.mark.parametrize(
    ("module", "finding"),
    [("vine", "DEP003 'vine'"), ("no_such_module", "DEP001 'no_such_module'"), ("psutil", "DEP004 'psutil'")],
)
def test_an_import_that_nothing_requires_is_found(module: str, finding: str, copy: Path) -> None:
    (copy / "shared/arno_shared/planted.py").write_text(f'"""Planted."""\n\nimport {module}\n')
    done = deptry(copy)
    assert done.returncode == 1
    assert f"shared/arno_shared/planted.py:3:8: {finding}" in done.stderr


def test_a_requirement_that_nobody_imports_is_found(copy: Path) -> None:
    project = copy / "pyproject.toml"
    project.write_text(re.sub(r"(?m)^dependencies = \[$", 'dependencies = [\n  "vine>=5",', project.read_text()))
    done = deptry(copy)
    assert done.returncode == 1
    assert "DEP002 'vine'" in done.stderr
