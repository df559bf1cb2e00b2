"""Reads an answer: from its tokens to what transformers' `post_process_generation` gives, and the confidences.

All of it in plain numbers and strings: at hundreds of pictures a second the interpreter is what would be full first.
Only where a location lies outside of the picture does transformers give, or raise, something else.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from arno_shared.prompts import TASKS, Answer
from arno_workers.engine.confidence import confidences
from arno_workers.engine.detokenizer import Detokenizer, text_of
from arno_workers.engine.objects import Found, boxes, labelled_boxes, labelled_polygons, polygons, quads
from arno_workers.engine.regions import dequantize
from arno_workers.engine.transcript import Transcript


class AnswerParser:
    """May be used by many threads."""

    def __init__(self, processor: Any) -> None:
        """`processor`: a `Florence2Processor`. Raises ModelUnusable when its tokenizer is of another kind."""
        self._detokenizer = Detokenizer(processor.tokenizer)
        self._banned: frozenset[str] = frozenset(processor.post_processor.banned_grounding_tokens)

    def parse(
        self, task: str, ids: Sequence[int], logprobs: Sequence[float], width: int, height: int
    ) -> tuple[str, Any, tuple[float, ...] | None]:
        """The text with its special tokens, its value, and a confidence in (0, 1] for each object, in their order.

        `width` and `height` are the picture's, in pixels. None for confidences where the task finds no objects.
        """
        pieces = self._detokenizer.pieces(ids)
        raw = text_of(pieces)
        if TASKS[task].answer is Answer.TEXT:
            return raw, raw.replace("<s>", "").replace("</s>", "").strip(), None
        transcript = Transcript(raw, pieces)
        has_polygons = "<poly>" in raw
        found = list(self._objects(task, transcript.text, has_polygons))
        outlines = _in_pixels(found, width, height)
        value = _value(TASKS[task].answer, has_polygons, [one.label for one in found], outlines)
        return raw, value, confidences(found, transcript, logprobs)

    def _objects(self, task: str, text: str, has_polygons: bool) -> Iterator[Found]:
        match TASKS[task].answer:
            case Answer.QUADS:
                return quads(text)
            case Answer.POLYGONS:
                return polygons(text)
            case Answer.BOXES_OR_POLYGONS if has_polygons:
                return labelled_polygons(text)
        match task:
            case "<REGION_PROPOSAL>":
                return boxes(text)
            case "<CAPTION_TO_PHRASE_GROUNDING>":
                return labelled_boxes(text, self._banned)
        return labelled_boxes(text)


def _in_pixels(found: Sequence[Found], width: int, height: int) -> list[list[list[int]]]:
    """The outlines of each object."""
    pixels = dequantize(list(chain.from_iterable(chain.from_iterable(one.outlines for one in found))), width, height)
    edges = iter(pixels)
    return [[list(islice(edges, len(outline))) for outline in one.outlines] for one in found]


def _value(
    shape: Answer, has_polygons: bool, labels: list[str], outlines: list[list[list[int]]]
) -> dict[str, list[Any]]:
    """In the shape that transformers gives it."""
    match shape:
        case Answer.POLYGONS:
            return {"polygons": outlines, "labels": labels}
        case Answer.BOXES_OR_POLYGONS if has_polygons:
            return {"bboxes": [], "bboxes_labels": [], "polygons": outlines, "polygons_labels": labels}
    corners = [one for (one,) in outlines]
    match shape:
        case Answer.QUADS:
            return {"quad_boxes": corners, "labels": labels}
        case Answer.BOXES_OR_POLYGONS:
            return {"bboxes": corners, "bboxes_labels": labels, "polygons": [], "polygons_labels": []}
    return {"bboxes": corners, "labels": labels}
