"""Turns scenes into what arno-tiny is trained on: pictures, questions with true answers, and hints for the eyes."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset
from transformers import Florence2Processor

from arno_shared.scenes import Scene, answer, draw, make_scene
from arno_shared.scenes.answers import locate_box
from arno_shared.scenes.lexicon import COLOURS, SHAPES, TEXTURES, WORDS
from arno_shared.scenes.scene import Box
from arno_shared.scenes.tasks import CAPTION, OCR, OD, REGION_TASKS, REGION_TO_OCR, TEXT_TASKS
from arno_workers.tiny.model import GRID, PICTURE_PX

# The tasks taught now; everything here is ready for all fifteen.
TASKS = (CAPTION, OD, OCR)
# Fresh pictures teach more than every question about the same ones.
TASKS_PER_LESSON = 2

_COLOUR_NAMES = tuple(COLOURS)


@dataclass(frozen=True)
class Hints:
    """What each cell of the grid shows; class 0 means nothing.

    colours, shapes, words: (batch, cells) int64; boxes: (batch, cells, 4) in fractions of the picture;
    textures: (batch,) int64.
    """

    colours: Tensor
    shapes: Tensor
    words: Tensor
    boxes: Tensor
    textures: Tensor


@dataclass(frozen=True)
class Lesson:
    """A batch of pictures, and for each of them the questions and answers of a few tasks.

    pixels: (batch, 3, side, side) uint8; prompts and answers: (tasks * batch, length) token ids, all of a task's
    pictures before the next task's.
    """

    pixels: Tensor
    prompts: Tensor
    answers: Tensor
    hints: Hints


class Lessons(IterableDataset[Lesson]):
    """An endless course of lessons, each on `batch` scenes never seen before."""

    def __init__(self, processor: Florence2Processor, first_seed: int, batch: int) -> None:
        self.processor = processor
        self.first_seed = first_seed
        self.batch = batch

    def __iter__(self) -> Iterator[Lesson]:
        for number in count():
            first = self.first_seed + number * self.batch
            yield self._lesson([make_scene(seed) for seed in range(first, first + self.batch)])

    def _lesson(self, scenes: list[Scene]) -> Lesson:
        pixels = np.stack([np.asarray(draw(scene, PICTURE_PX)) for scene in scenes])
        tasks = random.Random(scenes[0].seed).sample(TASKS, TASKS_PER_LESSON)
        exchanges = [ask(scene, task) for task in tasks for scene in scenes]
        return Lesson(
            pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2),
            prompts=self._encode([self._prompt(question) for question, _ in exchanges]),
            answers=self._encode([true for _, true in exchanges]),
            hints=give_hints(scenes),
        )

    def _prompt(self, question: str) -> str:
        """The words that the processor makes of a task and its input."""
        task, _, given = question.partition(">")
        worded: dict[str, str] = {
            **self.processor.task_prompts_without_inputs,
            **self.processor.task_prompts_with_input,
        }
        return worded[f"{task}>"].format(input=given)

    def _encode(self, texts: list[str]) -> Tensor:
        ids = self.processor.tokenizer([f"<s>{text}</s>" for text in texts], add_special_tokens=False)["input_ids"]
        padding = self.processor.tokenizer.pad_token_id
        return pad_sequence([torch.tensor(row) for row in ids], batch_first=True, padding_value=padding)


def ask(scene: Scene, task: str) -> tuple[str, str]:
    """A question to the processor (the task and what it is about) and its true answer."""
    rng = random.Random(f"{scene.seed} {task}")
    if task in TEXT_TASKS:
        text = rng.choice([item.label for item in scene.objects] + [answer(scene, CAPTION)])
        return task + text, answer(scene, task, text=text)
    if task in REGION_TASKS:
        region = _region(scene, task, rng)
        return task + locate_box(region), answer(scene, task, region=region)
    return task, answer(scene, task)


def _region(scene: Scene, task: str, rng: random.Random) -> Box:
    words = [word.box for word in scene.words] if task == REGION_TO_OCR else []
    return rng.choice(words or [item.box for item in scene.objects])


def give_hints(scenes: list[Scene]) -> Hints:
    cells = GRID * GRID
    colours, shapes, words = (np.zeros((len(scenes), cells), dtype=np.int64) for _ in range(3))
    boxes = np.zeros((len(scenes), cells, 4), dtype=np.float32)
    for row, scene in enumerate(scenes):
        for item in scene.objects:
            inside = _cells(item.box)
            colours[row, inside] = 1 + _COLOUR_NAMES.index(item.colour)
            shapes[row, inside] = 1 + SHAPES.index(item.shape)
            boxes[row, inside] = (item.box.left, item.box.top, item.box.right, item.box.bottom)
        for word in scene.words:
            inside = _cells(word.box)
            words[row, inside] = 1 + WORDS.index(word.text)
            boxes[row, inside] = (word.box.left, word.box.top, word.box.right, word.box.bottom)
    textures = torch.tensor([TEXTURES.index(scene.texture) for scene in scenes])
    return Hints(
        colours=torch.from_numpy(colours),
        shapes=torch.from_numpy(shapes),
        words=torch.from_numpy(words),
        boxes=torch.from_numpy(boxes),
        textures=textures,
    )


def _cells(box: Box) -> list[int]:
    """The cells whose centre lies in the box, and always the one that holds the box's own centre."""
    x, y = box.centre
    columns = {column for column in range(GRID) if box.left <= (column + 0.5) / GRID <= box.right} | {int(x * GRID)}
    rows = {row for row in range(GRID) if box.top <= (row + 0.5) / GRID <= box.bottom} | {int(y * GRID)}
    return [row * GRID + column for row in sorted(rows) for column in sorted(columns)]
