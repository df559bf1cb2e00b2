"""The `arno` command. Each command stands in a file of its own, which is loaded when it is called."""

import sys
from typing import Annotated

import typer

from arno_producer.cli.commands import CommandGroup
from arno_producer.cli.terminal import emit, say
from arno_shared import __version__
from arno_shared.errors import ArnoError, HouseError, InvalidRequest

app = typer.Typer(
    cls=CommandGroup,
    name="arno",
    help="Florence-2 over very large numbers of images.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        emit(f"arno {__version__}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
]


@app.callback()
def _arno(version: VersionOption = False) -> None:
    from arno_shared.logs import configure

    # A library's news is not a program's output.
    configure("warning")


def main() -> None:
    """Runs the command in `sys.argv`. Exits with 1 when it failed, 2 when it was asked wrongly, 130 after Ctrl-C."""
    try:
        app()
    except ArnoError as error:
        hint = ""
        if isinstance(error, HouseError):
            from arno_producer.cli.connection import set_by

            hint = set_by(error)
        say(f"arno: {error}{hint}")
        sys.exit(2 if isinstance(error, InvalidRequest) else 1)
