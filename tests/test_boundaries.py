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
CELERY = ("shared/arno_shared/broker.py", "shared/arno_shared/delivery/", "workers/arno_workers/consumer/")
ALLOWED = {
    "torch": MODELS,
    "transformers": MODELS,
    "huggingface_hub": ("workers/arno_workers/engine/",),
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

ARROWS = {
    "cli": {"devices", "node"},
    "node": {"consumer", "engine", "fetch", "health", "pipeline"},
    "consumer": {"health", "pipeline"},
    "pipeline": {"decode", "engine", "fetch", "handover", "health"},
    "tiny": {"engine"},
    "engine": {"handover"},
    "fetch": set(),
    "decode": set(),
    "health": set(),
    "devices": set(),
    "handover": set(),
}
"""For each room of the worker, from the top down: which others it imports."""

ENGINE_DOORS = {
    "node": {"arno_workers.engine", "arno_workers.engine.start"},
    "pipeline": {"arno_workers.engine"},
    "tiny": {"arno_workers.engine.checkpoint.locate"},
}
"""What each room knows of the engine; of another room, it may know any file."""


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
    assert not loaded & {"torch", "transformers", "huggingface_hub", "PIL", "numpy", "pyarrow", "arno_workers"}


def test_shared_code_loads_neither_side() -> None:
    assert not loaded_by("arno_shared.messages", "arno_shared.broker") & {"arno_producer", "arno_workers"}


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("shared/arno_shared", "import torch"),
        ("producer/arno_producer", "from transformers import pipeline"),
        ("producer/arno_producer", "from huggingface_hub import HfApi"),
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


def worker_imports() -> Iterator[tuple[str, str]]:
    """Each import between rooms of the worker: the room, and the module that it imports."""
    top = ROOT / "workers/arno_workers"
    for file in sorted(top.rglob("*.py")):
        room = file.relative_to(top).parts[0].removesuffix(".py")
        for module in imported_modules(ast.parse(file.read_text())):
            package, _, rest = module.partition(".")
            if package == "arno_workers" and rest.partition(".")[0] != room:
                yield room, module


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Full names, wherever in the module; `from arno_workers import x` names `arno_workers.x`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "arno_workers":
            yield from (f"arno_workers.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)


def docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())) or ""


def test_every_room_of_the_worker_stands_in_the_table() -> None:
    top = ROOT / "workers/arno_workers"
    files = {file.stem for file in top.glob("*.py") if file.name != "__init__.py"}
    folders = {file.parent.name for file in top.glob("*/__init__.py")}
    assert files | folders == set(ARROWS)


def test_a_room_of_the_worker_imports_what_the_table_says() -> None:
    found: dict[str, set[str]] = {room: set() for room in ARROWS}
    for room, module in worker_imports():
        if room != "__init__":
            found[room].add(module.split(".")[1])
    assert found == ARROWS


def test_arrows_between_rooms_of_the_worker_only_run_down() -> None:
    order = list(ARROWS)
    assert [(room, below) for room in ARROWS for below in ARROWS[room] if order.index(below) <= order.index(room)] == []


def test_the_engine_is_entered_by_its_doors() -> None:
    found: dict[str, set[str]] = {}
    for room, module in worker_imports():
        if module.startswith("arno_workers.engine"):
            found.setdefault(room, set()).add(module)
    assert found == ENGINE_DOORS


def test_a_room_of_the_worker_says_what_it_is_for() -> None:
    rooms = [ROOT / "workers/arno_workers" / room / "__init__.py" for room in ARROWS]
    silent = [
        relative(file)
        for file in rooms
        if file.exists() and "\n" not in str(ast.get_docstring(ast.parse(file.read_text())))
    ]
    assert not silent


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.parent.name)
def test_tests_mirror_the_code(package: Path) -> None:
    """`test_<module>.py`, or `test_<module>_<what>.py` for a part of it, lies where the module does; `test_<room>.py`,
    about a room as a whole, lies in the room."""
    tests = ROOT / "tests" / package.parent.name
    astray = []
    for file in sorted(tests.rglob("test_*.py")):
        room = package / file.parent.relative_to(tests)
        modules = {one.stem for one in room.glob("*.py")} | {one.parent.name for one in room.glob("*/__init__.py")}
        name = file.stem.removeprefix("test_")
        if not any(name == module or name.startswith(f"{module}_") for module in {*modules, room.name}):
            astray.append(relative(file))
    assert not astray


def test_files_that_documents_name_are_there() -> None:
    files = {relative(file) for file in project_files()}
    documents = [ROOT / name for name in files if name.endswith(".md") and name != "CHANGELOG.md"]
    missing = [
        f"{relative(document)}: {named}"
        for document in documents
        for named in re.findall(r"[\w./-]*\w\.(?:py|lua)\b", document.read_text())
        if not any(f"/{file}".endswith(f"/{named.lstrip('./')}") for file in files)
    ]
    assert not missing


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
