"""`arno demo`."""

from pathlib import Path
from typing import Annotated

import typer

ScenesOption = Annotated[int, typer.Option(min=1, help="Pictures to draw and submit.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Workers to start.")]
KeepOption = Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")]
ReportOption = Annotated[Path, typer.Option(help="Folder for the report.")]


def demo(
    scenes: ScenesOption = 200,
    workers: WorkersOption = 2,
    keep: KeepOption = False,
    report: ReportOption = Path("demo-report"),
) -> None:
    """Run all of Arno on this machine.

    Starts Redis, storage and workers, gives them pictures to work on, and reports what came of it.
    """
    from arno_producer.demo import run_demo

    raise typer.Exit(run_demo(scenes=scenes, workers=workers, keep=keep, report=report))
