"""`arno status`: a job in full, or the latest jobs at a glance."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from arno_producer.cli.terminal import JsonOption, emit, show_table
from arno_shared.errors import JobNotFound

if TYPE_CHECKING:
    from arno_shared.ledger import JobStatus, Ledger

_RECENT_JOBS = 20

OneJob = Annotated[
    str | None, typer.Argument(metavar="JOB", help="The job's id.", show_default="the latest jobs, at a glance")
]


def status(job: OneJob = None, json_lines: JsonOption = False) -> None:
    """Say how far a job is, or how far the latest jobs are."""
    from arno_producer.cli.connection import connect

    ledger = connect().ledger
    found = _recent(ledger) if job is None else iter([ledger.status(job)])
    if json_lines:
        for one in found:
            emit(one.model_dump_json())
    elif job is None:
        show_table(("job", "state", "images", "ok", "failed", "put off", "dead", "submitted"), map(_summary, found))
    else:
        show_table(("", ""), _details(next(found)))


def _recent(ledger: "Ledger") -> Iterator["JobStatus"]:
    for job_id in ledger.jobs(_RECENT_JOBS):
        try:
            yield ledger.status(job_id)
        except JobNotFound:  # its time in the ledger is over
            continue


def _summary(job: "JobStatus") -> tuple[str, ...]:
    counts = (f"{count:,}" for count in (job.images, job.ok, job.failed, job.put_off, job.dead))
    return (job.job_id, job.state.value, *counts, f"{job.created_at:%Y-%m-%d %H:%M:%S}Z")


def _details(job: "JobStatus") -> Iterator[tuple[str, str]]:
    yield "job", job.job_id
    yield "state", job.state.value
    yield "images", f"{job.images:,}" + ("" if job.sealed else " so far; more are being submitted")
    yield "ok", f"{job.ok:,}"
    yield "failed", ", ".join([f"{job.failed:,}", *(f"{code} {n:,}" for code, n in job.failed_by_code.items())])
    yield "put off", f"{job.put_off:,}"
    yield "dead", f"{job.dead:,}" + ("; see arno dead list" if job.dead else "")
    yield "chunks", f"{job.chunks_committed:,} of {job.chunks:,} committed"
    yield "results", f"{job.output_prefix} ({job.output_format})"
    yield "submitted", f"{job.created_at:%Y-%m-%d %H:%M:%S}Z"
    if job.finished_at is not None:
        yield "finished", f"{job.finished_at:%Y-%m-%d %H:%M:%S}Z"
