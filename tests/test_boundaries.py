"""The rules of the house that a reader would otherwise have to remember."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PACKAGES = [ROOT / "shared/arno_shared", ROOT / "producer/arno_producer", ROOT / "workers/arno_workers"]

MODELS = ("workers/arno_workers/engine/", "workers/arno_workers/tiny/")
CELERY = (
    "shared/arno_shared/broker.py",
    "shared/arno_shared/delivery/",
    *(f"workers/arno_workers/{name}.py" for name in ("app", "delivery", "tasks", "unreadable")),
)
ALLOWED = {
    "torch": MODELS,
    "transformers": MODELS,
    "celery": CELERY,
    "kombu": CELERY,
    "arno_producer": ("producer/",),
    "arno_workers": ("workers/",),
    # Folders, which import as empty packages from the root and load a second copy of each class.
    "shared": (),
    "producer": (),
    "workers": (),
}
"""For each package that not everyone may import: where it may be."""


def sources() -> list[Path]:
    return sorted(file for package in PACKAGES for file in package.rglob("*.py"))


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    """The top-level names that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def docstrings(tree: ast.AST) -> set[int]:
    """Ids of the strings that stand alone as statements."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_are_imported_only_where_they_may_be(package: str) -> None:
    culprits = [
        relative(file)
        for file in sources()
        if package in imported(ast.parse(file.read_text())) and not relative(file).startswith(ALLOWED[package])
    ]
    assert not culprits


def loaded_by(*modules: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after importing `modules`."""
    code = f"import {', '.join(modules)}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_producing_loads_neither_torch_nor_imaging() -> None:
    shared = ROOT / "shared"
    modules = [
        ".".join(file.relative_to(shared).with_suffix("").parts).removesuffix(".__init__")
        for file in (shared / "arno_shared").rglob("*.py")
        # These draw pictures, for the demo and for training alone.
        if "scenes" not in file.parts
    ]
    loaded = loaded_by("arno_producer", "arno_producer.cli", *modules)
    assert "arno_shared" in loaded
    assert not loaded & {"torch", "transformers", "PIL", "numpy", "pyarrow", "arno_workers"}


def test_shared_code_loads_neither_side() -> None:
    assert not loaded_by("arno_shared.messages", "arno_shared.broker") & {"arno_producer", "arno_workers"}


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("shared/arno_shared", "import torch"),
        ("producer/arno_producer", "from transformers import pipeline"),
        ("producer/arno_producer", "import celery"),
        ("producer/arno_producer", "import arno_workers.cli"),
        ("producer/arno_producer", "from shared import arno_shared"),
    ],
)
def test_ruff_catches_a_forbidden_import(place: str, line: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for config in (*ROOT.glob("*/ruff.toml"), *ROOT.glob("*/arno_*/ruff.toml")):
        (tmp_path / config.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(config, tmp_path / config.relative_to(ROOT))
    planted = tmp_path / place / "planted.py"
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(f'"""Planted."""\n\n{line}\n')
    done = subprocess.run(
        [BIN / "ruff", "check", "--no-cache", "--output-format", "concise", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert re.search(r"planted\.py:3:\d+: TID251", done.stdout), done.stdout


def test_redis_keys_are_named_in_one_file() -> None:
    culprits = []
    for file in sources():
        if relative(file) == "shared/arno_shared/names.py":
            continue
        tree = ast.parse(file.read_text())
        prose = docstrings(tree)
        culprits += [
            f"{relative(file)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in prose
            # A colon with a space after it is a message to people; `urn:arno:` is no key.
            and re.search(r"(?<![\w:])arno:(?!\s)", node.value)
        ]
    assert not culprits


def test_every_package_is_typed() -> None:
    assert [package.name for package in PACKAGES if not (package / "py.typed").is_file()] == []


def test_no_file_names_a_package_registry() -> None:
    # Written in halves, so that this file passes too.
    hosts = [
        f"{name}.{domain}"
        for name, domain in [
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("download.pytorch", "org"),
            ("conda.anaconda", "org"),
            ("npmjs", "org"),
            ("npmjs", "com"),
            ("crates", "io"),
            ("proxy.golang", "org"),
        ]
    ]
    culprits = [
        f"{relative(file)}: {host}"
        for file in project_files()
        for host in hosts
        if host.encode() in file.read_bytes().lower()
    ]
    assert not culprits


def project_files() -> list[Path]:
    """What is, or would be, under version control; without Git, what is not in a hidden or a built folder."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        listed = subprocess.run(
            [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        files = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    else:
        built = re.compile(r"\.(venv|git|\w+_cache|hypothesis)|__pycache__|build|dist")
        files = [
            file
            for file in ROOT.rglob("*")
            if not any(built.fullmatch(part) for part in file.relative_to(ROOT).parts[:-1])
        ]
    # A file may vanish, or be a link to nowhere, between the listing and the reading.
    return [file for file in files if file.is_file()]
