"""The drawn world is the same every time, and its answers are what Florence-2 could write."""

import numpy as np
import pytest

from arno_shared.prompts import TASKS, Takes
from arno_shared.scenes import answer, draw, make_scene, matches
from arno_shared.scenes.answers import overlap

SCENES = [make_scene(seed) for seed in range(60)]


def test_a_seed_always_gives_the_same_scene_and_picture() -> None:
    again = make_scene(7)
    assert again == SCENES[7]
    assert np.array_equal(np.asarray(draw(again)), np.asarray(draw(SCENES[7])))
    assert SCENES[7] != SCENES[8]


@pytest.mark.parametrize("size_px", [128, 256])
def test_objects_are_drawn_where_the_scene_says(size_px: int) -> None:
    for scene in SCENES[:10]:
        pixels = np.asarray(draw(scene, size_px)).astype(int)
        for item in scene.objects:
            painted = (np.abs(pixels - np.array(item.rgb)).max(axis=2) <= 8).nonzero()
            rows, columns = painted[0] / size_px, painted[1] / size_px
            found = (columns.min(), rows.min(), columns.max(), rows.max())
            truth = (item.box.left, item.box.top, item.box.right, item.box.bottom)
            assert np.allclose(found, truth, atol=0.03)


def test_nothing_overlaps_and_colours_are_distinct() -> None:
    for scene in SCENES:
        boxes = [item.box for item in scene.objects] + [word.box for word in scene.words]
        assert all(overlap(box, other) == 0 for place, box in enumerate(boxes) for other in boxes[:place])
        assert len({item.colour for item in scene.objects}) == len(scene.objects)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_of_the_catalogue_has_answers(task: str) -> None:
    answers = set()
    for scene in SCENES:
        thing = (scene.words if task == "<REGION_TO_OCR>" else scene.objects) or [None]
        given = {
            Takes.NOTHING: {},
            Takes.TEXT: {"text": getattr(thing[0], "label", None)},
            Takes.REGION: {"region": getattr(thing[0], "box", None)},
        }[TASKS[task].takes]
        if thing[0] is not None:
            answers.add(answer(scene, task, **given))
    # Different scenes have different truths, whatever is asked.
    assert len(answers) > 1


def test_matching_tells_right_from_wrong() -> None:
    scene = next(scene for scene in SCENES if len(scene.objects) == 2)
    first, second = scene.objects
    boxes = [[edge * 128 for edge in (box.left, box.top, box.right, box.bottom)] for box in (first.box, second.box)]
    assert matches(scene, "<OD>", {"bboxes": boxes, "labels": [first.label, second.label]})
    assert matches(scene, "<OD>", {"bboxes": boxes[::-1], "labels": [second.label, first.label]})
    assert not matches(scene, "<OD>", {"bboxes": boxes, "labels": [second.label, first.label]})
    assert not matches(scene, "<OD>", {"bboxes": boxes[:1], "labels": [first.label]})
    assert matches(scene, "<CAPTION>", answer(scene, "<CAPTION>"))
    assert not matches(scene, "<CAPTION>", answer(scene, "<CAPTION>") + "s")
