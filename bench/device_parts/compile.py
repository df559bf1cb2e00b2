"""The halves of the vision tower's blocks, stage by stage, called and under torch.compile; 64 pictures."""

from functools import cache, partial
from typing import Any

import torch
from device_run.insides import stages
from device_run.machine import Machine, Pieces
from device_run.models import load, size_of
from device_run.timing import difference, host_ms, ms_of

_ORDER = (2, 1, 0, 3)
"""The third stage has nine blocks, and most of the work."""
_HALVES = ("spatial", "channel")


def pieces(machine: Machine) -> Pieces:
    tower = cache(lambda: stages(load(machine, "base")))

    def measure(stage: int, place: int) -> dict[str, Any]:
        channels, halves = tower()[stage]
        return of(machine, halves[place], stage, channels)

    return {
        f"{half}, stage {stage}": partial(measure, stage, place)
        for place, half in enumerate(machine.pick(_HALVES, _HALVES[:1]))
        for stage in machine.pick(_ORDER, _ORDER[:1])
    }


def of(machine: Machine, half: Any, stage: int, channels: int) -> dict[str, Any]:
    machine.needs_s(10)
    batch, side = machine.pick(64, 1), size_of(machine, "base").picture_px >> (2 + stage)
    x, branch = (machine.random(batch, side, side, channels) for _ in range(2))
    called_ms = ms_of(machine, lambda: half(x, branch))
    torch._dynamo.reset()
    compiled = torch.compile(half.__call__, dynamic=False, backend="inductor" if machine.on_cuda else "aot_eager")
    compile_s = host_ms(machine, lambda: compiled(x, branch)) / 1000
    compiled_ms = ms_of(machine, lambda: compiled(x, branch))
    return {
        "called_ms": called_ms,
        "compiled_ms": compiled_ms,
        "compile_s": compile_s,
        "difference": difference(compiled(x, branch)[1], half(x, branch)[1]),
    }
