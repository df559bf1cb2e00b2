"""The machine that a part measures, and how much of it there is to measure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal, TypeAlias, TypeVar

T = TypeVar("T")

Pieces: TypeAlias = Mapping[str, Callable[[], Any]]
"""What a part measures, by name and in order. A piece returns what it found: numbers, rows of a table, or both. Where
that has `ok`, and it is False, the piece has failed."""


class Skipped(Exception):
    """A piece that cannot be measured here, or for which no time is left."""


@dataclass
class Machine:
    device: Literal["cuda", "cpu"]
    tiny: bool
    """Small sizes, with which figures mean nothing: whether the parts still fit the project."""
    work: Path
    """For checkpoints and the like; it goes when the run ends."""
    only: str = ""
    """A regular expression: pieces in whose names it finds nothing are left out."""
    ends_s: float = float("inf")
    """By `time.monotonic`: when the part's time is up."""

    @property
    def on_cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def dtype(self) -> Any:
        """What the engine computes in by itself."""
        import torch

        return torch.bfloat16 if self.on_cuda else torch.float32

    def pick(self, full: T, tiny: T) -> T:
        return tiny if self.tiny else full

    def needs_cuda(self) -> None:
        """Raises Skipped."""
        if not self.on_cuda:
            raise Skipped("needs CUDA")

    def needs_s(self, seconds: float) -> None:
        """Raises Skipped."""
        if (left_s := self.ends_s - monotonic()) < seconds:
            raise Skipped(f"{left_s:.0f} s are left, and it needs about {seconds:.0f} s")

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        import torch

        if self.on_cuda:
            torch.cuda.synchronize()

    def random(self, *shape: int) -> Any:
        import torch

        return torch.randn(*shape, device=self.device, dtype=self.dtype)
