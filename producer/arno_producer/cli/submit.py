"""`arno submit`: images in, a job's id out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arno_producer.cli.prompts import ParseOption, PromptOption, RawOption, prompts_given
from arno_producer.cli.terminal import JsonOption, emit, say
from arno_shared.errors import HouseError, InvalidRequest, JobConflict, JobNotFound
from arno_shared.ledger import JobState
from arno_shared.names import Lane

if TYPE_CHECKING:
    from arno_producer.client import Producer

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="The URI of an image; a manifest (.txt, .csv, .jsonl, .ndjson, .parquet), local or in s3://; a local "
        "folder; s3://bucket/prefix, for all images under it; or -, for standard input, one URI or JSON object a line.",
        show_default=False,
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        help="Where results go, s3://bucket/prefix/ or file:///folder/.", show_default="ARNO_OUTPUT_PREFIX/JOB/"
    ),
]
FormatOption = Annotated[str, typer.Option(help="Format of results: jsonl or parquet.")]
InlineOption = Annotated[bool, typer.Option("--inline", help="Small results travel in the topic's events as well.")]
JobIdOption = Annotated[
    str | None,
    typer.Option(
        help="The job's id. Giving that of an earlier job, and its images, continues it.", show_default="a new one"
    ),
]
LaneOption = Annotated[Lane, typer.Option(help="Workers drain interactive before bulk.")]
NumBeamsOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Beams of the search; 1 is greedy.", show_default="the model's own"),
]
MaxNewTokensOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="How long each answer may get, in tokens.", show_default="each task's own"),
]
UriColumnOption = Annotated[str, typer.Option(help="The column of a manifest that holds URIs.")]
IdColumnOption = Annotated[
    str | None, typer.Option(help="The column of a manifest that holds ids.", show_default="id, where there is one")
]
WatchOption = Annotated[
    bool, typer.Option("--watch", help="Then show the job until it is finished, as arno watch does.")
]


def submit(
    sources: Sources,
    prompt: PromptOption = None,
    raw: RawOption = None,
    parse: ParseOption = None,
    output: OutputOption = None,
    format: FormatOption = "jsonl",
    inline: InlineOption = False,
    job_id: JobIdOption = None,
    lane: LaneOption = Lane.BULK,
    num_beams: NumBeamsOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    uri_column: UriColumnOption = "uri",
    id_column: IdColumnOption = None,
    watch: WatchOption = False,
    json_lines: JsonOption = False,
) -> None:
    """Enqueue images; print the job's id.

    Submission pauses while the queue is long, and goes on as workers catch up. Workers read file:// images only where
    their ARNO_LIMITS__SCHEMES and ARNO_LIMITS__FILE_ROOTS allow it.
    """
    from arno_producer.cli.connection import connect
    from arno_producer.cli.progress import exit_code, follow
    from arno_producer.client import new_job_id
    from arno_producer.sources import Columns, images_from

    prompts = prompts_given(prompt, raw, parse)
    producer = connect()
    job_id = job_id or new_job_id()
    images = images_from(sources, producer.store, Columns(uri_column, id_column))
    prefix = output or f"{producer.settings.output_prefix}{job_id}/"
    with _says_how_to_go_on(producer, job_id), _counted(images) as counted:
        job = producer.submit(
            counted,
            prompts,
            output={"prefix": prefix, "format": format, "inline": inline},
            generation={"num_beams": num_beams, "max_new_tokens": max_new_tokens},
            job_id=job_id,
            lane=lane,
        )
    status = job.status()
    say(f"{status.images:,} images in {status.chunks:,} chunks; results go to {status.output_prefix}")
    if status.state in (JobState.CANCELLED, JobState.PAUSED):
        say(f"Job {job.id} is {status.state}, and stays so until arno resume {job.id} brings it back.")
    emit(status.model_dump_json() if json_lines else job.id)
    if watch:
        raise typer.Exit(exit_code(follow(job, as_json=json_lines)))


@contextmanager
def _counted(images: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """The images, counted as they are taken where somebody watches."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} images"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield iter(progress.track(images))


@contextmanager
def _says_how_to_go_on(producer: "Producer", job_id: str) -> Iterator[None]:
    try:
        yield
    except JobConflict:
        raise
    except BaseException as error:
        if _may_be_open(producer, job_id, error):
            say(f"Job {job_id} is not submitted whole: give the same images with --job-id {job_id} to go on with it.")
        raise


def _may_be_open(producer: "Producer", job_id: str, error: BaseException) -> bool:
    try:
        producer.ledger.status(job_id)
    except JobNotFound:
        return False
    except HouseError:
        # Nobody can say now. What was wrong with the call itself stopped it before anything was sent.
        return not isinstance(error, InvalidRequest)
    return True
