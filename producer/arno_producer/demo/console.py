"""What the demo says: on a terminal with a progress bar, elsewhere in plain lines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from arno_producer.demo.outcome import TASKS, Outcome
from arno_producer.demo.servers import Ports

_PLAIN_STEPS = 5


class DemoConsole:
    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._began_s = monotonic()

    def say(self, text: str) -> None:
        self._console.print(f"[dim]{monotonic() - self._began_s:5.1f} s[/]  {escape(text)}")

    def failure(self, text: str) -> None:
        self._console.print(f"[bold red]The demo failed:[/] {escape(text)}")

    @contextmanager
    def progress(self, images: int) -> Iterator[Callable[[int], None]]:
        """Yields what takes the number of images that are settled."""
        if not self._console.is_terminal:
            yield self._plain_progress(images)
            return
        columns = (TextColumn("         images"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as bar:
            task = bar.add_task("", total=images)
            yield lambda settled: bar.update(task, completed=settled)

    def outcome(self, outcome: Outcome, report: Path) -> None:
        self._console.print(_table(outcome))
        for problem in outcome.problems:
            self.failure(problem)
        self.say(f"report: {report.absolute().as_uri()}")

    def kept(self, ports: Ports) -> None:
        lines = [f"Flower  {ports.flower_url}", f"S3      {ports.s3_url}", f"Redis   {ports.redis_url}"]
        exports = [f"export {name}={value}" for name, value in ports.environment().items()]
        self._console.print("\nEverything stays up until Ctrl-C.\n", *lines, sep="\n", markup=False)
        self._console.print("\nTo use it from another shell:\n", *exports, "arno status\n", sep="\n", markup=False)

    def _plain_progress(self, images: int) -> Callable[[int], None]:
        said = 0

        def show(settled: int) -> None:
            nonlocal said
            if settled * _PLAIN_STEPS // images > said:
                said = settled * _PLAIN_STEPS // images
                self.say(f"{settled} of {images} images")

        return show


def _table(outcome: Outcome) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", style="bold")
    table.add_column()
    table.add_row(str(outcome.done), "images done")
    for code, count in sorted(outcome.failed_by_code.items()):
        table.add_row(str(count), f"failed: {code}", style="yellow")
    rate = outcome.images_per_s
    table.add_row(f"{rate:.1f}" if rate else "–", "images/s, from the first commit to the last")
    for task in TASKS:
        right = outcome.right_by_task[task]
        table.add_row(f"{right}/{outcome.done}", escape(f"{task} answers right"), style="green")
    return table
