"""The objects that an answer names: their labels, their locations, and where in the text they are written.

An answer names its objects by phrases: a label and the marks behind it. They are found as transformers'
`Florence2PostProcessor` finds them, in time that grows with the length: a label that no marks follow is passed over
whole, and none is tried shorter than it is. An answer in a loop is long, a picture may be made to cause one, and a
search that takes the square of its length holds the whole worker meanwhile.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple, TypeAlias

_LABEL = r"([^<]++)"
_LOCATION = r"<loc_\d++>"
_MARK = f"(?:{_LOCATION}|<sep>|<poly>|</poly>)"

_BOX = re.compile(_LOCATION * 4)
_QUAD = re.compile(_LOCATION * 8)
_LABEL_AND_BOXES = re.compile(f"{_LABEL}((?:{_LOCATION}){{4,}})?")
_POLYGONS = re.compile(f"()({_MARK}{{4,}})")
_LABEL_AND_POLYGONS = re.compile(f"{_LABEL}({_MARK}{{4,}})?")
_POLYGON = re.compile(r"<poly>(.*?)</poly>")
_POLYGON_END = "</poly>"
_NAME_OF_POLYGONS = re.compile(r"\s*+(.*?)(?=<loc_|<poly>)")
_OUTLINE = re.compile(f"((?:{_LOCATION})++)(<sep>|$)?")
_FIRST_LOCATION = re.compile(_LOCATION)


Span: TypeAlias = tuple[int, int]
"""Where something starts in the text, and where it ends."""


class Found(NamedTuple):
    label: str
    outlines: list[str]
    """Of each its locations, x and y in turn: one outline for a box or a quad, one or more for what has polygons."""
    spans: tuple[Span, ...]
    """Of the text that names it and no other object, but for a label that several share."""


def quads(text: str) -> Iterator[Found]:
    """As `(.+?)` and eight locations, which takes a time that grows with the square of the length, would find them."""
    start = 0
    while quad := _QUAD.search(text, start + 1):
        marks, end = quad.span()
        start = max(start, text.rfind("\n", start, marks) + 1)
        # A location is a label too where there is no other.
        if start < marks:
            yield Found(text[start:marks].strip(), [quad[0]], ((start, end),))
            start = end


def boxes(text: str) -> Iterator[Found]:
    for box in _BOX.finditer(text):
        yield Found("", [box[0]], (box.span(),))


def labelled_boxes(text: str, banned: Collection[str] = ()) -> Iterator[Found]:
    """`banned`: labels whose boxes count for none."""
    for phrase in _LABEL_AND_BOXES.finditer(text):
        label = phrase[1].strip()
        # The post-processor looks for the label with a `.`, which no end of a line matches.
        if phrase[2] is None or "\n" in phrase[1].lstrip() or label in banned:
            continue
        label = label.encode("ascii", "ignore").decode()
        for box in _BOX.finditer(text, *phrase.span(2)):
            yield Found(label, [box[0]], (phrase.span(1), box.span()))


def polygons(text: str) -> Iterator[Found]:
    """Without labels of their own, though what stands before the first location of one may look like one."""
    return _polygons(text, _POLYGONS)


def labelled_polygons(text: str) -> Iterator[Found]:
    return _polygons(text, _LABEL_AND_POLYGONS)


def _polygons(text: str, phrases: re.Pattern[str]) -> Iterator[Found]:
    for phrase in phrases.finditer(text):
        if phrase[2] is None:
            continue
        start, end = phrase.span()
        first = _FIRST_LOCATION.match(text, start, end)
        name = _NAME_OF_POLYGONS.match(text, first.end() if first else start, end)
        if name is None:
            continue
        label, named = name[0].strip(), name.span()
        last_end = text.rfind(_POLYGON_END, start, end)
        if last_end >= 0 and "<poly>" in phrase[2]:
            # No polygon is looked for behind the last end of one.
            for polygon in _POLYGON.finditer(text, start, last_end + len(_POLYGON_END)):
                if outlines := _outlines(text, *polygon.span(1)):
                    yield Found(label, outlines, (named, polygon.span()))
        elif outlines := _outlines(text, start, end):
            yield Found(label, outlines, ((start, end),))


def _outlines(text: str, start: int, end: int) -> list[str]:
    return [_points(run[1]) for run in _OUTLINE.finditer(text, start, end) if run[2] is not None]


def _points(locations: str) -> str:
    """An odd location at the end of an outline is no point of it."""
    return locations[: locations.rindex("<")] if locations.count("<") % 2 else locations
