"""What is measured with: checkpoints with random weights of Florence-2's sizes, and pictures."""

from pathlib import Path
from typing import Any

import checkpoints
import torch
import transformers
from PIL import Image

from arno_shared.scenes import draw, make_scene
from device_run.machine import Machine

PROMPT_TOKENS = 13
"""A caption's."""


def size_of(machine: Machine, size: str) -> checkpoints.Size:
    return checkpoints.SIZES[machine.pick(size, "tiny")]


def checkpoint(machine: Machine, size: str) -> Path:
    """The folder of a checkpoint of that size, or of the smallest; made once for all parts."""
    size = machine.pick(size, "tiny")
    # Drawn on the device: on the host large takes half a minute.
    with torch.device(machine.device):
        return checkpoints.cached(size, machine.work / f"florence-2-{size}-random")


def load(machine: Machine, size: str) -> Any:
    """transformers' model of that size, on the device, in the engine's precision."""
    transformers.utils.logging.disable_progress_bar()
    folder = checkpoint(machine, size)
    model: Any = transformers.Florence2ForConditionalGeneration.from_pretrained(folder, dtype=machine.dtype)
    return model.to(machine.device).eval().requires_grad_(False)


def scenes(count: int, px: int) -> list[Image.Image]:
    return [draw(make_scene(50_000 + seed), 256).resize((px, px)) for seed in range(count)]
