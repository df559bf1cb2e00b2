"""Reads an answer: from its tokens to what transformers' `post_process_generation` gives, and the confidences.

All of it in plain numbers and strings: at hundreds of pictures a second the interpreter is what would be full first.
Only where a location lies outside of the picture does transformers give, or raise, something else.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice, pairwise, repeat
from typing import Any

from arno_shared.prompts import Answer
from arno_workers.engine.confidence import confidences
from arno_workers.engine.detokenizer import Detokenizer, text_of
from arno_workers.engine.objects import Found, boxes, labelled_boxes, labelled_polygons, polygons, quads
from arno_workers.engine.regions import bins_of, dequantize
from arno_workers.engine.transcript import Transcript


class AnswerParser:
    """May be used by many threads."""

    def __init__(self, processor: Any) -> None:
        """`processor`: a `Florence2Processor`. Raises ModelUnusable when its tokenizer is of another kind."""
        self._detokenizer = Detokenizer(processor.tokenizer)
        self._banned: frozenset[str] = frozenset(processor.post_processor.banned_grounding_tokens)

    def parse(
        self, kind: Answer, ids: Sequence[int], logprobs: Sequence[float], width: int, height: int
    ) -> tuple[str, Any, tuple[float, ...] | None]:
        """The text with its special tokens, its value, and a confidence in (0, 1] for each object, in their order.

        `width` and `height` are the picture's, in pixels. None for confidences where this kind names no objects.
        """
        pieces = self._detokenizer.pieces(ids)
        raw = text_of(pieces)
        if kind is Answer.TEXT:
            return raw, raw.replace("<s>", "").replace("</s>", "").strip(), None
        transcript = Transcript(raw, pieces, logprobs)
        has_polygons = "<poly>" in raw
        found = list(self._objects(kind, transcript.text, has_polygons))
        outlines = _in_pixels([outline for one in found for outline in one.outlines], width, height)
        return raw, _value(kind, has_polygons, found, outlines), confidences(found, transcript)

    def _objects(self, kind: Answer, text: str, has_polygons: bool) -> Iterator[Found]:
        match kind:
            case Answer.QUADS:
                return quads(text)
            case Answer.POLYGONS:
                return polygons(text)
            case Answer.BOXES_OR_POLYGONS if has_polygons:
                return labelled_polygons(text)
            case Answer.PROPOSALS:
                return boxes(text)
            case Answer.PHRASES:
                return labelled_boxes(text, self._banned)
        return labelled_boxes(text)


def _in_pixels(outlines: Sequence[str], width: int, height: int) -> list[list[int]]:
    """All at once: a number costs little, a call to numpy much."""
    pixels = dequantize(bins_of("".join(outlines)), width, height)
    ends = accumulate(map(str.count, outlines, repeat("<")), initial=0)
    return [pixels[start:end] for start, end in pairwise(ends)]


def _value(kind: Answer, has_polygons: bool, found: Sequence[Found], outlines: list[list[int]]) -> dict[str, list[Any]]:
    """In the shape that transformers gives it. `outlines`: those of all that is found, one after the other."""
    labels = [one.label for one in found]
    match kind:
        case Answer.POLYGONS:
            return {"polygons": _by_object(found, outlines), "labels": labels}
        case Answer.BOXES_OR_POLYGONS if has_polygons:
            polygons = _by_object(found, outlines)
            return {"bboxes": [], "bboxes_labels": [], "polygons": polygons, "polygons_labels": labels}
        case Answer.BOXES_OR_POLYGONS:
            return {"bboxes": outlines, "bboxes_labels": labels, "polygons": [], "polygons_labels": []}
        case Answer.QUADS:
            return {"quad_boxes": outlines, "labels": labels}
    return {"bboxes": outlines, "labels": labels}


def _by_object(found: Sequence[Found], outlines: list[list[int]]) -> list[list[list[int]]]:
    rest = iter(outlines)
    return [list(islice(rest, len(one.outlines))) for one in found]
