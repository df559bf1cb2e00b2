"""How often answers change when numbers or pixels are less exact: bfloat16, and ARNO_WORKER__PIXELS=fast.

    python bench/agreement.py [--scenes 400]

The bundled model on drawn scenes that are JPEGs of 2 MP, each way against float32 with exact pixels: the share of
answers with the same tokens, of tokens that are the same at the same place, and of right answers. Not a benchmark of
speed; answers are random where the model is unsure, and the scenes' truth says whether it matters.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from arno_shared.checkpoint.files import Wanted
from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.scenes import Scene, draw, make_scene, matches
from arno_shared.settings import WorkerSettings
from arno_shared.storage import ObjectStore
from arno_workers.decode.picture import decode
from arno_workers.engine.checkpoint.load import Sources, load_checkpoint
from arno_workers.engine.checkpoint.locate import locate
from arno_workers.engine.florence import FlorenceReplica
from arno_workers.engine.scheduler import Request

TASKS = ("<CAPTION>", "<OD>", "<OCR>")
PICTURE_PX = 1400
EXACT: dict[str, Any] = {"dtype": "float32", "pixels": "exact"}
WAYS: dict[str, dict[str, Any]] = {
    "float32, fast pixels": {"dtype": "float32", "pixels": "fast"},
    "bfloat16, exact pixels": {"dtype": "bfloat16", "pixels": "exact"},
    "bfloat16, fast pixels": {"dtype": "bfloat16", "pixels": "fast"},
}


@dataclass(frozen=True)
class Answers:
    """By scene and task: the tokens, and whether the answer is right."""

    ids: list[tuple[int, ...]]
    right: list[bool]


def jpeg(scene: Scene) -> bytes:
    file = BytesIO()
    draw(scene, PICTURE_PX).save(file, "JPEG", quality=90)
    return file.getvalue()


def answer(settings: dict[str, Any], scenes: list[Scene], pictures: list[bytes]) -> Answers:
    worker = WorkerSettings(**settings)
    located = locate(worker.model, worker.revision, Wanted.MODEL, worker.model_cache, ObjectStore())
    replica = FlorenceReplica(load_checkpoint(Sources(located)), worker, "cpu")
    prompts = [Prompt(task=task) for task in TASKS]
    asks = [replica.ask(prompt, PICTURE_PX, PICTURE_PX, GenerationOptions(max_new_tokens=64)) for prompt in prompts]
    asked = [
        replica.picture(
            replica.prepare(decode(picture, 10**9, replica.scaled_to).image), [ask.sentence for ask in asks], 64
        )
        for picture in pictures
    ]
    replica.answer_all(asked)

    def right(scene: Scene, prompt: Prompt, request: Request) -> bool:
        parsed = replica.parse(prompt, request.answer, PICTURE_PX, PICTURE_PX).value
        return matches(scene, prompt.task, parsed, PICTURE_PX)

    each = [
        (scene, prompt, request)
        for scene, picture in zip(scenes, asked, strict=True)
        for prompt, request in zip(prompts, picture.requests, strict=True)
    ]
    return Answers([request.answer.ids for _, _, request in each], [right(*one) for one in each])


def same_tokens(ours: tuple[int, ...], theirs: tuple[int, ...]) -> Iterator[bool]:
    for place in range(max(len(ours), len(theirs))):
        yield ours[place : place + 1] == theirs[place : place + 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=400)
    scenes = [make_scene(seed) for seed in range(parser.parse_args().scenes)]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    pictures = [jpeg(scene) for scene in scenes]
    exact = answer(EXACT, scenes, pictures)
    table = Table("", "same answers", "same tokens", "right answers")
    table.add_row("float32, exact pixels", "", "", f"{sum(exact.right) / len(exact.right):.2%}")
    for name, settings in WAYS.items():
        found = answer(settings, scenes, pictures)
        pairs = list(zip(found.ids, exact.ids, strict=True))
        tokens = [same for pair in pairs for same in same_tokens(*pair)]
        table.add_row(
            name,
            f"{sum(ours == theirs for ours, theirs in pairs) / len(pairs):.2%}",
            f"{sum(tokens) / len(tokens):.2%}",
            f"{sum(found.right) / len(found.right):.2%}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
