"""transformers' `generate` with base and 3 beams, as well as it can be made to run: batches that are on the device
already, a static cache that is compiled; and as it is used, with its processor and one picture at a time."""

from functools import cache, partial
from typing import Any

from baselines import Batches, OneByOne, Row, StaticBatches, Transformers, Workload
from device_run.machine import Machine, Pieces
from device_run.models import checkpoint, scenes
from device_run.timing import host_ms

_TOKENS = {"CAPTION": 12, "OCR_WITH_REGION": 150}
_BEAMS = 3


def pieces(machine: Machine) -> Pieces:
    batch, rounds = machine.pick((64, 3), (2, 1))
    limits = {f"<{task}>": machine.pick(tokens, 4) for task, tokens in _TOKENS.items()}
    pictures = cache(lambda: [image.resize((1280, 960)) for image in scenes(4 * batch, 256)])
    mode = "reduce-overhead" if machine.on_cuda else None

    @cache
    def model(compiled: bool = False) -> Transformers:
        folder = checkpoint(machine, "base")
        return Transformers(folder, machine.device, machine.dtype, _BEAMS, limits, mode if compiled else None)

    def on_device(row: Batches, task: str, rounds: int) -> dict[str, Any]:
        """Of batches whose pictures are processed and uploaded already."""
        inputs = model().to_device([model().process(picture, f"<{task}>") for picture in pictures()[:batch]])
        ms = [host_ms(machine, lambda: row.generate(f"<{task}>", inputs)) for _ in range(rounds + 1)]
        return {"task": task, "beams": _BEAMS, "images_per_s": batch * 1000 / min(ms), "batch_ms": ms}

    def dynamic(task: str, rounds: int) -> dict[str, Any]:
        return on_device(Batches(model(), batch), task, rounds)

    def static(task: str, needs_s: float, rounds: int) -> dict[str, Any]:
        machine.needs_s(needs_s)
        return on_device(StaticBatches(model(compiled=True), batch), task, rounds)

    def answered(row: Row, count: int) -> dict[str, Any]:
        """From pictures in memory, the processor's work included."""
        captions = Workload("caption", ("<CAPTION>",))
        ms = [host_ms(machine, lambda: row.answer(pictures()[:count], captions)) for _ in range(rounds)]
        return {"task": "CAPTION", "beams": _BEAMS, "images_per_s": count * 1000 / min(ms), "all_ms": ms}

    return {
        "caption": partial(dynamic, "CAPTION", rounds),
        "caption, static cache compiled": partial(static, "CAPTION", 20, rounds + 1),
        "ocr_with_region": partial(dynamic, "OCR_WITH_REGION", machine.pick(1, 1)),
        "caption, with processor": lambda: answered(Batches(model(), batch), len(pictures())),
        "caption, one at a time": lambda: answered(OneByOne(model()), machine.pick(4, 1)),
        "ocr_with_region, static cache compiled": partial(static, "OCR_WITH_REGION", 30, machine.pick(2, 1)),
    }
