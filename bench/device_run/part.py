"""A part of the run: a file of device_parts with its arguments, and how long it may take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

from device_run.machine import Machine, Pieces


@dataclass(frozen=True)
class Part:
    module: str
    """Below device_parts, with a function `pieces(machine, **arguments)`."""
    limit_s: float
    arguments: Mapping[str, Any] = field(default_factory=dict)
    piece_limit_s: float = float("inf")
    """A piece that takes longer is killed alone, and the next ones go on."""
    again_blocking: bool = False
    """A piece that takes the process or the device with it is run once more, with every launch waited for, so that its
    traceback names the call that did it."""

    def load(self) -> ModuleType:
        """It imports what it needs, which takes seconds."""
        return import_module(f"device_parts.{self.module}")

    def pieces(self, machine: Machine) -> Pieces:
        found: Pieces = self.load().pieces(machine, **self.arguments)
        return found
