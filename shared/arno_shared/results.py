"""The result row, versions 1 and 2: what became of one image. One JSON line, or one Parquet row, per image."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from arno_shared.errors import ItemError
from arno_shared.messages import AnyText, Chunk, ImageRef, Prompt, is_none, schema_version_of
from arno_shared.prompts import Answer, Region
from arno_shared.stored import StoredModel
from arno_shared.uris import redact


class Status(StrEnum):
    OK = "ok"
    FAILED = "failed"


class Failure(StoredModel):
    """Why an image has no answers. `code` is stable (see `arno_shared.errors`), `message` is for people."""

    code: str
    message: AnyText

    @classmethod
    def of(cls, error: ItemError) -> "Failure":
        return cls(code=error.code, message=redact(str(error)))


class ImageFacts(StoredModel):
    """The image as it was asked for and as it was found. Sizes in pixels, after its EXIF orientation."""

    uri: str
    id: str | None = None
    version_id: str | None = None
    etag: str | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None

    @classmethod
    def asked(cls, image: ImageRef) -> "ImageFacts":
        return cls(uri=image.uri, id=image.id, version_id=image.version_id, etag=image.etag)


Confidence = Annotated[float, Field(gt=0, le=1)]


class PromptResult(StoredModel):
    """The answer to one prompt.

    `raw` is the generated text with its special tokens; `parsed` has the shape that transformers'
    `post_process_generation` gives for the task, or for the kind in `parse`, geometry in pixels of the EXIF-oriented
    picture.
    """

    task: str | None
    """None for a fine-tune's own prompt, which stands in `prompt`."""
    text: str | None = None
    region: Region | None = None
    prompt: str
    """The sentence that the model was asked."""
    raw: str
    parsed: Any = None
    tokens: int
    truncated: bool
    """The limit of new tokens was reached before the answer ended."""
    score: float | None = None
    """The mean natural log-probability of the tokens that the model chose, those that it was forced to left out; None
    when it chose none."""
    confidences: tuple[Confidence, ...] | None = None
    """One for each object of `parsed`, in its order, boxes before polygons where a task gives both: from the
    probabilities of the object's own tokens. None where the task finds no objects."""
    repetitive: bool = False
    """The answer runs in a loop."""
    parse: Answer | None = Field(default=None, exclude_if=is_none)
    """How the answer to a fine-tune's own prompt was read; None for a task's."""

    def answers(self, prompt: Prompt) -> bool:
        """Whether it can be the answer to this one."""
        asked = (prompt.task, prompt.text, prompt.region, prompt.parse)
        return (self.task, self.text, self.region, self.parse) == asked and prompt.raw in (None, self.prompt)


def _absent(value: object) -> bool:
    return value is None


class ModelFacts(StoredModel):
    """What answered. A revision is the commit of a hub id, or a digest of all files that were read."""

    id: str
    revision: str
    dtype: str
    adapter: str | None = Field(default=None, exclude_if=_absent)
    """The LoRA adapter that was merged into it."""
    adapter_revision: str | None = Field(default=None, exclude_if=_absent)
    processor: str | None = Field(default=None, exclude_if=_absent)
    """Where tokenizer and image processor came from, if not from the model's folder."""
    processor_revision: str | None = Field(default=None, exclude_if=_absent)


class Generation(StoredModel):
    """The generation settings that were used: the job's own, and the checkpoint's where it asked for nothing."""

    num_beams: int
    no_repeat_ngram_size: int
    length_penalty: float
    early_stopping: bool | Literal["never"]


class Timings(StoredModel):
    """Milliseconds that this image spent in each stage; `model` is the time of the batches that it was part of."""

    fetch_ms: float = 0.0
    decode_ms: float = 0.0
    wait_ms: float = 0.0
    model_ms: float = 0.0


class ResultRow(StoredModel):
    """One image of one job."""

    job_id: str
    index: int
    """The chunk that the image came in."""
    position: int | None = Field(default=None, exclude_if=is_none)
    """The image's place in that chunk, from 0, in every attempt the same. None in rows of versions that did not say it,
    and after the loss of what was noted when it was put off."""
    attempts: int
    """How many times it took, across chunks put off."""
    image: ImageFacts
    status: Status
    error: Failure | None = None
    prompts: tuple[PromptResult, ...] = ()
    model: ModelFacts
    generation: Generation | None = None
    timings: Timings = Timings()
    worker: str
    finished_at: datetime
    schema_version: int = Field(default_factory=schema_version_of)

    @property
    def asked_for(self) -> ImageRef:
        """The image as it was asked for."""
        image = self.image
        return ImageRef(uri=image.uri, id=image.id, version_id=image.version_id, etag=image.etag)

    def answers(self, chunk: Chunk) -> bool:
        """Whether the row can be of this attempt at a chunk, if its image is."""
        return (self.job_id, self.index, self.attempts) == (chunk.job_id, chunk.index, chunk.attempt) and (
            self.status is Status.FAILED
            or (
                len(self.prompts) == len(chunk.prompts)
                and all(answer.answers(prompt) for answer, prompt in zip(self.prompts, chunk.prompts, strict=True))
            )
        )
