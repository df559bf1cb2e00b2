"""`arno watch`."""

import typer

from arno_producer.cli.terminal import JobArgument, JsonOption


def watch(job: JobArgument, json_lines: JsonOption = False) -> None:
    """Show a job until it is finished.

    Exits with 0 when it is done, failed images included (their rows say why), and with 1 when it was cancelled or
    chunks of it are dead letters.
    """
    from arno_producer.cli.connection import connect
    from arno_producer.cli.progress import exit_code, follow

    raise typer.Exit(exit_code(follow(connect().job(job), as_json=json_lines)))
