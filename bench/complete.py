"""The complete comparison on a GPU: both sizes, every row, the vision tower alone; one call, one file.

    python bench/complete.py FILE [--sizes base large] [--peak-tflops 790 --peak-gb-per-s 4300]

For each size: the vision tower with the projector, transformers' and Arno's, in milliseconds a picture; engine.py in
bfloat16, with its agreement with float32; and engine.py in float32 on fewer pictures, where every token must be the
same. Further options go to engine.py in bfloat16. FILE is written after each step, so that what was measured stays when
the rest cannot be.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from checkpoints import PICTURE_PX, SIZES, cached
from rich.console import Console
from rich.table import Table
from transformers import Florence2ForConditionalGeneration

from arno_workers.engine.vision import VisionTower

BATCHES = (16, 64)
HERE = Path(__file__).parent


@torch.inference_mode()
def measure_vision(folder: Path, device: str, dtype: torch.dtype, batches: tuple[int, ...], px: int) -> dict[str, Any]:
    """ms a picture by batch, and how far Arno's features are from transformers', in parts of their length."""
    found: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "batches": {}}
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(max(batches), px, px, 3, generator=generator).to(device, dtype).permute(0, 3, 1, 2)
    model: Any = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    model = model.to(device).eval()

    def theirs(images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = model.get_image_features(images).pooler_output
        return features

    for batch in batches:
        # Laid out as transformers' processor makes them.
        images = pixels[:batch].contiguous()
        found["batches"][batch] = {"transformers": ms_a_picture(theirs, images)}
    expected = theirs(images[:4]).float()
    # It lays the model's weights out anew, so that it comes last.
    tower = VisionTower(model)
    for batch in batches:
        found["batches"][batch]["arno"] = ms_a_picture(tower, pixels[:batch])
    found["difference"] = float((tower(pixels[:4]).float() - expected).norm() / expected.norm())
    return found


def ms_a_picture(run: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor, rounds: int = 7) -> float:
    """The median of the rounds; two more come before, to warm up."""
    times = []
    for _ in range(rounds + 2):
        began_s = perf_counter()
        # One number is fetched, so that the device has done it all.
        run(pixels)[0, 0, 0].item()
        times.append(perf_counter() - began_s)
    return median(times[2:]) * 1000 / len(pixels)


def run_engine(size: str, arguments: list[str]) -> dict[str, Any]:
    """What engine.py reports, in a process of its own; what it says goes to the terminal."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        command = [sys.executable, HERE / "engine.py", "--model", size, "--device", "cuda", "--json", file, *arguments]
        code = subprocess.run(command).returncode
        report: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return {**report, "exit": code}


def show_vision(size: str, vision: dict[str, Any]) -> None:
    table = Table(f"{size}, vision tower", "transformers, ms a picture", "Arno", "ratio")
    for batch, ms in vision["batches"].items():
        ratio = ms["transformers"] / ms["arno"]
        table.add_row(f"batches of {batch}", f"{ms['transformers']:.3f}", f"{ms['arno']:.3f}", f"{ratio:.2f}×")
    Console().print(table, f"Features differ by {vision['difference']:.1e}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIZES), default=list(SIZES))
    options, arguments = parser.parse_known_args()
    if not torch.cuda.is_available():
        sys.exit("bench/complete.py needs CUDA, and torch sees none; bench/engine.py runs on a CPU too")
    steps: dict[str, Callable[[str], dict[str, Any]]] = {
        "vision": lambda size: measure_vision(cached(size), "cuda", torch.bfloat16, BATCHES, PICTURE_PX),
        "bfloat16": lambda size: run_engine(size, ["--dtype", "bfloat16", "--agreement", *arguments]),
        "float32": lambda size: run_engine(
            size, ["--dtype", "float32", "--images", "64", "--batch", "16", "--rows", "B", "D", "--workloads", "mix"]
        ),
    }
    report: dict[str, dict[str, Any]] = {"device": {"name": torch.cuda.get_device_name()}}
    failed = []
    for size in options.sizes:
        report[size] = {}
        for name, step in steps.items():
            report[size][name] = step(size)
            options.file.write_text(json.dumps(report, indent=2) + "\n")
            gc.collect()
            torch.cuda.empty_cache()
            if report[size][name].get("exit"):
                failed.append(f"{size} {name}")
        show_vision(size, report[size]["vision"])
    if failed:
        sys.exit(f"FAILED: {', '.join(failed)}")


if __name__ == "__main__":
    main()
