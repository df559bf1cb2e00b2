"""`arno --help` lists every command as it describes itself, and waits for none of them."""

import json
import subprocess
import sys

import pytest
import typer
from typer.core import TyperGroup

from arno_producer.cli import app
from arno_producer.cli.commands import HELP

HEAVY = {"boto3", "botocore", "celery", "kombu", "pydantic", "redis", "structlog", "torch", "urllib3"}
"""What commands do their work with."""


def loaded_by(program: str, *arguments: str) -> set[str]:
    """The top-level modules that a program has loaded when it ends."""
    code = (
        f"import json, sys; from {program} import app\n"
        "try: app()\n"
        "finally: print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr
    return set(json.loads(done.stderr))


@pytest.mark.parametrize(
    ("program", "argument"),
    [("arno_producer.cli", "--version"), ("arno_producer.cli", "--help"), ("arno_workers.cli", "--help")],
)
def test_help_and_version_load_nothing_that_does_work(program: str, argument: str) -> None:
    loaded = loaded_by(program, argument)
    assert "typer" in loaded
    assert not loaded & HEAVY
    # Only `arno-worker` draws its help with it.
    assert "rich" not in loaded or program == "arno_workers.cli"


def test_the_producer_is_loaded_when_it_is_used() -> None:
    code = "import sys, arno_producer; print(*sys.modules); from arno_producer import Producer; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    assert not before & HEAVY
    assert {"redis", "celery"} <= after


@pytest.mark.parametrize("name", sorted(HELP))
def test_a_command_is_listed_with_the_first_sentence_of_its_own_help(name: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    command = group.commands[name]
    assert command.name == name
    assert command.get_short_help_str(limit=1000) == HELP[name]
