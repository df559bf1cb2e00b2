"""The catalogue of Florence-2's fifteen task prompts: what each takes, what it answers, how long an answer may get; and
what a fine-tune's own prompt may be.

The names are those of transformers' `Florence2Processor` (`task_prompts_without_inputs`, `task_prompts_with_input`,
`tasks_answer_post_processing_type`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from arno_shared.errors import InvalidRequest

MAX_TEXT_CHARS = 4096
"""Of the text that a task takes, and of a fine-tune's own prompt."""

RAW = "raw"
"""What stands where a task's name would for every prompt that is a fine-tune's own: there is no end of their sentences,
and one may be nobody else's business."""

RAW_MAX_NEW_TOKENS = 1024
"""Default limit of the answer's length, where nobody knows how much a fine-tune has to say."""

_SHOWN_CHARS = 80
"""Of a task that there is not."""

LOCATION_BINS = 1000
"""Florence-2 writes a coordinate as one of 1,000 `<loc_N>` tokens across the picture's width or height."""

Region = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the EXIF-oriented picture."""


class Takes(StrEnum):
    """What a task needs beside the picture."""

    NOTHING = "nothing"
    TEXT = "a text"
    REGION = "a region"


class Answer(StrEnum):
    """How an answer is read; beside each, what `Florence2Processor.post_process_generation` calls it."""

    TEXT = "text"  # pure_text
    BOXES = "boxes"  # description_with_bboxes
    PHRASES = "phrases"  # phrase_grounding
    PROPOSALS = "proposals"  # bboxes
    QUADS = "quads"  # ocr
    POLYGONS = "polygons"  # polygons
    BOXES_OR_POLYGONS = "boxes_or_polygons"  # description_with_bboxes_or_polygons


@dataclass(frozen=True, slots=True)
class Task:
    token: str
    takes: Takes
    answer: Answer
    max_new_tokens: int
    """Default limit of an answer's length."""

    def __str__(self) -> str:
        takes = "takes nothing beside the picture" if self.takes is Takes.NOTHING else f"takes {self.takes}"
        return f"{self.token} {takes}"


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.token: task
        for task in (
            Task("<CAPTION>", Takes.NOTHING, Answer.TEXT, 64),
            Task("<DETAILED_CAPTION>", Takes.NOTHING, Answer.TEXT, 256),
            Task("<MORE_DETAILED_CAPTION>", Takes.NOTHING, Answer.TEXT, 512),
            Task("<OD>", Takes.NOTHING, Answer.BOXES, 1024),
            Task("<DENSE_REGION_CAPTION>", Takes.NOTHING, Answer.BOXES, 1024),
            Task("<REGION_PROPOSAL>", Takes.NOTHING, Answer.PROPOSALS, 1024),
            Task("<OCR>", Takes.NOTHING, Answer.TEXT, 1024),
            Task("<OCR_WITH_REGION>", Takes.NOTHING, Answer.QUADS, 1024),
            Task("<CAPTION_TO_PHRASE_GROUNDING>", Takes.TEXT, Answer.PHRASES, 1024),
            Task("<OPEN_VOCABULARY_DETECTION>", Takes.TEXT, Answer.BOXES_OR_POLYGONS, 1024),
            Task("<REFERRING_EXPRESSION_SEGMENTATION>", Takes.TEXT, Answer.POLYGONS, 1024),
            Task("<REGION_TO_SEGMENTATION>", Takes.REGION, Answer.POLYGONS, 1024),
            Task("<REGION_TO_CATEGORY>", Takes.REGION, Answer.TEXT, 64),
            Task("<REGION_TO_DESCRIPTION>", Takes.REGION, Answer.TEXT, 256),
            Task("<REGION_TO_OCR>", Takes.REGION, Answer.TEXT, 256),
        )
    }
)


def check_prompt(token: str, text: str | None, region: Region | None) -> Task:
    """The task of that name, if `text` and `region` are what it takes.

    Raises InvalidRequest with a sentence that names the task and what it takes.
    """
    task = TASKS.get(token)
    if task is None:
        raise InvalidRequest(
            f"{token[:_SHOWN_CHARS]!r} is not a task of Florence-2; the tasks are {', '.join(TASKS)}; a "
            'fine-tune\'s own prompt is written as {"raw": …}'
        )
    if text is not None and task.takes is not Takes.TEXT:
        raise InvalidRequest(f"{task}, but a text was given")
    if region is not None and task.takes is not Takes.REGION:
        raise InvalidRequest(f"{task}, but a region was given")
    if task.takes is Takes.TEXT and not (text and text.strip()):
        raise InvalidRequest(f"{task}, but none was given")
    if task.takes is Takes.REGION and region is None:
        raise InvalidRequest(f"{task} in pixels (x1, y1, x2, y2), but none was given")
    if text is not None and (clash := _task_within(text)):
        raise InvalidRequest(f"{task}, but the text given holds the task prompt {clash}, which would replace it")
    return task


def check_raw(raw: str, beside: Iterable[str]) -> None:
    """`beside`: names of what was given beside it, of what tasks take.

    Raises InvalidRequest with a sentence that says what to do.
    """
    if names := ", ".join(f"`{name}`" for name in beside):
        raise InvalidRequest(f"`raw` is all that the model is asked: leave out {names}, or `raw`")
    if not raw.strip():
        raise InvalidRequest("`raw` is blank: write the whole sentence that the model is to be asked")


def _task_within(text: str) -> str | None:
    return next((token for token in TASKS if token in text), None)


def split_shorthand(prompt: str) -> tuple[str, str | None]:
    """`"<OD>"` → task alone; `"<CAPTION_TO_PHRASE_GROUNDING>a red car"` → task and text, as transformers writes it."""
    for token in TASKS:
        if prompt.startswith(token):
            return token, prompt.removeprefix(token).strip() or None
    return prompt, None
