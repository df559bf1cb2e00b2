"""`arno resume`: a job goes on, after it was paused or cancelled, or after Redis lost something of it."""

from typing import TYPE_CHECKING, Annotated

import typer

from arno_producer.cli.submit import WatchOption
from arno_producer.cli.terminal import JobArgument, JsonOption, emit, say
from arno_shared.errors import JobNotFound
from arno_shared.ledger import JobState
from arno_shared.names import Lane

if TYPE_CHECKING:
    from arno_producer.job import Job

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
    """Continue a job that is paused or cancelled, or that Redis has lost, or lost messages of; print its id.

    A paused job simply goes on. Of any other, what it was asked to do, and what of it is done, is read from its output
    prefix: images that have results are not run again. It harms nothing where nothing was lost.
    """
    from arno_producer.cli.connection import connect
    from arno_producer.cli.progress import exit_code, follow

    producer = connect()
    going = producer.job(job)
    if is_paused(going):
        going.unpause()
        say(f"Job {job} goes on.")
    else:
        going = resumed = producer.resume(job, output=output, lane=lane)
        status = resumed.status()
        say(
            f"{resumed.done_chunks:,} of {status.chunks:,} chunks were found done, {resumed.sent_chunks:,} were "
            f"enqueued; results go to {status.output_prefix}"
        )
    emit(going.status().model_dump_json() if json_lines else job)
    if watch:
        raise typer.Exit(exit_code(follow(going, as_json=json_lines)))


def is_paused(job: "Job") -> bool:
    try:
        return job.status().state is JobState.PAUSED
    except JobNotFound:
        return False
