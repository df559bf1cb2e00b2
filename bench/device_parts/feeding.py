"""From a JPEG of 2 MP to pixels, images a second of all cores; what that does to the thread that owns the device."""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from statistics import median
from threading import Event
from time import perf_counter, sleep
from typing import Any

import decode
import torch
from device_run.machine import Machine, Pieces

_WAYS = {"exact": decode.EXACT, "fast": decode.FAST}
_together: Any = None
"""The barrier at which the processes wait for each other."""


def pieces(machine: Machine) -> Pieces:
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    most = machine.pick(max(1, len(os.sched_getaffinity(0)) - 1), 1)
    seconds = machine.pick(1.0, 0.2)
    jpegs = cache(lambda: [decode.make_jpeg(*machine.pick((1632, 1224), (400, 300)), seed) for seed in range(4)])

    def threads() -> list[dict[str, Any]]:
        table: list[dict[str, Any]] = []
        for count in machine.pick(sorted({1, 4, 8, most}), [1]):
            row = {way: images_per_s(count, seconds, jpegs(), way) for way in _WAYS}
            table.append({"threads": count, **row})
        torch.set_num_threads(torch_threads)
        several = f"{most}, of torch {torch_threads} in each"
        table.append({"threads": several, "fast": images_per_s(most, seconds, jpegs(), "fast")})
        torch.set_num_threads(1)
        return table

    def late() -> list[dict[str, Any]]:
        """1,000 tiny operations of one thread, alone and beside threads that decode."""
        tiny_ops(machine)
        alone = {"beside": "nothing", **tiny_ops(machine)}
        switches = ((way, switch_s) for way in _WAYS for switch_s in (0.005, 0.0005))
        return [alone, *(beside(machine, most, jpegs(), way, switch_s) for way, switch_s in switches)]

    return {"threads": threads, "late": late, "processes": lambda: processes(machine, most, 2 * seconds, jpegs())}


def images_per_s(threads: int, seconds: float, jpegs: Sequence[bytes], way: str) -> float:
    began_s = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        done = [pool.submit(decode_until, began_s + seconds, Event(), jpegs, way) for _ in range(threads)]
        return sum(each.result() for each in done) / (perf_counter() - began_s)


def beside(machine: Machine, threads: int, jpegs: Sequence[bytes], way: str, switch_s: float) -> dict[str, Any]:
    stop, before_s = Event(), sys.getswitchinterval()
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(decode_until, float("inf"), stop, jpegs, way)
        try:
            sys.setswitchinterval(switch_s)
            sleep(machine.pick(0.25, 0.05))
            return {"beside": f"{threads} threads, {way}", "switch_ms": switch_s * 1000, **tiny_ops(machine)}
        finally:
            stop.set()
            sys.setswitchinterval(before_s)


def processes(machine: Machine, count: int, seconds: float, jpegs: Sequence[bytes]) -> list[dict[str, Any]]:
    machine.needs_s(10)
    context, table = get_context("spawn"), []
    barrier = context.Barrier(count + 1)
    with ProcessPoolExecutor(count, context, _join, (barrier,)) as pool:
        for way in _WAYS:
            done = [pool.submit(_decode_apart, seconds, jpegs, way) for _ in range(count)]
            barrier.wait(timeout=60)
            row = {"beside": f"{count} processes, {way}", **tiny_ops(machine)}
            table.append({**row, "images_per_s": sum(each.result() for each in done) / seconds})
    return table


def tiny_ops(machine: Machine) -> dict[str, float]:
    """ms of a thousand tiny operations until the device has done them, the median of five; and of the slowest call."""
    x, slowest_ms = torch.zeros(64, device=machine.device), 0.0
    all_ms: list[float] = []
    while len(all_ms) < 5 and sum(all_ms) < 2000:
        times = [perf_counter()]
        for _ in range(machine.pick(1000, 100)):
            x.add_(1)
            times.append(perf_counter())
        machine.wait()
        all_ms.append((perf_counter() - times[0]) * 1000)
        slowest_ms = max(slowest_ms, *((after - before) * 1000 for before, after in pairwise(times)))
    return {"median_ms": median(all_ms), "slowest_call_ms": slowest_ms}


def decode_until(ends_s: float, stop: Event, jpegs: Sequence[bytes], way: str) -> int:
    """How many were decoded and resized."""
    done = 0
    while perf_counter() < ends_s and not stop.is_set():
        decode.resized(jpegs[done % len(jpegs)], _WAYS[way])
        done += 1
    return done


def _join(barrier: Any) -> None:
    global _together
    _together = barrier


def _decode_apart(seconds: float, jpegs: Sequence[bytes], way: str) -> int:
    """In a process of its own, at the same time as the others."""
    decode_until(perf_counter() + 0.01, Event(), jpegs, way)
    _together.wait(timeout=60)
    return decode_until(perf_counter() + seconds, Event(), jpegs, way)
