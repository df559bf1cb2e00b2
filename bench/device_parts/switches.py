"""The engine with each of its switches on and off: images a second on short answers and on long ones.

The first line is the engine as it is set by default. The others are named by what is on in them, so that what a switch
is worth is the difference of two lines that differ by it alone.
"""

from collections.abc import Mapping
from functools import partial
from time import perf_counter
from typing import Any

from device_run.door import Asked
from device_run.insides import known_settings
from device_run.machine import Machine, Pieces, Skipped

_OFF = {"kernels": "plain", "graphs": False, "overlap": False, "cudnn_attention": False}
SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "triton, graphs": {**_OFF, "kernels": "triton", "graphs": True},
    "untried, graphs": {**_OFF, "kernels": "untried", "graphs": True},
    "triton, graphs, overlap": {**_OFF, "kernels": "triton", "graphs": True, "overlap": True},
    "plain, graphs": {**_OFF, "graphs": True},
    "plain": _OFF,
    "triton": {**_OFF, "kernels": "triton"},
    "triton, graphs, cudnn": {**_OFF, "kernels": "triton", "graphs": True, "cudnn_attention": True},
    "compiled, graphs": {**_OFF, "kernels": "compiled", "graphs": True},
}
"""By name: settings of WorkerSettings."""
ANSWERS = {"CAPTION": (12, 1024), "OCR_WITH_REGION": (150, 768)}
"""By task: tokens of an answer, and pictures."""


def pieces(machine: Machine) -> Pieces:
    return {name: partial(measure, machine, dict(settings)) for name, settings in SWITCHES.items()}


def measure(machine: Machine, settings: dict[str, Any]) -> dict[str, float]:
    if missing := settings.keys() - known_settings(settings).keys():
        raise Skipped(f"the engine has no setting {', '.join(sorted(missing))}")
    machine.needs_s(20)
    asked = Asked(machine, "base", **settings)
    began_s = perf_counter()
    asked.engine  # noqa: B018
    found = {"start_s": perf_counter() - began_s}
    for task, (tokens, images) in ANSWERS.items():
        what = (f"<{task}>", 3, machine.pick(tokens, 4))
        asked.warm_up(*what)
        rounds = [asked.one_round(*what, machine.pick(images, 2)) for _ in range(machine.pick(2, 1))]
        best = max(rounds, key=lambda one: float(one["images_per_s"]))
        found[f"{task}, images/s"] = best["images_per_s"]
        found |= {f"{task}, {row['stage']}, ms an image": row["ms_an_image"] for row in best["stages"]}
    found["memory_gib"] = asked.engine.load.memory_used_bytes / 2**30
    asked.close()
    return found
