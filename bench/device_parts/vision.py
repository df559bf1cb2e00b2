"""The vision tower and the projector alone: against transformers', its kernels, as a CUDA graph."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from device_run.insides import tower
from device_run.machine import Machine, Pieces
from device_run.models import load, size_of
from device_run.timing import captured, difference, kernels_of, ms_of, or_why_not


def pieces(machine: Machine) -> Pieces:
    batches, px = machine.pick((1, 4, 16, 64), (1, 2)), size_of(machine, "base").picture_px
    ways = machine.pick(("triton", "untried", "plain"), ("plain",))
    ours = cache(lambda kernels: tower(load(machine, "base"), kernels))
    pixels = cache(lambda: machine.random(max(batches), px, px, 3).permute(0, 3, 1, 2))

    def profile(kernels: str) -> dict[str, Any]:
        return kernels_of(machine, lambda: ours(kernels)(pixels()))

    def graphs(kernels: str) -> dict[int, Any]:
        machine.needs_cuda()
        return {batch: or_why_not(partial(as_graph, machine, ours(kernels), pixels()[:batch])) for batch in batches}

    def cudnn_searches() -> dict[int, float]:
        """ms a picture when cuDNN tries its convolutions and keeps the fastest."""
        machine.needs_cuda()
        torch.backends.cudnn.benchmark = True
        return {batch: ms_a_picture(machine, ours("plain"), pixels()[:batch]) for batch in batches}

    return {
        "eager": lambda: both(machine, batches, px),
        **{f"graphs, {kernels}": partial(graphs, kernels) for kernels in ways},
        **{f"profile, {kernels}": partial(profile, kernels) for kernels in ways},
        "cudnn_searches": cudnn_searches,
    }


def both(machine: Machine, batches: Sequence[int], px: int) -> dict[str, Any]:
    """ms a picture of both towers, by batch, and how far Arno's features are from transformers'."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(max(batches), px, px, 3, generator=generator)
    pixels = pixels.to(machine.device, machine.dtype).permute(0, 3, 1, 2)
    model = load(machine, "base")

    def theirs(images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = model.get_image_features(images).pooler_output
        return features

    # Laid out as transformers' processor makes them.
    table = {batch: {"transformers": ms_a_picture(machine, theirs, pixels[:batch].contiguous())} for batch in batches}
    expected = theirs(pixels[:4].contiguous())
    # It lays the model's weights out anew, so that it comes last.
    ours = tower(model)
    for batch, row in table.items():
        row["arno"] = ms_a_picture(machine, ours, pixels[:batch])
    return {"batches": table, "difference": difference(ours(pixels[:4]), expected)}


def as_graph(machine: Machine, ours: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor) -> dict[str, float]:
    """ms a picture, as one graph for the batch."""
    seen: list[torch.Tensor] = []
    replay = captured(machine, lambda: seen.append(ours(pixels)))
    replay()
    return {"ms": ms_of(machine, replay) / len(pixels), "difference": difference(seen[-1], ours(pixels))}


def ms_a_picture(machine: Machine, see: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor) -> float:
    return ms_of(machine, lambda: see(pixels)) / len(pixels)
