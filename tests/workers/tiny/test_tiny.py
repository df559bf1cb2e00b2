"""The bundled tiny Florence-2: its vocabulary, the shapes of its answers, and what it has learned."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Florence2Processor

import arno_workers
from arno_shared.prompts import TASKS
from arno_shared.scenes import Box, Scene, SceneObject, answer, make_scene
from arno_shared.scenes import tasks as known
from arno_shared.scenes.answers import locate_box
from arno_shared.scenes.outlines import coarse_outline
from arno_workers.tiny.evaluate import evaluate
from arno_workers.tiny.lessons import ask

MODEL = Path(arno_workers.__file__).parent / "models" / "arno-tiny"
SCENES = [make_scene(seed) for seed in range(300)]
SIZE_PX = 1000


@pytest.fixture(scope="module")
def processor() -> Florence2Processor:
    return Florence2Processor.from_pretrained(MODEL)


@pytest.mark.parametrize("task", TASKS)
def test_every_answer_can_be_written_and_generated(processor: Florence2Processor, task: str) -> None:
    tokenizer: Any = processor.tokenizer
    for scene in SCENES:
        _, true = ask(scene, task)
        tokens = tokenizer(f"<s>{true}</s>", add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in tokens
        assert tokenizer.decode(tokens) == f"<s>{true}</s>"
        triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
        assert len(set(triples)) == len(triples), f"generation never says the same three tokens twice: {true}"
        assert all(len(tokenizer.tokenize(item.label)) == 2 for item in scene.objects)


@pytest.mark.parametrize("task", [known.CAPTION, known.DETAILED_CAPTION, known.MORE_DETAILED_CAPTION, known.OCR])
def test_text_answers_parse_to_themselves(processor: Florence2Processor, task: str) -> None:
    for scene in SCENES[:40]:
        assert parse(processor, scene, task) == answer(scene, task)


def test_boxes_parse_to_the_objects(processor: Florence2Processor) -> None:
    labels: dict[str, Callable[[SceneObject], str]] = {
        known.OD: lambda item: item.label,
        known.DENSE_REGION_CAPTION: lambda item: f"{item.size} {item.label}",
        known.REGION_PROPOSAL: lambda item: "",
    }
    for scene in SCENES[:40]:
        for task, label in labels.items():
            found = parse(processor, scene, task)
            assert found["labels"] == [label(item) for item in scene.objects]
            assert near(found["bboxes"], boxes(scene.objects))


def test_written_words_parse_to_quadrilaterals(processor: Florence2Processor) -> None:
    for scene in SCENES[:40]:
        found = parse(processor, scene, known.OCR_WITH_REGION)
        assert found["labels"] == [word.text for word in scene.words]
        assert near([quad[:2] + quad[4:6] for quad in found["quad_boxes"]], boxes(scene.words))


def test_phrases_parse_to_the_objects_they_name(processor: Florence2Processor) -> None:
    for scene in SCENES[:40]:
        caption = answer(scene, known.CAPTION)
        grounded = parse(processor, scene, known.CAPTION_TO_PHRASE_GROUNDING, text=caption)
        assert grounded["labels"] == [item.label for item in scene.objects]
        assert near(grounded["bboxes"], boxes(scene.objects))
        shape = scene.objects[0].shape
        detected = parse(processor, scene, known.OPEN_VOCABULARY_DETECTION, text=shape)
        assert near(detected["bboxes"], boxes(item for item in scene.objects if item.shape == shape))
        assert set(detected["bboxes_labels"]) == {shape}


def test_masks_parse_to_outlines(processor: Florence2Processor) -> None:
    for scene in SCENES[:40]:
        for item in scene.objects:
            outline = [[edge * SIZE_PX for corner in coarse_outline(item) for edge in corner]]
            named = parse(processor, scene, known.REFERRING_EXPRESSION_SEGMENTATION, text=item.label)
            enclosed = parse(processor, scene, known.REGION_TO_SEGMENTATION, region=item.box)
            assert near(named["polygons"][0], outline)
            assert near(enclosed["polygons"][0], outline)


def test_regions_parse_to_what_they_hold(processor: Florence2Processor) -> None:
    for scene in SCENES[:40]:
        for item in scene.objects:
            where = locate_box(item.box)
            assert parse(processor, scene, known.REGION_TO_CATEGORY, region=item.box) == item.label + where
            described = parse(processor, scene, known.REGION_TO_DESCRIPTION, region=item.box)
            assert described == f"{item.size} {item.label}{where}"
        for word in scene.words:
            assert parse(processor, scene, known.REGION_TO_OCR, region=word.box) == word.text + locate_box(word.box)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """So small a model only loses time by sharing its work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_the_bundled_model_knows_the_drawn_world() -> None:
    marks = evaluate(MODEL, SCENES[:40])
    assert marks.captions >= 0.9
    assert marks.labels >= 0.9
    assert marks.overlap >= 0.6
    assert marks.texts >= 0.9


def parse(processor: Florence2Processor, scene: Scene, task: str, **about: Any) -> Any:
    """The true answer, parsed as if the model had generated it."""
    written = f"</s><s>{answer(scene, task, **about)}</s>"
    return processor.post_process_generation(written, task=task, image_size=(SIZE_PX, SIZE_PX))[task]


def boxes(items: Iterable[SceneObject | Any]) -> list[list[float]]:
    return [pixels(item.box) for item in items]


def pixels(box: Box) -> list[float]:
    return [edge * SIZE_PX for edge in (box.left, box.top, box.right, box.bottom)]


def near(found: list[list[float]], truth: list[list[float]]) -> bool:
    """Whether all coordinates agree to the pixel, which is one bin wide here."""
    return len(found) == len(truth) and all(np.allclose(*pair, atol=1.01) for pair in zip(found, truth, strict=True))
