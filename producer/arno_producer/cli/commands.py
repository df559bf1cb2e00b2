"""The commands of `arno`: what each says of itself, and where it stands. One is loaded when it is asked for.

Loading them all takes a second, with Redis, Celery and pydantic, which a line of help should not wait for.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

HELP = {
    "submit": "Enqueue images; print the job's id.",
    "pause": "Let a job stand still until `arno resume`.",
    "resume": "Continue a job that is paused or cancelled, or that Redis has lost, or lost messages of; print its id.",
    "status": "Say how far a job is, or how far the latest jobs are.",
    "watch": "Show a job until it is finished.",
    "results": "Write a job's results as JSON lines.",
    "cancel": "Stop a job.",
    "model": "Say what a model's folder holds, and whether Arno will run it; or convert it.",
    "workers": "Show the workers, what each is doing, and those that fell silent in the last minutes.",
    "serve": "Take jobs, single pictures and S3 events over HTTP, until SIGTERM.",
    "doctor": "Check what jobs need, and say how to mend it.",
    "demo": "Run all of Arno on this machine.",
    "dead": "Dead letters: list them, replay them, purge them.",
    "trigger": "Turn S3 events into work, as objects are created.",
}
"""The first sentence of each command's own help. The module of the same name has a function of that name, or, where the
command has commands of its own, an `app`."""


class Commands(Mapping[str, Any]):
    """The commands by name, as Typer takes them."""

    def __getitem__(self, name: str) -> Any:
        if name not in HELP:
            raise KeyError(name)
        module = import_module(f"arno_producer.cli.{name}")
        app = getattr(module, "app", None)
        if app is None:
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(name)(getattr(module, name))
        command = typer.main.get_command(app)
        command.name = name
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(HELP)

    def __len__(self) -> int:
        return len(HELP)


class CommandGroup(TyperGroup):
    """Lists the commands without loading them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "commands": Commands()})

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(HELP.items()))
