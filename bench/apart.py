"""A row that answers in a process of its own, as a worker does.

OpenMP keeps threads for each thread of a process that computes, and once there are more of these than cores, none of
them waits busily any more: two rows with two threads each, in one process, would slow each other down.
"""

from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from baselines import Answers, Row, Workload
from PIL import Image


class Apart(Row):
    def __init__(self, letter: str, name: str, make: Callable[[], Row]) -> None:
        """`make` is called there, and must be picklable."""
        self.letter, self.name = letter, name
        context = get_context("spawn")
        self._there, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make), daemon=True)
        self._process.start()
        other.close()
        self.threads = int(self._answered())
        """Of torch, as many as the row chose for itself."""

    def warm_up(self, pictures: Sequence[Image.Image], workload: Workload) -> None:
        self._ask("warm_up", pictures, workload)

    def answer(self, pictures: Sequence[Image.Image], workload: Workload) -> Answers:
        """Of as many pictures as it was warmed up with: they are there already, and what is timed is the work."""
        answers: Answers = self._ask("answer", len(pictures), workload)
        return answers

    def close(self) -> None:
        self._there.close()
        self._process.join()

    def _ask(self, *call: Any) -> Any:
        self._there.send(call)
        return self._answered()

    def _answered(self) -> Any:
        try:
            outcome = self._there.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"the process of row {self.letter} ended with {self._process.exitcode}") from None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _serve(there: Connection, make: Callable[[], Row]) -> None:
    import torch

    row = make()
    there.send(torch.get_num_threads())
    pictures: Sequence[Image.Image] = []
    while True:
        try:
            name, given, workload = there.recv()
        except EOFError:
            row.close()
            return
        try:
            if name == "warm_up":
                pictures = given
                there.send(row.warm_up(pictures, workload))
            else:
                there.send(row.answer(pictures[:given], workload))
        except Exception as error:
            there.send(error)
