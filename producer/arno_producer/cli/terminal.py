"""What goes where: results to stdout, words and progress to stderr, and secrets nowhere.

Names, captions and reasons come from strangers: control characters in them are written out and never reach a terminal.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from arno_shared.controls import escape_controls
from arno_shared.uris import redact

JsonOption = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, for programs.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]

_WIDE_COLUMNS = 240
"""Width of tables that are not shown on a terminal: nothing is folded for a file or a pipe."""


def say(words: str) -> None:
    """A line for people, or some, on stderr."""
    for line in redact(words).split("\n"):
        typer.echo(escape_controls(line), err=True)


def emit(line: str) -> None:
    """A line of output, on stdout, written out at once: whoever reads the pipe may wait for it.

    JSON means the same as before: control characters are escaped as in its strings, the only place where it has any.
    """
    typer.echo(escape_controls(line))


def show_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=SIMPLE_HEAD, show_header=any(headings), pad_edge=False)
    for row in rows:
        # Not as markup: ids and reasons may hold brackets.
        table.add_row(*(Text(escape_controls(redact(cell))) for cell in row))
    Console(width=None if sys.stdout.isatty() else _WIDE_COLUMNS).print(table)
