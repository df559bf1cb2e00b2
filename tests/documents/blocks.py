"""Documents taken apart: fenced blocks, the commands in them, and code in sentences and table cells."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]

# The changelog tells of the past, whose commands may be gone.
DOCUMENTS = sorted(
    file.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "deploy/**/*.md", "docs/**/*.md", "workers/**/*.md")
    for file in ROOT.glob(pattern)
    if file.name != "CHANGELOG.md"
)

_MARKDOWN = MarkdownIt("commonmark").enable("table")

_PIECES = re.compile(
    r"""'[^']*' | "(?:\\.|[^"\\])*" | \\.      # quoted: what is in it separates nothing
      | (?P<comment>(?:(?<=\s)|^)\#[^\n]*)
      | (?P<end>[;\n])
      | [^'"\\\#;\n]+ | .""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    language: str
    text: str
    document: str
    line: int
    """Of its first line of text."""


class Command(NamedTuple):
    text: str
    document: str
    line: int

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def blocks(document: str) -> Iterator[Block]:
    for token in _MARKDOWN.parse((ROOT / document).read_text()):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            yield Block(token.info, token.content, document, token.map[0] + 2)


def spans(document: str) -> Iterator[Command]:
    """Code in sentences and table cells, whatever it is."""
    for token in _MARKDOWN.parse((ROOT / document).read_text()):
        for child in token.children or ():
            if child.type == "code_inline":
                assert token.map is not None
                yield Command(child.content, document, token.map[0] + 1)


def commands(block: Block) -> Iterator[Command]:
    """A shell's block, command by command, without comments; a pipeline is one command."""
    text, line, at = "", block.line, block.line
    for piece in _PIECES.finditer(f"{block.text}\n"):
        if piece["end"]:
            if text.strip():
                yield Command(text.strip(), block.document, line)
            text = ""
        elif not piece["comment"]:
            line = line if text.strip() else at
            text += piece[0]
        at += piece[0].count("\n")


def sections(document: str) -> Iterator[tuple[str, str]]:
    """Headings, and what stands below each until the next."""
    lines = (ROOT / document).read_text().splitlines(keepends=True)
    tokens = _MARKDOWN.parse("".join(lines))
    starts = [token.map[0] for token in tokens if token.type == "heading_open" and token.map]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start].strip("# \n"), "".join(lines[start + 1 : end])
