"""Commands that documents name in a sentence, or that cannot be run here, exist, and so do their options."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.documents.blocks import DOCUMENTS, blocks, commands, spans
from tests.documents.grammar import GRAMMARS, Unknown, check, options, program
from tests.documents.stand_ins import is_run

BIN = Path(sys.executable).parent


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_sentences_and_cells_exist(document: str) -> None:
    known = options()
    for command in spans(document):
        name = program(command.text)
        if name in GRAMMARS:
            understood(str(command), command.text)
            assert name != "make" or not is_run(command.text), f"{command}: run it in a block, or say why it is not"
        elif name.startswith("--"):
            assert name.partition("=")[0] in known, f"{command}: nothing has this option"
        else:
            is_other = " " in command.text and shutil.which(name, path=f"{BIN}:{os.environ['PATH']}")
            assert not is_other or not is_run(command.text), f"{command}: grammar.py has no {name}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_that_are_not_run_exist(document: str) -> None:
    for block in blocks(document):
        for command in commands(block) if block.language == "sh" else ():
            if not is_run(command.text):
                understood(str(command), command.text)


def understood(where: str, command: str) -> None:
    try:
        check(command)
    except Unknown as error:
        pytest.fail(f"{where}: {error}")


@pytest.mark.parametrize(
    "command",
    [
        "arno eats",
        "arno dead lists",
        "arno submit - --promt OD",
        "arno dead list --limit many",
        "arno-worker --gpu 0",
        "make benchmark",
        "make soak MINUTE=10",
        "make bench WHAT=nothing",
        "make bench WHAT=engine ARGS='--imagse 256'",
        "make demo ARGS=--keeps",
        "make evaluate ARGS='--scenes many'",
        "python bench/nothing.py",
        "python -m arno_workers.tiny.train --sed 1",
        "pip install 'arno[gpu]'",
        "pip download --no-deps a-package-of-nobody",
        "pytest -m gpus",
        "pytest tests/nothing",
        "docker compose start",
        "docker compose up --detached",
        "docker compose up -d worker",
        "docker compose up -d --scale worker=4",
        "docker compose run --rm cli eats",
    ],
)
def test_what_a_program_does_not_know_is_found(command: str) -> None:
    with pytest.raises(Unknown):
        check(command)
