"""The true answer to every task about a scene, in the raw text that Florence-2 writes.

Florence-2 is decoded with `no_repeat_ngram_size=3`, so no answer may say the same three tokens twice. Distinct colours
see to most of that; the wording below does the rest.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from arno_shared.scenes import tasks
from arno_shared.scenes.lexicon import COLOURS, SHAPES
from arno_shared.scenes.outlines import Point, coarse_outline
from arno_shared.scenes.scene import Box, Scene, SceneObject, SceneWord

_BINS = 1000
_OPENERS = ("first comes a", "then one", "and finally some")
_PHRASE = re.compile(rf"\b(?:(?P<colour>{'|'.join(COLOURS)}) )?(?P<shape>{'|'.join(SHAPES)})\b")


def answer(scene: Scene, task: str, *, text: str | None = None, region: Box | None = None) -> str:
    """The raw text of the truth. `text` is what a text task asks about, `region` what a region task asks about."""
    if task in tasks.TEXT_TASKS:
        return _TEXT_ANSWERS[task](scene, text if text is not None else caption(scene))
    if task in tasks.REGION_TASKS:
        if region is None:
            raise ValueError(f"{task} asks about a region")
        return _REGION_ANSWERS[task](scene, region)
    return _PLAIN_ANSWERS[task](scene)


def locate(points: Iterable[float]) -> str:
    """The `<loc_N>` tokens of coordinates that are fractions of the picture's side."""
    return "".join(f"<loc_{min(max(int(value * _BINS), 0), _BINS - 1)}>" for value in points)


def locate_box(box: Box) -> str:
    return locate((box.left, box.top, box.right, box.bottom))


def caption(scene: Scene) -> str:
    things = _listed([f"{_article(item.colour)} {item.label}" for item in scene.objects])
    return f"{things} on a {scene.texture} background"


def _detailed_caption(scene: Scene) -> str:
    things = _listed([f"a {item.size} {item.label}" for item in scene.objects])
    return f"{things} on a {scene.texture} {scene.shade} background{_written(scene.words)}"


def _more_detailed_caption(scene: Scene) -> str:
    parts = [
        f"{opener} {item.size} {item.label} {item.place}" for opener, item in zip(_OPENERS, scene.objects, strict=False)
    ]
    return f"On a {scene.texture} {scene.shade} background {' '.join(parts)}{_written(scene.words)}."


def _written(words: Sequence[SceneWord]) -> str:
    if not words:
        return ""
    return f" with the {'word' if len(words) == 1 else 'words'} {_listed([word.text for word in words])}"


def _listed(items: Sequence[str]) -> str:
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _objects(scene: Scene) -> str:
    return "".join(item.label + locate_box(item.box) for item in scene.objects)


def _described_objects(scene: Scene) -> str:
    return "".join(f"{item.size} {item.label}{locate_box(item.box)}" for item in scene.objects)


def _proposals(scene: Scene) -> str:
    return "".join(locate_box(item.box) for item in scene.objects)


def _read(scene: Scene) -> str:
    return " ".join(word.text for word in scene.words)


def _read_with_regions(scene: Scene) -> str:
    return "".join(word.text + _locate_quad(word.box) for word in scene.words)


def _locate_quad(box: Box) -> str:
    return locate((box.left, box.top, box.right, box.top, box.right, box.bottom, box.left, box.bottom))


def _grounded(scene: Scene, text: str) -> str:
    """Every phrase of the text that names something in the picture, with the boxes of all it names."""
    named = ((phrase, _named(scene, phrase)) for phrase in dict.fromkeys(_phrases(text)))
    return "".join(phrase + "".join(locate_box(item.box) for item in items) for phrase, items in named if items)


def _segmented(scene: Scene, text: str) -> str:
    items = dict.fromkeys(item for phrase in _phrases(text) for item in _named(scene, phrase))
    return "<sep>".join(_locate_outline(coarse_outline(item)) for item in items)


def _phrases(text: str) -> list[str]:
    return [match.group() for match in _PHRASE.finditer(text)]


def _named(scene: Scene, phrase: str) -> list[SceneObject]:
    return [item for item in scene.objects if phrase in (item.label, item.shape)]


def _locate_outline(corners: Sequence[Point]) -> str:
    return locate(value for corner in corners for value in corner)


def _region_outline(scene: Scene, region: Box) -> str:
    item = _object_in(scene, region)
    return _locate_outline(coarse_outline(item)) if item else ""


def _region_category(scene: Scene, region: Box) -> str:
    item = _object_in(scene, region)
    return item.label + locate_box(region) if item else ""


def _region_description(scene: Scene, region: Box) -> str:
    item = _object_in(scene, region)
    return f"{item.size} {item.label}{locate_box(region)}" if item else ""


def _region_words(scene: Scene, region: Box) -> str:
    read = " ".join(word.text for word in scene.words if word.box.overlaps(region))
    return read + locate_box(region) if read else ""


def _object_in(scene: Scene, region: Box) -> SceneObject | None:
    """The object that fills the region best."""
    best = max(scene.objects, key=lambda item: overlap(item.box, region))
    return best if overlap(best.box, region) > 0 else None


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes in the same unit."""
    wide = min(one.right, other.right) - max(one.left, other.left)
    high = min(one.bottom, other.bottom) - max(one.top, other.top)
    if wide <= 0 or high <= 0:
        return 0.0
    return wide * high / (_area(one) + _area(other) - wide * high)


def _area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)


_PLAIN_ANSWERS: dict[str, Callable[[Scene], str]] = {
    tasks.CAPTION: caption,
    tasks.DETAILED_CAPTION: _detailed_caption,
    tasks.MORE_DETAILED_CAPTION: _more_detailed_caption,
    tasks.OD: _objects,
    tasks.DENSE_REGION_CAPTION: _described_objects,
    tasks.REGION_PROPOSAL: _proposals,
    tasks.OCR: _read,
    tasks.OCR_WITH_REGION: _read_with_regions,
}
_TEXT_ANSWERS: dict[str, Callable[[Scene, str], str]] = {
    tasks.CAPTION_TO_PHRASE_GROUNDING: _grounded,
    tasks.OPEN_VOCABULARY_DETECTION: _grounded,
    tasks.REFERRING_EXPRESSION_SEGMENTATION: _segmented,
}
_REGION_ANSWERS: dict[str, Callable[[Scene, Box], str]] = {
    tasks.REGION_TO_SEGMENTATION: _region_outline,
    tasks.REGION_TO_CATEGORY: _region_category,
    tasks.REGION_TO_DESCRIPTION: _region_description,
    tasks.REGION_TO_OCR: _region_words,
}
