"""Compares parsed answers, as `Florence2Processor.post_process_generation` gives them, with the truth."""

from collections.abc import Mapping, Sequence
from typing import cast

from arno_shared.scenes import tasks
from arno_shared.scenes.answers import answer, overlap
from arno_shared.scenes.scene import Box, Scene

_TEXT_ANSWERED = (tasks.CAPTION, tasks.DETAILED_CAPTION, tasks.MORE_DETAILED_CAPTION, tasks.OCR)
ENOUGH_OVERLAP = 0.5


def matches(scene: Scene, task: str, parsed: object, size_px: int = 128) -> bool:
    """Whether a parsed answer about the scene, drawn `size_px` wide, is right.

    Texts must be exact. Of found objects, the labels must be the true ones and every box must overlap its own by half.
    """
    if task in _TEXT_ANSWERED:
        return parsed == answer(scene, task)
    if task == tasks.OD:
        return labels_match(scene, parsed) and min(box_overlaps(scene, parsed, size_px)) >= ENOUGH_OVERLAP
    raise ValueError(f"answers to {task} are not compared")


def labels_match(scene: Scene, parsed: object) -> bool:
    """Whether exactly the objects of the scene were found, in any order."""
    return sorted(_labels(parsed)) == sorted(item.label for item in scene.objects)


def box_overlaps(scene: Scene, parsed: object, size_px: int) -> list[float]:
    """Each object's overlap (intersection over union) with the box found under its label, once the labels match."""
    found = dict(zip(_labels(parsed), _boxes(parsed, size_px), strict=True))
    return [overlap(item.box, found[item.label]) for item in scene.objects]


def _labels(parsed: object) -> Sequence[str]:
    return cast(Mapping[str, Sequence[str]], parsed)["labels"]


def _boxes(parsed: object, size_px: int) -> list[Box]:
    boxes = cast(Mapping[str, Sequence[Sequence[float]]], parsed)["bboxes"]
    return [Box(*(edge / size_px for edge in edges)) for edges in boxes]
