"""What machine this is: card, versions, cores, and the two peaks that every limit is computed from."""

import os
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from device_run.machine import Machine, Pieces
from device_run.timing import ms_of, or_why_not
from torch.nn.attention import SDPBackend

_PACKAGES = ("torch", "triton", "transformers", "tokenizers", "huggingface-hub", "numpy", "pillow", "torchvision")


def pieces(machine: Machine) -> Pieces:
    return {
        "nvidia_smi": partial(nvidia_smi, machine),
        "versions": versions,
        "memory": partial(memory, machine),
        "cores": cores,
        "copy": partial(copy, machine),
        "matmul": partial(matmul, machine),
    }


def nvidia_smi(machine: Machine) -> str:
    machine.needs_cuda()
    query = "name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,temperature.gpu,power.draw"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()


def versions() -> dict[str, Any]:
    found = {name: or_why_not(partial(version, name)) for name in _PACKAGES}
    order = [SDPBackend(number).name for number in torch._C._get_sdp_priority_order()]
    own = {"python": sys.version.split()[0], "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {**own, **found, "attention_by_priority": order}


def memory(machine: Machine) -> dict[str, Any]:
    machine.needs_cuda()
    free, total = torch.cuda.mem_get_info()
    return {"name": torch.cuda.get_device_name(), "free_gib": free / 2**30, "total_gib": total / 2**30}


def cores() -> dict[str, Any]:
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    ram_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cores": os.cpu_count(), "usable": len(os.sched_getaffinity(0)), "ram_gib": ram_gib, "cpu": cpu}


def copy(machine: Machine) -> dict[str, float]:
    """GB/s on the device, of what is read and what is written."""
    size = machine.pick(2**32, 2**24)
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=machine.device)
    target = torch.empty_like(source)
    return {"gb_per_s": 2 * size / ms_of(machine, lambda: target.copy_(source)) / 1e6}


def matmul(machine: Machine) -> dict[str, float]:
    side = machine.pick(8192, 256)
    one, other, out = (machine.random(side, side) for _ in range(3))
    return {"tflops": 2 * side**3 / ms_of(machine, lambda: torch.mm(one, other, out=out)) / 1e9}
