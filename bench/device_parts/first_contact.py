"""Whether answers are right: arno-tiny in float32, each stage by itself, then whole answers against the CPU's and
against transformers'; in bfloat16; longer prompts and answers than usual; and after a capture that fails."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from queue import SimpleQueue
from typing import Any

import torch
from baselines import Transformers
from device_run import door
from device_run.insides import Replica, arrive_unchanged, captures_fail, little_room
from device_run.machine import Machine, Pieces
from device_run.models import scenes
from device_run.timing import difference
from PIL import Image

from arno_shared.errors import ItemError
from arno_shared.names import Lane
from arno_workers.engine import Answered
from arno_workers.engine.checkpoint.locate import BUNDLED

_MODEL = BUNDLED / "arno-tiny"
_TASKS = ("<CAPTION>", "<OD>", "<OCR>")
_LONG_PROMPTS = (300, 700, 1000)
_FEW = 6

Ids = tuple[int, ...]


def pieces(machine: Machine) -> Pieces:
    torch.set_num_threads(1)
    contact = _Contact(machine)
    return {
        "cpu": lambda: {"answers": len(contact.expected(1) + contact.expected(3))},
        "staging": lambda: {"ok": arrive_unchanged(contact.images, contact.there(), machine.device)},
        "load": lambda: {"dtype": contact.there().dtype},
        "vision_stage": contact.vision_stage,
        "encoder_stage": contact.encoder_stage,
        "called": partial(contact.as_on_cpu, 3),
        "capture": lambda: {"execution": contact.there().capture(), "slots": contact.there().slots(3)},
        "as_on_cpu_beams_3": partial(contact.as_on_cpu, 3),
        "as_on_cpu_beams_1": partial(contact.as_on_cpu, 1),
        "as_transformers_beams_3": partial(contact.as_transformers, 3),
        "as_transformers_beams_1": partial(contact.as_transformers, 1),
        "bfloat16_warm_up": lambda: contact.replica(machine.device, "bfloat16").warm_up(),
        "bfloat16_answers": contact.in_bfloat16,
        "triton_beams_3": partial(contact.with_kernels, "float32", 3),
        "triton_beams_1": partial(contact.with_kernels, "float32", 1),
        "triton_bfloat16": contact.in_bfloat16_with_kernels,
        "long_answer": contact.long_answer,
        "long_prompt": contact.long_prompt,
        "door": contact.through_the_door,
        "failed_capture": contact.failed_capture,
    }


class _Contact:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.images: Sequence[Image.Image] = scenes(machine.pick(40, 2), 128)
        self.replica = cache(self._make)
        self.expected = cache(self._expected)

    def there(self) -> Replica:
        return self.replica(self._machine.device)

    def answers(self, replica: Replica, beams: int, words: Sequence[int] = ()) -> list[Ids]:
        return replica.answers(self.images, _TASKS, beams, words)

    def vision_stage(self) -> dict[str, Any]:
        here, there, images = self.replica("cpu"), self.there(), self.images[:_FEW]
        return _apart(there.see(there.pixels(images)), here.see(here.pixels(images)))

    def encoder_stage(self) -> dict[str, Any]:
        here, there = self.replica("cpu"), self.there()
        seen = here.see(here.pixels(self.images[:_FEW]))
        sentence = "what is it?"
        return _apart(there.encode(seen.to(self._machine.device), sentence), here.encode(seen, sentence))

    def as_on_cpu(self, beams: int) -> dict[str, Any]:
        return _same(self.answers(self.there(), beams), self.expected(beams))

    def as_transformers(self, beams: int) -> dict[str, Any]:
        limits = dict.fromkeys(_TASKS, 64)
        theirs, by_task = Transformers(_MODEL, self._machine.device, torch.float32, beams, limits), []
        for task in _TASKS:
            inputs = theirs.to_device([theirs.process(image, task) for image in self.images])
            # Where torchvision is installed, its own processor rounds in another way: that is not asked here.
            inputs["pixel_values"] = self.there().pixels(self.images).contiguous()
            by_task.append(theirs.generate(task, **inputs))
        expected = [ids for picture in zip(*by_task, strict=True) for ids in picture]
        return _same(self.answers(self.there(), beams), expected)

    def in_bfloat16(self) -> dict[str, Any]:
        """Some differ, as they may."""
        found = self.answers(self.replica(self._machine.device, "bfloat16"), 3)
        return {**_same(found, self.expected(3)), "ok": True}

    def with_kernels(self, dtype: str, beams: int) -> dict[str, Any]:
        """Of our own, called and recorded as graphs."""
        replica = self._make(self._machine.device, dtype, kernels="triton")
        called, execution = self.answers(replica, beams), replica.capture()
        return {
            "execution": execution,
            **_same(called + self.answers(replica, beams), self.expected(beams) * 2),
        }

    def in_bfloat16_with_kernels(self) -> dict[str, Any]:
        return {**self.with_kernels("bfloat16", 3), "ok": True}

    def long_answer(self) -> dict[str, Any]:
        with little_room():
            replica = self._make(self._machine.device)
            replica.capture()
            return _same(self.answers(replica, 3) + self.answers(replica, 3), self.expected(3) * 2)

    def long_prompt(self) -> dict[str, Any]:
        return _same(self.answers(self.there(), 3, _LONG_PROMPTS), self.expected(3, _LONG_PROMPTS))

    def through_the_door(self) -> dict[str, Any]:
        """As the worker does it: the device's own thread, fed by four others."""
        engine = door.start(self._machine, dtype="float32")

        def submit(image: Image.Image) -> SimpleQueue[Answered | ItemError]:
            arrived: SimpleQueue[Answered | ItemError] = SimpleQueue()
            asks = [door.ask(engine, task, 3, 64) for task in _TASKS]
            engine.submit(engine.prepare(image), asks, Lane.BULK, arrived.put)
            return arrived

        with ThreadPoolExecutor(4) as pool:
            outcomes = [arrived.get(timeout=20) for arrived in pool.map(submit, self.images)]
        engine.close()
        if failed := [outcome for outcome in outcomes if isinstance(outcome, ItemError)]:
            return {"ok": False, "failed": len(failed), "first": repr(failed[0])}
        answered = [outcome for outcome in outcomes if isinstance(outcome, Answered)]
        return _same([answer.ids for each in answered for answer in each.answers], self.expected(3))

    def failed_capture(self) -> dict[str, Any]:
        """The plain step must answer, and the device must be none the worse for it."""
        self._machine.needs_cuda()
        with captures_fail():
            replica = self._make(self._machine.device)
            execution = replica.capture()
        replica.warm_up()
        return {"execution": execution, **_same(self.answers(replica, 3), self.expected(3))}

    def _make(self, device: str, dtype: str = "float32", **settings: Any) -> Replica:
        return Replica(_MODEL, device, dtype, **settings)

    def _expected(self, beams: int, words: Sequence[int] = ()) -> list[Ids]:
        return self.answers(self.replica("cpu"), beams, words)


def _same(found: Sequence[Ids], expected: Sequence[Ids]) -> dict[str, Any]:
    pairs = list(zip(found, expected, strict=True))
    wrong = [{"answer": n, "found": [*a], "expected": [*b]} for n, (a, b) in enumerate(pairs) if a != b]
    return {"ok": not wrong, "equal": f"{len(pairs) - len(wrong)} of {len(pairs)}", "wrong": wrong[:2]}


def _apart(found: torch.Tensor, expected: torch.Tensor) -> dict[str, Any]:
    apart = difference(found, expected)
    return {"ok": apart < 1e-3, "difference": apart}
