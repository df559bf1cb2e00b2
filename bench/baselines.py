"""What Florence-2 is asked in a benchmark, and how transformers answers it: simply, and as well as it can by hand."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    EncoderDecoderCache,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    StaticCache,
)

Ids: TypeAlias = tuple[int, ...]
"""Generated tokens, without the decoder's start token; the end token is the last."""
Answers: TypeAlias = dict[tuple[int, str], Ids]
"""By the picture's number and the task."""

FEEDERS = max(1, (os.cpu_count() or 1) - 1)
"""Threads that prepare pictures: a core is left to the one that drives the device."""

_MOST_SHAPES = 64


@dataclass(frozen=True)
class Workload:
    name: str
    tasks: tuple[str, ...]
    together: bool = False
    """Each picture is asked all of `tasks`; otherwise one of them, in turn."""

    def tasks_of(self, number: int) -> tuple[str, ...]:
        return self.tasks if self.together else (self.tasks[number % len(self.tasks)],)

    @property
    def fewest_pictures(self) -> int:
        """As many as it takes for every task to be asked."""
        return 1 if self.together else len(self.tasks)


class Row(ABC):
    """One way to answer; one row of the table."""

    letter: str
    name: str

    @abstractmethod
    def answer(self, pictures: Sequence[Image.Image], workload: Workload) -> Answers:
        """From decoded pictures to token ids."""

    def can(self, workload: Workload) -> bool:
        return True

    def warm_up(self, pictures: Sequence[Image.Image], workload: Workload) -> None:
        """Answers as many as it takes for everything to be loaded, compiled and captured."""
        self.answer(pictures[: workload.fewest_pictures], workload)

    def close(self) -> None:  # noqa: B027
        """Lets the device go."""


class Transformers:
    """Model and processor, loaded once for all rows."""

    def __init__(
        self,
        folder: Path,
        device: str,
        dtype: torch.dtype,
        num_beams: int | None,
        max_new_tokens: Mapping[str, int],
        compile_mode: str | None = None,
    ) -> None:
        """`compile_mode`: of torch.compile, for decoding where the cache is a `_BeamCache`."""
        self.device, self.dtype, self.compiled = device, dtype, compile_mode is not None
        if dtype == torch.float32:
            # On CUDA, convolutions would round to 10 bits.
            torch.backends.cudnn.allow_tf32 = False
        self._processor: Any = Florence2Processor.from_pretrained(folder)
        model: Any = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        self.model = model.to(device).eval()
        # Otherwise it would warn that `max_new_tokens` takes precedence.
        self.model.generation_config.max_length = None
        self.num_beams = int(num_beams or self.model.generation_config.num_beams)
        self.max_new_tokens = max_new_tokens
        if compile_mode is not None:
            _compile_decoding(self.model, compile_mode)

    def process(self, picture: Image.Image, task: str) -> dict[str, Tensor]:
        """What `generate` takes, on the host."""
        return dict(self._processor(text=task, images=picture, return_tensors="pt").to(dtype=self.dtype))

    def to_device(self, processed: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Several as one batch: their prompts must be equally long."""
        return {name: torch.cat([each[name] for each in processed]).to(self.device) for name in processed[0]}

    def generate(self, task: str, **inputs: Any) -> list[Ids]:
        limit = self.max_new_tokens[task]
        rows = self.model.generate(**inputs, max_new_tokens=limit, num_beams=self.num_beams).tolist()
        return [_without_padding(row[1:], self.model.generation_config.pad_token_id) for row in rows]


class OneByOne(Row):
    """As transformers' documentation shows it."""

    letter, name = "A", "transformers, one at a time"

    def __init__(self, transformers: Transformers) -> None:
        self._transformers = transformers

    def answer(self, pictures: Sequence[Image.Image], workload: Workload) -> Answers:
        answers: Answers = {}
        for number, picture in enumerate(pictures):
            for task in workload.tasks_of(number):
                inputs = self._transformers.to_device([self._transformers.process(picture, task)])
                (answers[number, task],) = self._transformers.generate(task, **inputs)
        return answers


@dataclass(frozen=True)
class _Batch:
    """Pictures that are asked the same, so that no prompt is padded."""

    task: str
    numbers: list[int]


class Batches(Row):
    """Batches of one task. Threads process the pictures of the next one meanwhile, as a DataLoader would."""

    letter, name = "B", "transformers, batches"

    def __init__(self, transformers: Transformers, batch_images: int, feeders: int = FEEDERS) -> None:
        self._transformers, self._batch_images, self._feeders = transformers, batch_images, feeders

    def warm_up(self, pictures: Sequence[Image.Image], workload: Workload) -> None:
        """One batch of each shape; on a CPU, where shapes mean nothing unless compiled, as few pictures as will do."""
        if self._transformers.device == "cpu" and not self._transformers.compiled:
            pictures = pictures[: workload.fewest_pictures]
        shapes = {(batch.task, len(batch.numbers)): batch for batch in self._batches(len(pictures), workload)}
        for batch, processed in self._fed(pictures, list(shapes.values())):
            self._answer(workload, batch, self._transformers.to_device(processed))

    def answer(self, pictures: Sequence[Image.Image], workload: Workload) -> Answers:
        answers: Answers = {}
        for batch, processed in self._fed(pictures, self._batches(len(pictures), workload)):
            answers |= self._answer(workload, batch, self._transformers.to_device(processed))
        return answers

    def _batches(self, pictures: int, workload: Workload) -> list[_Batch]:
        batches = []
        for task in workload.tasks:
            numbers = [number for number in range(pictures) if task in workload.tasks_of(number)]
            batches += [_Batch(task, part) for part in _parts(numbers, self._batch_images)]
        return batches

    def _answer(self, workload: Workload, batch: _Batch, inputs: dict[str, Any]) -> Answers:
        ids = self.generate(batch.task, inputs)
        return {(number, batch.task): each for number, each in zip(batch.numbers, ids, strict=True)}

    def generate(self, task: str, inputs: dict[str, Any]) -> list[Ids]:
        """The answers to one batch that is on the device."""
        return self._transformers.generate(task, **inputs)

    def _fed(
        self, pictures: Sequence[Image.Image], batches: Sequence[_Batch]
    ) -> Iterator[tuple[_Batch, list[dict[str, Tensor]]]]:
        with ThreadPoolExecutor(self._feeders) as pool:

            def begin(batch: _Batch) -> list[Future[dict[str, Tensor]]]:
                return [pool.submit(self._transformers.process, pictures[n], batch.task) for n in batch.numbers]

            coming = begin(batches[0])
            for place, batch in enumerate(batches):
                processed = [each.result() for each in coming]
                coming = begin(batches[place + 1]) if place + 1 < len(batches) else []
                yield batch, processed


class StaticBatches(Batches):
    """As Batches, with caches of fixed size that stay where they are, so that decoding can be compiled.

    transformers' own beam search compiles nothing, and gives the whole cache a new place in each step, so that no CUDA
    graph could be replayed. `_BeamCache` and `_compile_decoding` spare it both.
    """

    letter, name = "C", "transformers, static cache"

    def __init__(self, transformers: Transformers, batch_images: int, feeders: int = FEEDERS) -> None:
        super().__init__(transformers, batch_images, feeders)
        self._caches: dict[tuple[int, int, int], _BeamCache] = {}
        if transformers.compiled:
            self.name = f"{self.name}, compiled"

    def warm_up(self, pictures: Sequence[Image.Image], workload: Workload) -> None:
        self._caches.clear()
        super().warm_up(pictures, workload)

    def generate(self, task: str, inputs: dict[str, Any]) -> list[Ids]:
        count, length = inputs["attention_mask"].shape
        cache = self._cache(count, length, self._transformers.max_new_tokens[task])
        return self._transformers.generate(task, **inputs, past_key_values=cache, disable_compile=True)

    def _cache(self, count: int, prompt_tokens: int, max_new_tokens: int) -> "_BeamCache":
        """Empty; the same each time for the same sizes."""
        shape = (count, prompt_tokens, max_new_tokens)
        if shape in self._caches:
            self._caches[shape].reset()
        else:
            text = self._transformers.model.config.text_config
            self._caches[shape] = _BeamCache(
                StaticCache(config=text, max_cache_len=max_new_tokens + 1),
                StaticCache(config=text, max_cache_len=prompt_tokens),
            )
        return self._caches[shape]


class _SharedVision(Batches):
    """Batches in which the vision tower sees a picture once for all of its prompts."""

    def __init__(self, transformers: Transformers, batch_images: int, feeders: int = FEEDERS) -> None:
        super().__init__(transformers, batch_images, feeders)
        self._prompt = cache(self._prompt_of)

    def can(self, workload: Workload) -> bool:
        return workload.together

    def _batches(self, pictures: int, workload: Workload) -> list[_Batch]:
        return [_Batch(workload.tasks[0], part) for part in _parts(range(pictures), self._batch_images)]

    def _answer(self, workload: Workload, batch: _Batch, inputs: dict[str, Any]) -> Answers:
        features = self._see(inputs["pixel_values"])
        answers: Answers = {}
        for task in workload.tasks:
            prompts = {name: each.expand(len(batch.numbers), -1) for name, each in self._prompt(task).items()}
            ids = self.generate(task, self._encode(features, **prompts))
            answers |= {(number, task): each for number, each in zip(batch.numbers, ids, strict=True)}
        return answers

    @torch.no_grad()
    def _see(self, pixels: Tensor) -> Any:
        return self._transformers.model.get_image_features(pixels).pooler_output

    @torch.no_grad()
    def _encode(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        """What `generate` would have its encoder make of picture and prompt: every version of transformers takes that
        from its caller, and only some take features."""
        model = self._transformers.model
        embedded = model.get_input_embeddings()(input_ids)
        is_picture = (input_ids == model.config.image_token_id)[..., None]
        embedded = embedded.masked_scatter(is_picture, features.to(embedded.dtype))
        encoded = model.get_encoder()(inputs_embeds=embedded, attention_mask=attention_mask)
        return {"encoder_outputs": encoded, "attention_mask": attention_mask}

    def _prompt_of(self, task: str) -> dict[str, Tensor]:
        processed = self._transformers.process(Image.new("RGB", (32, 32)), task)
        return {name: each.to(self._transformers.device) for name, each in processed.items() if name != "pixel_values"}


class SharedBatches(_SharedVision):
    letter, name = "B+", "transformers, batches, vision shared"


class SharedStaticBatches(_SharedVision, StaticBatches):
    letter, name = "C+", "transformers, static cache, vision shared"


class _BeamCache(EncoderDecoderCache):
    """Reordered in place, so that its addresses last, and without the cross-attention, which beams have in common."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        layers: Any = self.self_attention_cache.layers
        for layer in layers:
            layer.keys.copy_(layer.keys.index_select(0, beam_idx))
            layer.values.copy_(layer.values.index_select(0, beam_idx))


def _compile_decoding(model: Any, mode: str) -> None:
    """Compiles the model's forward where it decodes with a `_BeamCache` that is filled; everything else stays."""
    torch._dynamo.config.recompile_limit = _MOST_SHAPES
    torch._dynamo.config.accumulated_recompile_limit = _MOST_SHAPES * 4
    plain = model.forward
    compiled = torch.compile(plain, mode=mode, dynamic=False)

    @wraps(plain)
    def forward(*args: Any, **inputs: Any) -> Any:
        past = inputs.get("past_key_values")
        decodes = isinstance(past, _BeamCache) and past.is_updated.get(0)
        return (compiled if decodes else plain)(*args, **inputs)

    model.forward = forward


def _parts(numbers: Sequence[int], size: int) -> list[list[int]]:
    return [list(numbers[first : first + size]) for first in range(0, len(numbers), size)]


def _without_padding(ids: list[int], pad_id: int) -> Ids:
    """What stands behind the end token of an answer that is shorter than others of its batch."""
    while ids and ids[-1] == pad_id:
        ids.pop()
    return tuple(ids)
