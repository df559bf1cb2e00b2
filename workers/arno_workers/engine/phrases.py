"""Where an answer names its objects: what transformers' post-processor looks for, in time that grows with the length.

A phrase is a label and the marks behind it. The patterns are the post-processor's own, but for what makes them linear:
a label that no marks follow is passed over whole, and none is tried shorter than it is. An answer in a loop is long, a
picture may be made to cause one, and a search that takes the square of its length holds the whole worker meanwhile.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_LABEL = r"([^<]++)"
_MARK = r"(?:<loc_\d+>|<sep>|<poly>|</poly>)"
_BOXES_OF_LABEL = re.compile(_LABEL + r"((?:<loc_\d+>){4,})?")
_BOXES = re.compile(r"()((?:<loc_\d+>){4,})")
_QUAD = re.compile(r"(?:<loc_\d+>){8}")
_POLYGONS_OF_LABEL = re.compile(f"{_LABEL}({_MARK}{{4,}})?")
_POLYGONS = re.compile(f"()({_MARK}{{4,}})")

_REMOVED = ("<s>", "</s>", "<pad>")
"""What the post-processor takes out of the text first, one after the other."""


OBJECT_KINDS = frozenset(
    {
        "bboxes",
        "description_with_bboxes",
        "description_with_bboxes_or_polygons",
        "ocr",
        "phrase_grounding",
        "polygons",
    }
)
"""The values of transformers' `tasks_answer_post_processing_type` that find objects."""


class Phrase(NamedTuple):
    """Places in the text: the label from `start`, the marks from `marks` to `end`."""

    start: int
    marks: int
    end: int


def removed_from(text: str) -> Iterator[str]:
    """What the post-processor takes out of the text, in the order in which it does."""
    for word in _REMOVED:
        if word in text:
            yield word
            text = text.replace(word, "")


def has_polygons(kind: str, raw: str) -> bool:
    """Whether an answer of that kind of task is read as polygons."""
    return kind == "polygons" or (kind == "description_with_bboxes_or_polygons" and "<poly>" in raw)


def phrases(kind: str, text: str, raw: str) -> Iterator[Phrase]:
    """The phrases of `text`, which is `raw` without what is removed; none for another kind than `OBJECT_KINDS`."""
    match kind:
        case "ocr":
            return _quads(text)
        case "bboxes":
            return _matches(_BOXES, text)
        case "polygons":
            return _matches(_POLYGONS, text)
        case "description_with_bboxes_or_polygons" if has_polygons(kind, raw):
            return _matches(_POLYGONS_OF_LABEL, text)
        case "description_with_bboxes" | "phrase_grounding" | "description_with_bboxes_or_polygons":
            # The post-processor looks for the label with a `.`, which no end of a line matches.
            found = _matches(_BOXES_OF_LABEL, text)
            return (phrase for phrase in found if "\n" not in text[phrase.start : phrase.marks].lstrip())
    return iter(())


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[Phrase]:
    return (Phrase(found.start(), *found.span(2)) for found in pattern.finditer(text) if found[2])


def _quads(text: str) -> Iterator[Phrase]:
    """As `(.+?)` and eight locations, which takes a time that grows with the square of the length, would find them."""
    start = 0
    while quad := _QUAD.search(text, start + 1):
        start = max(start, text.rfind("\n", start, quad.start()) + 1)
        # A location is a label too where there is no other.
        if start < quad.start():
            yield Phrase(start, *quad.span())
            start = quad.end()
