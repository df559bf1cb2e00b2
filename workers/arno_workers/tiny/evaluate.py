"""Measures a checkpoint on scenes it was not trained on: `python -m arno_workers.tiny.evaluate --model FOLDER`."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from arno_shared.scenes import Scene, draw, make_scene, matches
from arno_shared.scenes.scoring import box_overlaps, labels_match
from arno_shared.scenes.tasks import CAPTION, OCR, OD
from arno_workers.engine.checkpoint.locate import BUNDLED
from arno_workers.tiny.model import PICTURE_PX

_BATCH = 20


@dataclass(frozen=True)
class Marks:
    """Shares of the scenes, but for the mean overlap of the boxes whose label is right."""

    captions: float
    labels: float
    objects: float
    overlap: float
    texts: float
    written_texts: float

    def __str__(self) -> str:
        return (
            f"exact captions {self.captions:.1%}, object labels right {self.labels:.1%}, "
            f"objects right (every overlap >= 0.5) {self.objects:.1%}, mean overlap {self.overlap:.3f}, "
            f"exact texts {self.texts:.1%} (of pictures with text {self.written_texts:.1%})"
        )


class Examinee:
    """A checkpoint that answers questions as any Florence-2 does: real processor, own generation settings."""

    def __init__(self, folder: Path) -> None:
        self.model = Florence2ForConditionalGeneration.from_pretrained(folder)
        self.processor = Florence2Processor.from_pretrained(folder)

    @torch.inference_mode()
    def answer(self, pictures: list[Image], task: str) -> list[object]:
        """The parsed answers, in pixels of the pictures."""
        inputs = self.processor(text=[task] * len(pictures), images=pictures, return_tensors="pt")
        written = self.model.generate(**inputs)  # type: ignore[misc]
        texts = self.processor.batch_decode(written, skip_special_tokens=False)  # type: ignore[no-untyped-call]
        return [
            self.processor.post_process_generation(text.replace("<pad>", ""), task=task, image_size=picture.size)[task]
            for text, picture in zip(texts, pictures, strict=True)
        ]


def evaluate(folder: Path, scenes: list[Scene]) -> Marks:
    examinee = Examinee(folder)
    captions, found, texts = (list(_answered(examinee, scenes, task)) for task in (CAPTION, OD, OCR))
    labelled = [(scene, parsed) for scene, parsed in found if labels_match(scene, parsed)]
    overlaps = [value for scene, parsed in labelled for value in box_overlaps(scene, parsed, PICTURE_PX)]
    return Marks(
        captions=_share(captions, CAPTION),
        labels=len(labelled) / len(scenes),
        objects=_share(found, OD),
        overlap=sum(overlaps) / max(len(overlaps), 1),
        texts=_share(texts, OCR),
        written_texts=_share([(scene, parsed) for scene, parsed in texts if scene.words], OCR),
    )


def _answered(examinee: Examinee, scenes: list[Scene], task: str) -> Iterator[tuple[Scene, object]]:
    for first in range(0, len(scenes), _BATCH):
        batch = scenes[first : first + _BATCH]
        yield from zip(batch, examinee.answer([draw(scene, PICTURE_PX) for scene in batch], task), strict=True)


def _share(answered: list[tuple[Scene, object]], task: str) -> float:
    return sum(matches(scene, task, parsed, PICTURE_PX) for scene, parsed in answered) / max(len(answered), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=BUNDLED / "arno-tiny")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.scenes)
    sys.stdout.write(f"{evaluate(chosen.model, [make_scene(seed) for seed in seeds])}\n")


if __name__ == "__main__":
    main()
