"""The task message, versions 1 and 2: what a producer asks a worker to do with one chunk of images.

Any Celery client can send it (protocol v2, JSON, task `arno.annotate`), as keyword arguments or as one positional
object. Only `images` and `prompts` are required; strings stand for both.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core.core_schema import CoreSchema

from arno_shared.errors import InvalidMessage, InvalidRequest, NewerSchema
from arno_shared.findings import findings_of
from arno_shared.names import JOB_ID_PATTERN, check_job_id
from arno_shared.prompts import (
    MAX_TEXT_CHARS,
    RAW_MAX_NEW_TOKENS,
    TASKS,
    Answer,
    Region,
    check_prompt,
    check_raw,
    split_shorthand,
)
from arno_shared.shorthands import IMAGE, OUTPUT, PROMPT, PROMPT_OBJECTS, or_object
from arno_shared.uris import check_output_prefix

SCHEMA_VERSION = 2
"""The newest version of what crosses the wire that this code speaks. A message of a newer one is left to newer workers,
never guessed at. A new field that changes what is done makes a new version, which messages that do not use it do not
carry: `schema_version_of`."""

MAX_VERSIONS_AHEAD = 8
"""How much newer than a worker a message may be that it leaves to newer workers."""

MAX_CHUNK_IMAGES = 1024
MAX_PROMPTS = 64
MAX_PROMPTS_BYTES = 16 * 1024
"""Of all prompts of a job together, as JSON: each of its chunks repeats them."""
MAX_BEAMS = 16
MAX_NEW_TOKENS = 4096
MAX_CHUNKS = 2**27
"""Chunks in a job: a ledger bitmap of at most 16 MB, whatever a message says."""
MAX_ATTEMPTS = 1000
"""At a chunk, replays included."""

_SHOWN_NAME_CHARS = 80
_MOST_FINDINGS = 5


def _writable(text: str) -> str:
    """JSON may carry half a surrogate pair, which is no text: it is escaped again, as it came."""
    return text.encode("utf-8", "backslashreplace").decode()


AnyText = Annotated[str, BeforeValidator(_writable)]
"""What others said, to be written down whatever it is."""


class WireModel(BaseModel):
    """Frozen; unknown fields are refused, so that a misspelt name is an error and not a silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageRef(WireModel):
    """Where an image is. `id` is the sender's own name for it; `version_id` and `etag` pin an S3 object."""

    uri: str = Field(min_length=1, max_length=8192)
    id: str | None = Field(default=None, max_length=1024)
    version_id: str | None = Field(default=None, max_length=1024)
    etag: str | None = Field(default=None, max_length=1024)

    @model_validator(mode="before")
    @classmethod
    def _from_uri(cls, value: Any) -> Any:
        if not isinstance(value, str | Mapping | ImageRef):
            raise ValueError("must be the URI of an image, or an object with it in `uri`")
        return {"uri": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return or_object(IMAGE, core, handler)


def _check_region(region: Region) -> Region:
    x1, y1, x2, y2 = region
    if not all(math.isfinite(edge) and edge >= 0 for edge in region):
        raise ValueError("a region's edges are finite and not negative, in pixels")
    if x2 <= x1 or y2 <= y1:
        raise ValueError("a region is (x1, y1, x2, y2) in pixels with x1 < x2 and y1 < y2")
    return region


def is_none(value: Any) -> bool:
    return value is None


class Prompt(WireModel):
    """One of Florence-2's tasks, with the text or the region (pixels) that it takes; or a fine-tune's own prompt."""

    task: str | None = None
    """None beside `raw`."""
    text: str | None = Field(default=None, max_length=MAX_TEXT_CHARS)
    region: Annotated[Region, AfterValidator(_check_region)] | None = None
    # What is not there is not written: prompts of tasks have digests that are older than these two.
    raw: str | None = Field(default=None, max_length=MAX_TEXT_CHARS, exclude_if=is_none)
    """The sentence that the model is asked, to the letter."""
    parse: Answer | None = Field(default=None, exclude_if=is_none)
    """How the answer to `raw` is read; a text, unless it is given."""

    @model_validator(mode="before")
    @classmethod
    def _from_shorthand(cls, value: Any) -> Any:
        if not isinstance(value, str | Mapping | Prompt):
            raise ValueError('must be a task, as "<OD>", or an object with one in `task`')
        if isinstance(value, str):
            task, text = split_shorthand(value)
            return {"task": task, "text": text}
        if isinstance(value, Mapping) and value.get("raw") is not None and value.get("parse") is None:
            return {**value, "parse": Answer.TEXT}
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return or_object(PROMPT, core, handler, PROMPT_OBJECTS)

    @model_validator(mode="after")
    def _takes_what_it_was_given(self) -> Self:
        try:
            if self.raw is not None:
                check_raw(self.raw, [name for name in ("task", "text", "region") if getattr(self, name) is not None])
            elif self.parse is not None:
                raise InvalidRequest("`parse` is for a prompt in `raw`, and tasks have their own: leave it out")
            elif self.task is None:
                raise InvalidRequest('name a task in `task`, as "<OD>", or write a fine-tune\'s own prompt in `raw`')
            else:
                check_prompt(self.task, self.text, self.region)
        except InvalidRequest as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def answer(self) -> Answer:
        """How its answer is read."""
        return TASKS[self.task].answer if self.task is not None else self.parse or Answer.TEXT

    @property
    def max_new_tokens(self) -> int:
        """Default limit of its answer's length."""
        return TASKS[self.task].max_new_tokens if self.task is not None else RAW_MAX_NEW_TOKENS


class Output(WireModel):
    """Where results go. `inline` asks for small results to travel in the topic event as well."""

    prefix: Annotated[str, AfterValidator(check_output_prefix), WithJsonSchema(OUTPUT)]
    format: Literal["jsonl", "parquet"] = "jsonl"
    inline: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_prefix(cls, value: Any) -> Any:
        if not isinstance(value, str | Mapping | Output):
            raise ValueError('must be where results go, as "s3://bucket/prefix/", or an object with that in `prefix`')
        return {"prefix": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return or_object(OUTPUT, core, handler)


def no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, and not true or false")
    return value


class GenerationOptions(WireModel):
    """How answers are generated, where that is not left to the checkpoint and to each task."""

    num_beams: Annotated[int | None, BeforeValidator(no_truth)] = Field(default=None, ge=1, le=MAX_BEAMS)
    """1 is greedy. None: the checkpoint's own."""
    max_new_tokens: Annotated[int | None, BeforeValidator(no_truth)] = Field(default=None, ge=2, le=MAX_NEW_TOKENS)
    """A limit for every prompt of the job, in place of each task's own. None: the task's."""


def _as_sequence(value: Any) -> Any:
    return [value] if isinstance(value, str | Mapping | BaseModel) else value


PromptSequence = TypeVar("PromptSequence", bound=Sequence[Prompt])


def small_together(prompts: PromptSequence) -> PromptSequence:
    fields = [prompt.model_dump(exclude_none=True) for prompt in prompts]
    size = len(json.dumps(fields, ensure_ascii=False).encode())
    if size > MAX_PROMPTS_BYTES:
        raise ValueError(f"take {size:,} bytes of JSON; all prompts of a job together may take {MAX_PROMPTS_BYTES:,}")
    return prompts


JobId = Annotated[str, AfterValidator(check_job_id), WithJsonSchema({"type": "string", "pattern": JOB_ID_PATTERN})]
Images = Annotated[
    tuple[ImageRef, ...], Field(min_length=1, max_length=MAX_CHUNK_IMAGES), BeforeValidator(_as_sequence)
]
Prompts = Annotated[
    tuple[Prompt, ...],
    Field(min_length=1, max_length=MAX_PROMPTS),
    BeforeValidator(_as_sequence),
    AfterValidator(small_together),
]


def schema_version_of(said: Mapping[str, Any]) -> int:
    """The version that is needed to say these fields of a message or a row: 2 where one of its `prompts` is a
    fine-tune's own. What version 1 can say stays to the byte what it was."""
    return 2 if any(prompt.task is None for prompt in said["prompts"]) else 1


class TaskMessage(WireModel):
    """A chunk as it stands on the wire; everything but `images` and `prompts` may be left out."""

    images: Images
    prompts: Prompts
    output: Output | None = None
    generation: GenerationOptions = GenerationOptions()
    job_id: JobId | None = None
    index: int | None = Field(default=None, ge=0, lt=MAX_CHUNKS)
    attempt: int = Field(default=1, ge=1, le=MAX_ATTEMPTS)
    schema_version: int = Field(default_factory=schema_version_of, ge=1, le=SCHEMA_VERSION)

    @field_validator("schema_version")
    @classmethod
    def _has_what_is_asked(cls, version: int, info: ValidationInfo) -> int:
        needed = schema_version_of({"prompts": (), **info.data})
        if version < needed:
            raise ValueError(f"must be {needed} where a prompt is in `raw`, or be left out")
        return version


def parse_message(args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskMessage:
    """The message in a Celery task's arguments: keywords, one positional object, or `images, prompts[, output]`.

    Raises InvalidMessage, whose text says which field is wrong and why.
    """
    fields = dict(kwargs)
    if len(args) == 1 and isinstance(args[0], Mapping) and "uri" not in args[0]:
        positional = dict(args[0])
    elif len(args) > 3:
        raise InvalidMessage(f"at most images, prompts and output may be positional; got {len(args)} arguments")
    else:
        positional = dict(zip(("images", "prompts", "output"), args, strict=False))
    if twice := positional.keys() & fields.keys():
        raise InvalidMessage(f"given twice, by position and by name: {', '.join(map(_shown, sorted(twice)[:5]))}")
    fields |= positional
    version = fields.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        speaks = f"this worker speaks up to {SCHEMA_VERSION}"
        if version > SCHEMA_VERSION + MAX_VERSIONS_AHEAD:
            raise InvalidMessage(f"the message has a schema_version that nobody speaks; {speaks}")
        words = f"the message has schema_version {version}; {speaks}"
        raise NewerSchema(f"{words}: upgrade the worker; until then it waits for others that speak it", version)
    try:
        return TaskMessage.model_validate(fields)
    except ValidationError as error:
        raise InvalidMessage(describe_invalid(error)) from None


def describe_invalid(error: ValidationError, within: str = "") -> str:
    """What is wrong, and where, in one line. `within`: what was looked at, where that is a part of something."""
    return "; ".join(
        ": ".join(filter(None, (within or ("" if place else "message"), ".".join(map(_shown, place)), words)))
        for place, words in findings_of(error.errors(include_url=False, include_input=False))[:_MOST_FINDINGS]
    )


def _shown(name: str | int) -> str:
    """The name of a field that somebody made up may be as long as a message may be."""
    return str(name)[:_SHOWN_NAME_CHARS]


class Chunk(WireModel):
    """A unit of work with its identity settled: `(job_id, index)`, tried for the `attempt`-th time.

    Whatever is derived from it (result key, ledger bit, event id) depends on these three alone.
    """

    images: tuple[ImageRef, ...]
    prompts: tuple[Prompt, ...]
    output: Output
    generation: GenerationOptions = GenerationOptions()
    job_id: str
    index: int
    attempt: int = 1
    schema_version: int = Field(default_factory=schema_version_of)

    positions: tuple[int, ...] = ()
    """Of a later attempt: each image's place in the chunk as it was first sent, where that is known. It does not
    travel: the ledger notes it with what was put off."""

    def position(self, place: int) -> int | None:
        """Of the image at this place, in the chunk as it was first sent."""
        if self.positions:
            return self.positions[place]
        return place if self.attempt == 1 else None

    @property
    def digest(self) -> str:
        """Of what is asked: two chunks of one name with different ones are different work."""
        asked = self.model_dump_json(include={"images", "prompts", "output", "generation"})
        return hashlib.sha256(asked.encode()).hexdigest()[:24]

    def to_wire(self) -> dict[str, Any]:
        """As Celery keyword arguments. What stands at its default is left out: a hundred million images add up."""
        wire = self.model_dump(mode="json", exclude_defaults=True, exclude={"positions"})
        return wire | {"schema_version": self.schema_version}

    def only(self, places: Sequence[int]) -> "Chunk":
        """The same attempt, of the images at these places."""
        positions = [self.position(place) for place in places]
        known = tuple(position for position in positions if position is not None)
        return self.model_copy(
            update={
                "images": tuple(self.images[place] for place in places),
                "positions": known if len(known) == len(positions) else (),
            }
        )

    def retry_of(self, images: Sequence[ImageRef], positions: Sequence[int] = ()) -> "Chunk":
        """The next attempt, of some of its images."""
        return self.model_copy(
            update={"images": tuple(images), "positions": tuple(positions), "attempt": self.attempt + 1}
        )


def raw_message(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The arguments as the JSON they came in, for a dead letter; in place of what cannot be written, a word on it."""
    try:
        return json.dumps({"args": list(args), "kwargs": dict(kwargs)}, ensure_ascii=False, default=repr)
    except RecursionError:
        # It was read with less on the stack than there is now.
        return "the arguments are nested too deeply to be written"
