"""Each fenced block is of a kind that is tried: run, drawn, or a file that its reader writes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from arno_producer.triggers.rules import load_rules
from arno_shared.settings import Settings
from tests.deploy.test_compose import setting_names
from tests.documents import grammar
from tests.documents.blocks import DOCUMENTS, ROOT, Block, blocks, commands

BIN = Path(sys.executable).parent


def test_commands_end_where_a_shell_ends_them() -> None:
    text = r"""
a 'b; #c' "d\";" # e; f
g | h; i \
  j   # k
l#m
"""
    found = [(command.line, command.text) for command in commands(Block("sh", text, "x.md", 6))]
    assert found == [(7, r"""a 'b; #c' "d\";" """.strip()), (8, "g | h"), (8, "i \\\n  j"), (10, "l#m")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_fenced_blocks_say_what_they_are(document: str) -> None:
    """So that no command hides in a block that nobody knows how to run."""
    for block in blocks(document):
        where = f"{document}:{block.line}"
        assert block.language in ("sh", "python", "toml", "yaml", "dotenv", "text"), f"{where}: ```{block.language}"
        if block.language == "text":
            programs = {grammar.program(line.strip()) for line in block.text.splitlines()}
            assert not programs & set(grammar.GRAMMARS), f"{where}: commands in a drawing"


def test_rules_are_rules(tmp_path: Path) -> None:
    for block in blocks_in("toml"):
        file = tmp_path / "rules.toml"
        file.write_text(block.text)
        assert load_rules(file)


def test_what_overrides_the_compose_file_keeps_to_its_specification(tmp_path: Path) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for block in blocks_in("yaml"):
        # Compose's own tag, which says that a list is replaced.
        override = yaml.safe_load(block.text.replace("!override", ""))
        assert set(override["services"]) <= set(services)
        file = tmp_path / "docker-compose.override.yml"
        file.write_text(yaml.safe_dump(override))
        checked = subprocess.run(
            [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_goes_into_env_is_offered_by_its_example() -> None:
    offered = re.findall(r"^#?(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    for block in blocks_in("dotenv"):
        assert set(re.findall(r"^(\w+)=", block.text, re.MULTILINE)) <= set(offered)


def blocks_in(language: str) -> list[Block]:
    found = [block for document in DOCUMENTS for block in blocks(document) if block.language == language]
    assert found, f"no document has ```{language} any more: its check can go"
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_settings_that_are_named_exist(document: str) -> None:
    named = set(re.findall(r"\bARNO_[A-Z0-9_]+\b", (ROOT / document).read_text()))
    assert named <= {*setting_names(Settings), "ARNO_TEST_CHECKPOINT", "ARNO_TEST_PICTURES"}
