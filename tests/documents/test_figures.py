"""Figures that were measured stand beside the command that gives them, or a sentence that none does."""

import re

import pytest

from tests.documents.blocks import DOCUMENTS, sections

MEASURED = re.compile(r"\d (?:ms|µs|images/s|%)|\dx? ?×|\d s after\b|\blost \d")
ITS_COMMAND = re.compile(r"`(?:make|pytest|python) [^`]+`|\b[Nn]o command\b")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_section_with_figures_says_how_to_get_them(document: str) -> None:
    for heading, text in sections(document):
        if MEASURED.search(text):
            assert ITS_COMMAND.search(text), f"{document}: {heading}: what gives these figures?"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_line_of_a_table_with_commands_has_one(document: str) -> None:
    for heading, text in sections(document):
        for table in re.findall(r"^\|[^\n]*\bcommand \|\n\|[-| ]+\|\n((?:\|[^\n]*\n)+)", text, re.MULTILINE):
            for line in table.splitlines():
                assert ITS_COMMAND.search(line), f"{document}: {heading}: {line}"
