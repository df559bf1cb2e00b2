"""What a folder answers, by Arno and by transformers, about the same picture."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.settings import WorkerSettings
from arno_workers.engine.checkpoint.load import Sources, load_checkpoint
from arno_workers.engine.checkpoint.locate import Located
from arno_workers.engine.florence import FlorenceReplica
from tests.checkpoints import PICTURE_PX, generated

LIMIT = 9


def located(folder: Path) -> Located:
    return Located(str(folder), folder, None)


def sources(folder: Path, *, processor: Path | None = None, adapter: Path | None = None) -> Sources:
    return Sources(located(folder), processor and located(processor), adapter and located(adapter))


def replica_of(folder: Path, **parts: Path) -> FlorenceReplica:
    settings = WorkerSettings(dtype="float32", slots=4)
    return FlorenceReplica(load_checkpoint(sources(folder, **parts)), settings, "cpu")


@cache
def picture(seed: int = 0) -> Image.Image:
    """As many pixels as the models here take, so that nothing is resized."""
    pixels = np.random.default_rng(seed).integers(0, 256, (PICTURE_PX, PICTURE_PX, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def normalised(image: Image.Image) -> Tensor:
    """By the arithmetic of the image processor that the models here have; 1 × 3 × height × width."""
    mean, std = (torch.tensor(each)[:, None, None] for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    return ((pixels - mean) / std)[None]


def answer(replica: FlorenceReplica, prompt: Prompt | str, image: Image.Image) -> list[int]:
    """Arno's, without the start token. A string is a sentence."""
    sentence = prompt
    if isinstance(prompt, Prompt):
        sentence = replica.ask(prompt, *image.size, GenerationOptions()).sentence
    asked = replica.picture(replica.prepare(image), [str(sentence)], LIMIT)
    replica.answer_all([asked])
    found = asked.requests[0].answer
    assert found is not None
    return list(found.ids)


def expected(model: Any, sentence: str, image: Image.Image, **options: Any) -> list[int]:
    """transformers'."""
    return generated(model, normalised(image), sentence, max_new_tokens=LIMIT, **options)
