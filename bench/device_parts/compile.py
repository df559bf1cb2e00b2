"""The functions of the vision tower's blocks, stage by stage, called and under torch.compile; 64 pictures."""

from functools import cache, partial
from typing import Any

import torch
from device_run.insides import Stage, stages
from device_run.machine import Machine, Pieces
from device_run.models import load, size_of
from device_run.timing import difference, host_ms, ms_of

_ORDER = (2, 1, 0, 3)
"""The third stage has nine blocks, and most of the work."""
_FUNCTIONS = ("block", "windows", "channels", "feed_forward")


def pieces(machine: Machine) -> Pieces:
    tower = cache(lambda: stages(load(machine, "base")))
    return {
        f"{function}, stage {number}": partial(lambda one, name: of(machine, tower()[one], one, name), number, function)
        for function in machine.pick(_FUNCTIONS, _FUNCTIONS[:1])
        for number in machine.pick(_ORDER, _ORDER[:1])
    }


def of(machine: Machine, stage: Stage, number: int, name: str) -> dict[str, Any]:
    machine.needs_s(10)
    run, batch = stage.functions[name], machine.pick(64, 1)
    side = size_of(machine, "base").picture_px >> (2 + number)
    x = machine.random(batch, side, side, stage.channels)
    called_ms = ms_of(machine, lambda: run(x))
    torch._dynamo.reset()
    compiled = torch.compile(run, dynamic=False, backend="inductor" if machine.on_cuda else "aot_eager")
    compile_s = host_ms(machine, lambda: compiled(x)) / 1000
    compiled_ms = ms_of(machine, lambda: compiled(x))
    return {
        "called_ms": called_ms,
        "compiled_ms": compiled_ms,
        "blocks": stage.depth,
        "saves_ms_an_image": (called_ms - compiled_ms) * stage.depth / batch,
        "compile_s": compile_s,
        "difference": difference(compiled(x), run(x)),
    }
