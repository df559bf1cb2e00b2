"""How long things take: by the device's clock where it has one, else by the host's."""

from collections import Counter
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from device_run.machine import Machine

_TOP_KERNELS = 20


def ms_of(machine: Machine, run: Callable[[], Any], rounds: int = 10, warm: int = 3) -> float:
    """Median milliseconds of a call: on CUDA by the device's clock, which waits for the host where that is slower."""
    for _ in range(warm):
        run()
    if not machine.on_cuda:
        return median(host_ms(machine, run) for _ in range(3))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    machine.wait()
    for began, ended in events:
        began.record()
        run()
        ended.record()
    machine.wait()
    return median(began.elapsed_time(ended) for began, ended in events)


def host_ms(machine: Machine, run: Callable[[], Any]) -> float:
    """Milliseconds of one call until the device has done it, by the host's clock."""
    machine.wait()
    began_s = perf_counter()
    run()
    machine.wait()
    return (perf_counter() - began_s) * 1000


def captured(machine: Machine, run: Callable[[], Any], calls: int = 1) -> Callable[[], Any]:
    """Replays `calls` calls as one CUDA graph; on a CPU it calls them."""
    if not machine.on_cuda:
        return lambda: [run() for _ in range(calls)]
    for _ in range(3):
        run()
    machine.wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(calls):
            run()
    return graph.replay


def us_of(machine: Machine, run: Callable[[], Any]) -> float:
    """Median microseconds of a call without its launch: several of them in one graph."""
    calls = machine.pick(10, 1)
    return ms_of(machine, captured(machine, run, calls), rounds=5, warm=2) / calls * 1000


def or_why_not(measure: Callable[[], Any]) -> Any:
    """What it finds, or why it does not: for one cell of a table. A lost device is the whole piece's failure."""
    try:
        return measure()
    except Exception as error:
        if "CUDA error" in str(error) and "captur" not in str(error):
            raise
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:80]


def kernels_of(machine: Machine, run: Callable[[], Any]) -> dict[str, Any]:
    """Of one call, the kernels that take longest by name, in all their calls (on a CPU: torch's operations)."""
    run()
    activity = ProfilerActivity.CUDA if machine.on_cuda else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as seen:
        wall_ms = host_ms(machine, run)
    ms, calls = Counter[str](), Counter[str]()
    for event in seen.events() or ():
        if not machine.on_cuda or event.device_type != DeviceType.CPU:
            us = event.time_range.elapsed_us() if machine.on_cuda else event.self_cpu_time_total
            ms[event.name] += us / 1000
            calls[event.name] += 1
    all_ms = max(sum(ms.values()), 1e-9)
    top = [
        {"ms": each_ms, "share": each_ms / all_ms, "calls": calls[name], "kernel": name[:110]}
        for name, each_ms in ms.most_common(_TOP_KERNELS)
    ]
    return {"wall_ms": wall_ms, "kernels_ms": all_ms, "busy": all_ms / wall_ms, "kernels": calls.total(), "top": top}


def difference(found: Any, expected: Any) -> float:
    """Of two tensors, in parts of the expected one's length."""
    found, expected = found.float().cpu(), expected.float().cpu()
    return float((found - expected).norm() / expected.norm())
