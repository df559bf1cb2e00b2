"""How many pictures and slots fit into a device's free memory, and how a CPU's is kept warm."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import torch

_SLOTS_SHARE, _VISION_SHARE = 0.6, 0.2
"""Of the memory that is free once the model is loaded; the rest is for the encoder, and for slots of other searches."""

_MOST_SLOTS = {"cpu": 64, "cuda": 512}
_MOST_PICTURES = {"cpu": 16, "cuda": 64}
"""More makes nothing faster: a step costs as much for each slot from there on."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""Options of glibc's `mallopt`."""

_CONTROL_GROUP = "/sys/fs/cgroup"

_LIVE_TENSORS = 12
"""Tensors as large as the widest of the tower that live at a time, roughly: a feed-forward layer has eight."""


def fitting_slots(device: str, slot_bytes: int) -> int:
    return _fitting(free_bytes(device) * _SLOTS_SHARE, slot_bytes, _MOST_SLOTS[torch.device(device).type])


def fitting_pictures(device: str, widest_bytes: int) -> int:
    """`widest_bytes`: of the widest tensor in the vision tower, for one picture."""
    room_bytes = free_bytes(device) * _VISION_SHARE
    return _fitting(room_bytes, widest_bytes * _LIVE_TENSORS, _MOST_PICTURES[torch.device(device).type])


def free_bytes(device: str) -> int:
    """What is free on a GPU, or for this process on this machine: the container's limit counts."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return min(_available_bytes(), _left_in_container_bytes())


def used_and_total_bytes(device: str) -> tuple[int, int]:
    """Of a GPU, whoever uses it; or this process's own of the machine's."""
    if torch.device(device).type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free, total
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return resident_pages * page_bytes, os.sysconf("SC_PHYS_PAGES") * page_bytes


def keep_freed_memory() -> None:
    """Lets this process hold on to memory that it has freed, up to a quarter of a gigabyte, where glibc can be told so.

    A step makes and frees the same megabytes every few milliseconds. Given back and taken anew each time, they come as
    pages that must be mapped and cleared first: a tenth of the time with a small model.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, size_bytes in (
            (_M_MMAP_THRESHOLD, 32 * 2**20),
            (_M_TRIM_THRESHOLD, 256 * 2**20),
            (_M_TOP_PAD, 64 * 2**20),
        ):
            mallopt(option, size_bytes)


def _fitting(room_bytes: float, each_bytes: int, most: int) -> int:
    return max(1, min(most, int(room_bytes // each_bytes)))


def _available_bytes() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    # Not Linux: half of all there is, as a guess.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _left_in_container_bytes() -> int:
    """By control groups, version 2 and 1; without a limit, more than any machine has."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        limits, uses = _lines(f"{_CONTROL_GROUP}/{limit}"), _lines(f"{_CONTROL_GROUP}/{used}")
        if limits and uses and limits[0].isdigit():
            stat = f"{_CONTROL_GROUP}/{Path(used).with_name('memory.stat')}"
            # Files that were read, such as the model's, count as used and are given up when memory is asked for.
            reclaimable = dict(line.split() for line in _lines(stat)).get(cached, "0")
            return max(0, int(limits[0]) - int(uses[0]) + int(reclaimable))
    return 2**63


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
