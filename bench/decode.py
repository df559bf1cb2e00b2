"""What it costs to feed a picture: from the bytes of a JPEG to the pixels that Florence-2 takes, 768 × 768.

    python bench/decode.py [--pictures 3] [--rounds 7]

Three ways, in one run, in turns, on one core: transformers' image processor on Pillow, and Arno with
ARNO_WORKER__PIXELS=exact and =fast. All end with normalised float32 in torch.
The time is the CPU's, the median of the rounds. JPEGs are drawn: gradients, texture, noise; quality 90, 4:2:0.

`difference` is that of the resized picture from the exact one, in steps of 0–255: the mean and the largest.
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from statistics import mean, median
from time import process_time

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import CLIPImageProcessorPil

from arno_workers.decode.picture import decode
from arno_workers.engine.pixels import PixelRecipe

SIZES = {"12 MP": (4000, 3000), "2 MP": (1632, 1224), "0.3 MP": (640, 480)}
PROCESSOR = CLIPImageProcessorPil(
    size={"height": 768, "width": 768},
    resample=Image.Resampling.BICUBIC,
    do_center_crop=False,
    image_mean=[0.485, 0.456, 0.406],
    image_std=[0.229, 0.224, 0.225],
)
"""As Florence-2's checkpoints have it."""
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Way:
    name: str
    scaled_to: tuple[int, int] | None
    recipe: PixelRecipe


EXACT = Way("Arno, exact", None, PixelRecipe(PROCESSOR, "cpu", torch.float32))
FAST = Way("Arno, fast", (768, 768), PixelRecipe(PROCESSOR, "cpu", torch.float32, fast=True))


def make_jpeg(width: int, height: int, seed: int) -> bytes:
    """Of about two bits a pixel."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = np.empty((height, width, 3), np.float32)
    for channel in range(3):
        across, down = x / width * random.uniform(2, 6), y / height * random.uniform(2, 6)
        picture[..., channel] = 125 + 60 * np.sin(across + channel) + 50 * np.cos(down + 2 * channel)
    for grain, strength in ((64, 40), (8, 30), (2, 14)):
        texture = random.integers(0, 256, (height // grain + 1, width // grain + 1, 3), np.uint8)
        smooth = Image.fromarray(texture).resize((width, height), Image.Resampling.BICUBIC)
        picture += (np.asarray(smooth, np.float32) / 255 - 0.5) * strength
    picture += random.normal(0, 3, (height, width, 1))
    file = BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90, subsampling="4:2:0")
    return file.getvalue()


def processed(data: bytes) -> torch.Tensor:
    pixels: torch.Tensor = PROCESSOR(Image.open(BytesIO(data)), return_tensors="pt")["pixel_values"]
    return pixels


def resized(data: bytes, way: Way) -> NDArray[np.uint8]:
    return way.recipe.resize(decode(data, MAX_PIXELS, way.scaled_to).image)


def fed(data: bytes, way: Way) -> torch.Tensor:
    return way.recipe.normalise(torch.from_numpy(resized(data, way))[None])


def cpu_ms(work: Callable[[], object]) -> float:
    began_s = process_time()
    work()
    return (process_time() - began_s) * 1000


def measure(pictures: list[bytes], ways: list[Way], rounds: int) -> list[float]:
    """ms a picture: transformers' first, then each way's."""
    for data in pictures:
        assert torch.equal(fed(data, EXACT), processed(data)), "exact is not exact"
    found: list[list[float]] = []
    for _ in range(rounds + 1):
        times = [mean(cpu_ms(partial(processed, data)) for data in pictures)]
        times += [mean(cpu_ms(partial(fed, data, way)) for data in pictures) for way in ways]
        found.append(times)
    # The first round warms up.
    return [median(times) for times in zip(*found[1:], strict=True)]


def difference(pictures: list[bytes], way: Way) -> str:
    found = [np.abs(resized(data, way).astype(np.int16) - resized(data, EXACT)) for data in pictures]
    return f"{mean(float(one.mean()) for one in found):.2f}, {max(int(one.max()) for one in found)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways = [EXACT, FAST]
    table = Table("JPEG", "", "ms of a core", "ratio", "difference")
    for name, size in SIZES.items():
        pictures = [make_jpeg(*size, seed) for seed in range(options.pictures)]
        theirs, *ours = measure(pictures, ways, options.rounds)
        kilobytes = mean(map(len, pictures)) / 1000
        table.add_row(f"{name}, {kilobytes:,.0f} kB", "transformers on Pillow", f"{theirs:.1f}", "1.0×", "")
        for way, ms in zip(ways, ours, strict=True):
            table.add_row("", way.name, f"{ms:.1f}", f"{theirs / ms:.1f}×", difference(pictures, way))
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
