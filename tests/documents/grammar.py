"""What programs take: whether a command's words are words that its program knows, found without running it."""

import argparse
import ast
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
import yaml
from packaging.requirements import Requirement
from typer.exceptions import TyperException

from arno_producer.cli import app as arno_app
from arno_workers.cli import app as arno_worker_app
from tests.documents.blocks import ROOT

CONSTRAINTS = ROOT / "constraints.txt"


class Unknown(Exception):
    """No such command, option or value."""


def program(command: str) -> str:
    """Its first word, after variables that are set for it."""
    return re.sub(r"^(\w+=\S* )*(exec )?", "", command).partition(" ")[0]


def check(command: str) -> None:
    """Raises Unknown. Arguments may be missing, as where a sentence names a command, or stand as `…`."""
    one_line = command[command.index(program(command)) :].replace("\\\n", " ")
    words = [word for word in shlex.split(one_line) if word != "…"]
    GRAMMARS[Path(words[0]).name](words[1:])


def options() -> set[str]:
    """Of all our commands and scripts."""
    found = {name for app in (arno_app, arno_worker_app) for name in _options(typer.main.get_command(app))}
    for folder in ("bench", "tests", "workers"):
        for file in (ROOT / folder).rglob("*.py"):
            found.update(re.findall(r'add_argument\("(--[\w-]+)"', file.read_text()))
    return found


def _options(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from parameter.opts
    for below in getattr(command, "commands", {}).values():
        yield from _options(below)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        if "arguments are required" not in message:
            raise Unknown(message)


def _typer(app: typer.Typer) -> Callable[[list[str]], None]:
    def parse(words: list[str]) -> None:
        command: Any = typer.main.get_command(app)
        while words and words[0] != "--help" and (commands := getattr(command, "commands", None)):
            name, *words = words
            if name not in commands and (default := getattr(command, "default", None)):
                name, words = default, [name, *words]
            if name not in commands:
                raise Unknown(f"{name!r} is none of {', '.join(commands)}")
            command = commands[name]
        try:
            if words not in ([], ["--help"]):
                command.make_context(command.name, words)
        except TyperException as error:
            if type(error).__name__ != "MissingParameter":
                raise Unknown(str(error)) from None

    return parse


def _make(words: list[str]) -> None:
    """What the target's recipe runs is checked in turn."""
    variables = re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words:
        if "=" in word and word.partition("=")[0] not in variables:
            raise Unknown(f"the Makefile has no {word}")
    done = subprocess.run(
        # As if everything were installed: what installs it is not looked at.
        ["make", "-n", "-o", ".venv/.installed", *words],
        cwd=ROOT,
        # Nothing of a `make test ARGS=…` that this runs under.
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Unknown(done.stderr)
    for line in done.stdout.splitlines():
        if Path(program(line)).name in GRAMMARS:
            check(line)


def _python(words: list[str]) -> None:
    """A script, or a module with `-m`, as its source declares its options: to import torch takes seconds."""
    if words[0] == "-m":
        path = f"{words[1].replace('.', '/')}.py"
        files, words = [ROOT / folder / path for folder in ("", "shared", "producer", "workers")], words[2:]
    else:
        files, words = [ROOT / words[0]], words[1:]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise Unknown(f"there is no {files[0].relative_to(ROOT)}")
    if "argparse" in file.read_text():
        _declared(file).parse_args(words)


def _declared(file: Path) -> argparse.ArgumentParser:
    parser = _Parser(file.name)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            names = [ast.literal_eval(name) for name in node.args]
            terms = {str(word.arg): _value(word.value) for word in node.keywords}
            parser.add_argument(*names, **{name: value for name, value in terms.items() if value is not None})
    return parser


def _value(node: ast.expr) -> Any:
    """None for what only running it could tell."""
    known = {"int": int, "float": float, "Path": Path, "argparse.BooleanOptionalAction": argparse.BooleanOptionalAction}
    try:
        return known.get(ast.unparse(node)) or ast.literal_eval(node)
    except ValueError:
        return None


def _pytest(words: list[str]) -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    parser = _Parser("pytest")
    parser.add_argument("paths", nargs="*")
    parser.add_argument("-n", type=int)
    parser.add_argument("--dist", choices=["loadfile"])
    parser.add_argument("--no-loadscope-reorder", action="store_true")
    parser.add_argument("-k")
    parser.add_argument("-m", choices=[marker.partition(":")[0] for marker in options["markers"]])
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--timeout", type=float)
    for path in parser.parse_args(words).paths:
        if not (ROOT / path).exists():
            raise Unknown(f"there is no {path}")


def _pip(words: list[str]) -> None:
    """Ours, with extras; files; and what is downloaded is what we require."""
    parser = _Parser("pip")
    parser.add_argument("command", choices=["install", "download"])
    parser.add_argument("requirements", nargs="*")
    for flag in ("--no-deps", "--no-index"):
        parser.add_argument(flag, action="store_true")
    for option in ("--only-binary", "--platform", "--python-version", "--target", "-c", "-d"):
        parser.add_argument(option, action="append")
    asked = parser.parse_intermixed_args(words)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = {name.lower().replace("_", "-") for name in re.findall(r"^[\w.-]+", CONSTRAINTS.read_text(), re.MULTILINE)}
    for text in asked.requirements:
        if text.endswith(".whl"):
            continue
        required = Requirement(text)
        known = {"arno"} if asked.command == "install" else pinned
        if required.name not in known or not required.extras <= set(extras):
            raise Unknown(f"{text} is nothing of ours: the extras are {', '.join(extras)}")


def _docker(words: list[str]) -> None:
    """Compose, on the services of docker-compose.yml; what follows the name of `cli` is what `arno` takes."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    parser = _Parser("docker")
    parser.add_argument("compose", choices=["compose"])
    commands = parser.add_subparsers(dest="command", required=True)
    up, run, logs, _ = (commands.add_parser(name) for name in ("up", "run", "logs", "down"))
    for flag in ("-d", "--build", "--wait", "--no-deps"):
        up.add_argument(flag, action="store_true")
    up.add_argument("--scale", type=lambda text: text.partition("=")[0], choices=list(services))
    up.add_argument("services", nargs="*")
    for flag in ("--rm", "--no-deps"):
        run.add_argument(flag, action="store_true")
    run.add_argument("-v", action="append")
    run.add_argument("service", choices=list(services))
    run.add_argument("words", nargs=argparse.REMAINDER)
    logs.add_argument("-f", action="store_true")
    logs.add_argument("services", nargs="*")
    asked = parser.parse_args(words)
    if unknown := set(getattr(asked, "services", ())) - set(services):
        raise Unknown(f"no services: {unknown}")
    if asked.command == "run" and asked.service == "cli":
        GRAMMARS["arno"](asked.words)


GRAMMARS: dict[str, Callable[[list[str]], None]] = {
    "arno": _typer(arno_app),
    "arno-worker": _typer(arno_worker_app),
    "docker": _docker,
    "make": _make,
    "pip": _pip,
    "pytest": _pytest,
    "python": _python,
}
