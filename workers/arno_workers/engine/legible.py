"""An answer's text, made fit for transformers' post-processor.

The post-processor takes the square of the length for a text that names nothing, and raises on `<loc_N>` with an absurd
N, which is no token but can be spelled by several. It is given what it would find, and nothing else.
"""

import re

from arno_shared.prompts import LOCATION_BINS
from arno_workers.engine.phrases import OBJECT_KINDS, Phrase, has_polygons, phrases, removed_from

_NO_LOCATION = re.compile(r"<loc_\d{4,}>")
_LAST_LOCATION = f"<loc_{LOCATION_BINS - 1}>"


def legible(kind: str, raw: str) -> str:
    """The phrases of an answer, which the post-processor reads as it would read them in `raw`.

    `kind` is transformers' `tasks_answer_post_processing_type` of the task. What is read as plain text, or in a way
    that is not known here, stays as it is. Locations outside the picture become its edge.
    """
    if kind not in OBJECT_KINDS:
        return raw
    text = raw
    for word in removed_from(raw):
        text = text.replace(word, "")
    written = _quad if kind == "ocr" else _boxes_or_polygons
    found = "".join(written(text, phrase) for phrase in phrases(kind, text, raw))
    # A mark that belongs to no phrase: whether there is one says that the answer is read as polygons.
    return f"{found} <poly>" if has_polygons(kind, raw) else found


def _quad(text: str, phrase: Phrase) -> str:
    return text[phrase.start : phrase.marks] + _inside(text[phrase.marks : phrase.end])


def _boxes_or_polygons(text: str, phrase: Phrase) -> str:
    """Begins with the only space that it needs, which keeps it apart from the phrase before it."""
    marks = _inside(text[phrase.marks : phrase.end])
    closed, end, rest = marks.rpartition("</poly>")
    if end and "<poly>" in rest:
        # Each polygon that never ends would be followed to the end of the text: one stands for all of them.
        marks = f"{closed}{end}<poly><sep><sep>"
    return f" {text[phrase.start : phrase.marks].lstrip()}{marks}"


def _inside(marks: str) -> str:
    return _NO_LOCATION.sub(_LAST_LOCATION, marks)
