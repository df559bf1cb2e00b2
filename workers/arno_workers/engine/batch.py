"""A stage that takes a batch: in batches of any size, or padded to sizes that were captured."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from arno_workers.engine.graphs import Runner

SIZES = (1, 2, 4, 8, 16, 32, 48, 64)
"""What batches are padded to: a graph for each, and never more than half of one in vain."""


class Batch:
    """Inputs that stay where they are, a row for each member of the batch, and the function that takes them.

    Padded rows hold what was there before or what `padding` says, and nobody sees what becomes of them.
    """

    def __init__(
        self,
        runner: Runner,
        name: Hashable,
        function: Callable[..., Any],
        inputs: Sequence[Tensor],
        padding: Sequence[int | None],
    ) -> None:
        """`inputs`: with as many rows as the largest batch; those of several stages may be the same tensors."""
        self._runner, self._name, self._function = runner, name, function
        self._inputs, self._padding = inputs, padding
        most = len(inputs[0])
        self._sizes = [size for size in SIZES if size < most] + [most]

    def capture(self) -> None:
        """Raises CaptureFailed."""
        # The largest first: the smaller ones find room in what it needed.
        for size in reversed(self._sizes):
            self._pad(0, size)
            self._runner.capture((self._name, size), partial(self._run, size))

    def __call__(self, *inputs: Tensor) -> Any:
        count = len(inputs[0])
        size = next((size for size in self._sizes if size >= count), count)
        if not self._runner.has((self._name, size)):
            return self._function(*inputs)
        for held, given in zip(self._inputs, inputs, strict=True):
            held[:count].copy_(given)
        self._pad(count, size)
        result = self._runner.run((self._name, size), partial(self._run, size))
        # The next batch overwrites it.
        return None if result is None else result[:count].clone()

    def _run(self, size: int) -> Any:
        return self._function(*(held[:size] for held in self._inputs))

    def _pad(self, count: int, size: int) -> None:
        for held, value in zip(self._inputs, self._padding, strict=True):
            if value is not None:
                held[count:size].fill_(value)
