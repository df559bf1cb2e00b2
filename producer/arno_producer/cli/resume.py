"""`arno resume`: a job goes on where it was, after Redis lost something of it."""

from typing import Annotated

import typer

from arno_producer.cli.submit import WatchOption
from arno_producer.cli.terminal import JobArgument, JsonOption, emit, say
from arno_shared.names import Lane

OutputOption = Annotated[
    str | None,
    typer.Option(
        metavar="PREFIX",
        help="Where the job's results go.",
        show_default="what the ledger says, or ARNO_OUTPUT_PREFIX/JOB/",
    ),
]
LaneOption = Annotated[
    Lane | None, typer.Option(help="Workers drain interactive before bulk.", show_default="the job's own, or bulk")
]


def resume(
    job: JobArgument,
    output: OutputOption = None,
    lane: LaneOption = None,
    watch: WatchOption = False,
    json_lines: JsonOption = False,
) -> None:
    """Continue a job that Redis has lost, or lost messages of; print its id.

    What the job was asked to do, and what of it is done, is read from its output prefix: images that have results are
    not run again. It harms nothing where nothing was lost. A cancelled job goes on.
    """
    from arno_producer.cli.connection import connect
    from arno_producer.cli.progress import exit_code, follow

    resumed = connect().resume(job, output=output, lane=lane)
    status = resumed.status()
    say(
        f"{resumed.done_chunks:,} of {status.chunks:,} chunks were found done, {resumed.sent_chunks:,} were enqueued; "
        f"results go to {status.output_prefix}"
    )
    emit(status.model_dump_json() if json_lines else resumed.id)
    if watch:
        raise typer.Exit(exit_code(follow(resumed, as_json=json_lines)))
