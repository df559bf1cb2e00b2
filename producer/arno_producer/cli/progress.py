"""A job's progress: a bar on a terminal, a line every few seconds elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING, TypeAlias

from arno_producer.cli.terminal import emit, say
from arno_producer.speed import Speed
from arno_shared.controls import escape_controls
from arno_shared.ledger import JobState, JobStatus

if TYPE_CHECKING:
    from rich.console import Console

    from arno_producer.job import Job

_POLL_S = 0.5
_LINE_S = 5.0

Show: TypeAlias = Callable[[JobStatus, str], None]


def follow(job: "Job", *, as_json: bool) -> JobStatus:
    """Shows the job until it is finished. Raises JobNotFound, HouseError."""
    speed = Speed()
    with _display(as_json) as show:
        while True:
            status = job.status()
            show(status, describe(status, speed.images_per_s(status.settled, monotonic())))
            if status.finished:
                return status
            sleep(_POLL_S)


def exit_code(status: JobStatus) -> int:
    """0 when every image has a row, that of a failure included; 1 when the job was cancelled or chunks are dead."""
    return 0 if status.state is JobState.DONE and not status.dead else 1


def describe(status: JobStatus, images_per_s: float) -> str:
    """One line: how far, how fast, how long still, and what went wrong."""
    words = [f"{status.state}: {status.settled:,} of {status.images:,} images" + ("" if status.sealed else " so far")]
    if images_per_s > 0 and not status.finished:
        words.append(f"{images_per_s:,.1f}/s")
        if status.sealed:
            words.append(f"{_duration((status.images - status.settled) / images_per_s)} left")
    words += [f"{code} {count:,}" for code, count in status.failed_by_code.items()]
    words += [f"{what} {count:,}" for what, count in (("put off", status.put_off), ("dead", status.dead)) if count]
    return ", ".join(words)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes // (24 * 60)} days"


def _display(as_json: bool) -> AbstractContextManager[Show]:
    from rich.console import Console

    if as_json:
        return _now_and_then(lambda status, _: emit(status.model_dump_json()))
    console = Console(stderr=True)
    return _bar(console) if console.is_terminal else _now_and_then(lambda _, words: say(words))


@contextmanager
def _bar(console: "Console") -> Iterator[Show]:
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(BarColumn(), TextColumn("{task.description}", markup=False), console=console) as progress:
        task = progress.add_task("", total=None)
        yield lambda status, words: progress.update(
            task, description=escape_controls(words), completed=status.settled, total=status.images
        )


@contextmanager
def _now_and_then(write: Show) -> Iterator[Show]:
    written_s = float("-inf")

    def show(status: JobStatus, words: str) -> None:
        nonlocal written_s
        if status.finished or monotonic() - written_s >= _LINE_S:
            written_s = monotonic()
            write(status, words)

    yield show
