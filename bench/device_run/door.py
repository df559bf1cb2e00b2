"""The engine as a worker starts it, asked through its door."""

import gc
import os
import sys
from collections.abc import Sequence
from functools import cached_property
from queue import SimpleQueue
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch

from arno_shared import logs
from arno_shared.errors import ItemError
from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_shared.settings import WorkerSettings
from arno_shared.storage import ObjectStore
from arno_workers.engine import Answered, Ask, Engine
from arno_workers.engine.start import start_engine
from device_run.machine import Machine
from device_run.models import checkpoint, scenes, size_of
from device_run.timing import host_ms

BROKEN = 71


def start(machine: Machine, stages: list[tuple[str, int, float]] | None = None, **settings: Any) -> Engine:
    """`stages` gets name, batch and seconds of each stage of its work."""
    logs.configure("info")
    worker = WorkerSettings(torch_threads=0 if machine.on_cuda else 1, **settings)
    seen = [] if stages is None else stages
    return start_engine(
        worker, machine.device, ObjectStore(), _give_up, lambda name, size, seconds: seen.append((name, size, seconds))
    )


def ask(engine: Engine, task: str, beams: int, max_new_tokens: int) -> Ask:
    options = GenerationOptions(num_beams=beams, max_new_tokens=max_new_tokens)
    return engine.ask(Prompt(task=task), 256, 256, options)


class Asked:
    """An engine with a checkpoint of random weights, and pictures that are prepared already."""

    def __init__(self, machine: Machine, size: str, **settings: Any) -> None:
        self._machine, self._size, self._settings = machine, size, settings
        self._stages: list[tuple[str, int, float]] = []

    @cached_property
    def engine(self) -> Engine:
        folder, dtype = checkpoint(self._machine, self._size), str(self._machine.dtype).removeprefix("torch.")
        return start(self._machine, self._stages, model=str(folder), dtype=dtype, **self._settings)

    @cached_property
    def pictures(self) -> list[Any]:
        side_px = size_of(self._machine, self._size).picture_px
        return [self.engine.prepare(image) for image in scenes(self._machine.pick(256, 2), side_px)]

    def answer(self, task: str, beams: int, tokens: int, count: int) -> int:
        """Tokens of `count` answers."""
        arrived: SimpleQueue[Answered | ItemError] = SimpleQueue()
        asks = [ask(self.engine, task, beams, tokens)]
        for number in range(count):
            self.engine.submit(self.pictures[number % len(self.pictures)], asks, Lane.BULK, arrived.put)
        said = 0
        for _ in range(count):
            outcome = arrived.get()
            if isinstance(outcome, ItemError):
                raise outcome
            said += len(outcome.answers[0].ids)
        return said

    def warm_up(self, task: str, beams: int, tokens: int) -> list[float]:
        """Seconds of two rounds."""
        few, warm_s = len(self.pictures), []
        for _ in range(self._machine.pick(2, 1)):
            warm_s.append(host_ms(self._machine, lambda: self.answer(task, beams, tokens, few)) / 1000)
            print(f"{few} images in {warm_s[-1]:.2f} s, to warm up", file=sys.stderr, flush=True)
        return warm_s

    def one_round(self, task: str, beams: int, tokens: int, count: int) -> dict[str, Any]:
        self._stages.clear()
        busy_s, cpu_s, began_s = self.engine.busy_s, process_time(), perf_counter()
        said = self.answer(task, beams, tokens, count)
        seconds = perf_counter() - began_s
        busy, cpu_ms = (self.engine.busy_s - busy_s) / seconds, (process_time() - cpu_s) * 1000 / count
        found = {"images_per_s": count / seconds, "tokens_per_image": said / count, "busy": busy}
        return {**found, "host_cpu_ms_an_image": cpu_ms, "stages": by_stage(list(self._stages), count, seconds)}

    def close(self) -> None:
        """The device has its memory back."""
        self.engine.close()
        del self.engine
        self.__dict__.pop("pictures", None)
        gc.collect()
        if self._machine.on_cuda:
            torch.cuda.empty_cache()


def by_stage(seen: Sequence[tuple[str, int, float]], images: int, wall_s: float) -> list[dict[str, Any]]:
    """By the device's events: where the host is late, waiting for it counts."""
    table = []
    for name in sorted({stage for stage, _, _ in seen}):
        sizes, seconds = zip(*((size, taken) for stage, size, taken in seen if stage == name), strict=True)
        row: dict[str, Any] = {"stage": name, "calls": len(sizes), "mean_batch": sum(sizes) / len(sizes)}
        row |= {"median_ms": median(seconds) * 1000, "ms_an_image": sum(seconds) * 1000 / images}
        table.append({**row, "share_of_wall": sum(seconds) / wall_s})
    return table


def _give_up() -> None:
    """From the device's thread, while others wait for answers that never come."""
    print("the engine's replica is broken: nothing more will be answered", file=sys.stderr, flush=True)
    os._exit(BROKEN)
