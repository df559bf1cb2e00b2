"""What a model may write, whatever it is: a row with an answer in the shape of its task comes out, and nothing else.

The first byte chooses the task, and whether the rest is text or the numbers of tokens; the second chooses the size of
the picture.
"""

from collections.abc import Sequence
from functools import cache
from math import isfinite
from typing import Any

from arno_shared.messages import Chunk, ImageRef, Prompt
from arno_shared.names import Lane
from arno_shared.parts import decode_part, encode_part
from arno_shared.prompts import TASKS, Takes
from arno_shared.prompts import Answer as Shape
from arno_shared.results import ResultRow
from arno_shared.settings import WorkerSettings
from arno_workers.engine import Answer, Answered
from arno_workers.engine.checkpoint.load import Sources, load_checkpoint
from arno_workers.engine.checkpoint.locate import BUNDLED, Located
from arno_workers.engine.florence import FlorenceReplica
from arno_workers.pipeline.chunk_run import ChunkRun
from arno_workers.pipeline.rows import settle

TOKENS = tuple(TASKS)
SIZES = ((640, 480), (1, 1), (3, 5000), (99_999_999, 1))

_NUMBERED = 0x80
_FOUR = "<loc_1><loc_22><loc_333><loc_999>"
_ANSWERS = (
    "</s><s>a red circle and a blue square</s>",
    f"<s>red circle{_FOUR}blue square{_FOUR}{_FOUR}</s>",
    f"{_FOUR}{_FOUR}",
    f"WORD{_FOUR}{_FOUR}\nother{_FOUR}{_FOUR}",
    f"a cat<poly>{_FOUR}<sep>{_FOUR}</poly><poly>{_FOUR}<loc_5></poly>",
    f"{_FOUR}<sep>{_FOUR}{_FOUR}",
    "é🙂<loc_999999999999999999999><loc_1000><loc_-1><loc_><loc_1><poly><poly></poly>",
)
SEEDS: list[bytes] = [
    *(bytes((task, number)) + text.encode() for task in range(len(TOKENS)) for number, text in enumerate(_ANSWERS)),
    *(bytes((_NUMBERED + task, 0)) + bytes(range(0, 200, 7)) for task in range(len(TOKENS))),
]


def test_one_input(data: bytes) -> None:
    """Raises when the row has no answer, or one that is not of the task's shape, or cannot be written and read back."""
    if len(data) < 2:
        return
    task, size = TOKENS[(data[0] & ~_NUMBERED) % len(TOKENS)], SIZES[data[1] % len(SIZES)]
    check(task, _numbered(data[2:]) if data[0] & _NUMBERED else token_ids(data[2:].decode(errors="replace")), size)


def check(task: str, ids: Sequence[int], size: tuple[int, int]) -> None:
    """As `test_one_input`, of these tokens. Size: width and height in pixels."""
    row = answered(prompt_of(task), ids, size)
    assert row.error is None, row.error
    (result,) = row.prompts
    _check_shape(TASKS[task].answer, result.parsed, size)
    assert result.confidences is None or len(result.confidences) == len(_labels(result.parsed))
    assert decode_part(encode_part([row], "jsonl"), "jsonl") == [row]


def answered(prompt: Prompt, ids: Sequence[int], size: tuple[int, int]) -> ResultRow:
    """The row of an image to which the model answered with these tokens."""
    images = (ImageRef(uri="s3://photos/a.jpg"),)
    chunk = Chunk(images=images, prompts=(prompt,), output="s3://results/", job_id="j", index=0)
    run = ChunkRun(chunk, Lane.BULK)
    answer = Answer(tuple(ids), (-0.5,) * len(ids), forced=0, truncated=False)
    (item,) = run.items
    item.width, item.height = size
    item.settle(Answered((answer,), wait_ms=0.0, model_ms=0.0))
    (row,) = settle(run, replica(), max_attempts=1, worker="w").rows
    return row


def prompt_of(task: str) -> Prompt:
    takes = TASKS[task].takes
    text = "a red circle" if takes is Takes.TEXT else None
    return Prompt(task=task, text=text, region=(0, 0, 1, 1) if takes is Takes.REGION else None)


@cache
def replica() -> Any:
    """The bundled model, of which nothing but words and numbers is used here."""
    return FlorenceReplica(
        load_checkpoint(Sources(Located("arno-tiny", BUNDLED / "arno-tiny", None))), WorkerSettings(slots=1), "cpu"
    )


def token_ids(text: str) -> list[int]:
    ids: list[int] = replica()._processor.tokenizer(text, add_special_tokens=False).input_ids
    return ids


def _numbered(data: bytes) -> list[int]:
    """Two bytes a token, so that characters are cut in the middle as well."""
    words = len(replica()._processor.tokenizer)
    return [int.from_bytes(data[at : at + 2]) % words for at in range(0, len(data), 2)]


def _check_shape(shape: Shape, parsed: Any, size: tuple[int, int]) -> None:
    if shape is Shape.TEXT:
        assert isinstance(parsed, str)
        return
    geometry: dict[str, int | None] = {
        **{boxes: {"bboxes": 4} for boxes in (Shape.BOXES, Shape.PHRASES, Shape.PROPOSALS)},
        Shape.QUADS: {"quad_boxes": 8},
        Shape.POLYGONS: {"polygons": None},
        Shape.BOXES_OR_POLYGONS: {"bboxes": 4, "polygons": None},
    }[shape]
    labels = {"bboxes_labels", "polygons_labels"} if len(geometry) > 1 else {"labels"}
    assert parsed.keys() == geometry.keys() | labels
    assert all(isinstance(label, str) for label in _labels(parsed))
    assert len(_labels(parsed)) == sum(len(parsed[key]) for key in geometry)
    for key, edges in geometry.items():
        for found in parsed[key]:
            for outline in [found] if edges else found:
                assert len(outline) == edges or (edges is None and len(outline) % 2 == 0)
                _check_inside(outline, size)


def _check_inside(outline: Sequence[float], size: tuple[int, int]) -> None:
    for at, edge in enumerate(outline):
        assert isfinite(edge)
        assert 0 <= edge < size[at % 2]


def _labels(parsed: Any) -> list[str]:
    return [label for key in parsed if "labels" in key for label in parsed[key]] if isinstance(parsed, dict) else []
