"""`arno results`."""

from typing import Annotated

import typer

from arno_producer.cli.terminal import JobArgument, emit

FailedOption = Annotated[bool, typer.Option("--failed", help="Only images that failed.")]


def results(job: JobArgument, failed: FailedOption = False) -> None:
    """Write a job's results as JSON lines.

    One row an image, as chunks are committed, until the job is finished.
    """
    from arno_producer.cli.connection import connect
    from arno_shared.results import Status

    for row in connect().job(job).results():
        if not failed or row.status is Status.FAILED:
            emit(row.model_dump_json())
