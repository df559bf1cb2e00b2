"""Where a real checkpoint is at hand: it answers what is published of it.

    ARNO_TEST_CHECKPOINT=/models/Florence-2-base ARNO_TEST_PICTURES=/pictures make test ARGS='-k checkpoint_real'

The folder is Florence-2-base or -large, in either layout; pictures are car.jpg and australia.jpg of the hub's dataset
huggingface/documentation-images, folder transformers/tasks. The answers are those that transformers' own tests of
Florence-2 expect, but for the caption, which is the original code's.
"""

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.settings import WorkerSettings
from arno_workers.engine import Parsed
from arno_workers.engine.checkpoint.load import load_checkpoint
from arno_workers.engine.florence import FlorenceReplica
from tests.workers.engine.checkpoint.answers import sources

FOLDER = os.environ.get("ARNO_TEST_CHECKPOINT", "")
PICTURES = Path(os.environ.get("ARNO_TEST_PICTURES", FOLDER))
BINS = 2
"""How far a box may be off: torch's kernels differ from version to version."""

pytestmark = pytest.mark.skipif(not FOLDER, reason="no real checkpoint: ARNO_TEST_CHECKPOINT names a folder")

STOP_SIGN = (
    "The image shows a stop sign sitting on the side of a street in Chinatown, New York City. The street is lined with "
    "buildings, trees, and statues, and there are people walking on the footpath. The sky is visible in the background."
)
OBJECTS = (
    "car<loc_53><loc_333><loc_933><loc_774>door handle<loc_425><loc_503><loc_474><loc_515>"
    "wheel<loc_709><loc_576><loc_865><loc_772><loc_150><loc_584><loc_309><loc_773>"
)


def needs(size: str) -> None:
    width = json.loads((Path(FOLDER) / "config.json").read_text())["text_config"].get("d_model", 1024)
    found = {768: "base", 1024: "large"}[width]
    if found != size:
        pytest.skip(f"published of {size}, and this is {found}")


@cache
def replica() -> FlorenceReplica:
    settings = WorkerSettings(model=FOLDER, dtype="float32", slots=2)
    return FlorenceReplica(load_checkpoint(sources(Path(FOLDER))), settings, "cpu")


def answer(prompt: str, name: str) -> Parsed:
    image = Image.open(PICTURES / name).convert("RGB")
    asked = Prompt.model_validate(prompt)
    sentence = replica().ask(asked, *image.size, GenerationOptions()).sentence
    picture = replica().picture(replica().prepare(image), [sentence], max_new_tokens=100)
    replica().answer_all([picture])
    found = picture.requests[0].answer
    assert found is not None
    return replica().parse(asked, found, *image.size)


def assert_boxes(found: Any, labels: list[str], boxes: list[list[int]], width: int = 640, height: int = 480) -> None:
    assert found[next(key for key in found if key.endswith("labels"))] == labels
    for box, wanted in zip(found["bboxes"], boxes, strict=True):
        far = [abs(a - b) / side * 1000 for a, b, side in zip(box, wanted, (width, height) * 2, strict=True)]
        assert max(far) <= BINS + 1000 / min(width, height), (box, wanted)


def test_a_prompt_is_cut_as_bart_cuts_it() -> None:
    assert replica().prompt_ids("What does the image describe?") == (0, 2264, 473, 5, 2274, 6190, 116, 2)


def test_a_detailed_caption() -> None:
    needs("base")
    assert answer("<DETAILED_CAPTION>", "australia.jpg").value == STOP_SIGN


def test_a_caption() -> None:
    needs("base")
    assert answer("<CAPTION>", "car.jpg").value == "A green car parked in front of a yellow building."


def test_objects() -> None:
    needs("base")
    found = answer("<OD>", "car.jpg")
    boxes = [[34, 160, 597, 371], [272, 241, 303, 247], [454, 276, 553, 370], [96, 280, 198, 371]]
    assert_boxes(found.value, ["car", "door handle", "wheel", "wheel"], boxes)
    assert re.sub(r"\d+", "", found.raw.replace("<s>", "").replace("</s>", "")) == re.sub(r"\d+", "", OBJECTS)


def test_an_open_vocabulary() -> None:
    needs("base")
    boxes = [[92, 273, 557, 373], [455, 275, 554, 371], [95, 278, 194, 371]]
    assert_boxes(answer("<OPEN_VOCABULARY_DETECTION>wheels", "car.jpg").value, ["wheels"] * 3, boxes)


def test_an_open_vocabulary_of_large() -> None:
    needs("large")
    found = answer("<OPEN_VOCABULARY_DETECTION>car", "car.jpg").value
    assert_boxes(found, ["car"], [[33, 160, 596, 371]])
