"""What callers of the HTTP door may say. Shorthands are as in task messages: a string for an image or a prompt."""

import hashlib
import re
from typing import Annotated, Any, TypeAlias

from fastapi import Header, Path, Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from arno_producer.results_page import CURSOR_PATTERN, check_cursor
from arno_shared.messages import (
    MAX_PROMPTS,
    GenerationOptions,
    ImageRef,
    JobId,
    Output,
    Prompt,
    no_truth,
    small_together,
)
from arno_shared.names import Lane, check_lane

_KEY_PATTERN = "^[!-~]{1,255}$"
_EVENT_ID_PATTERN = "^([0-9]{1,15}-[0-9]{1,15})?$"


def _check_key(key: str) -> str:
    if not re.fullmatch(_KEY_PATTERN, key):
        raise ValueError("an Idempotency-Key has 1 to 255 characters of ASCII that can be seen, and no spaces")
    return key


def _check_event_id(event_id: str) -> str:
    if not re.fullmatch(_EVENT_ID_PATTERN, event_id):
        raise ValueError("must be the id of an event of this stream, as 1767225600000-0; leave it out to begin now")
    return event_id


def _text(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern})


PathJobId: TypeAlias = Annotated[JobId, Path()]
Cursor: TypeAlias = Annotated[str, AfterValidator(check_cursor), _text(CURSOR_PATTERN), Query()]
IdempotencyKey: TypeAlias = Annotated[
    Annotated[str, AfterValidator(_check_key), _text(_KEY_PATTERN)] | None, Header(alias="Idempotency-Key")
]
LastEventId: TypeAlias = Annotated[
    str, AfterValidator(_check_event_id), _text(_EVENT_ID_PATTERN), Header(alias="Last-Event-ID")
]


SomePrompts: TypeAlias = Annotated[
    list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS), AfterValidator(small_together)
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JobRequest(_Request):
    images: Annotated[list[ImageRef], Field(min_length=1)]
    prompts: SomePrompts
    output: Output | None = None
    """`s3://bucket/prefix/`; by default a folder of the job's own below the house's prefix."""
    generation: GenerationOptions | None = None
    lane: Annotated[Lane, BeforeValidator(check_lane)] = Lane.BULK
    job_id: JobId | None = None
    """In place of an `Idempotency-Key`."""

    def sha256(self) -> str:
        """Of all that is asked for; what is left out is the same as its default."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()


class AnnotateRequest(_Request):
    image: ImageRef
    prompts: SomePrompts
    generation: GenerationOptions | None = None
    timeout_s: Annotated[Annotated[float, Field(gt=0, le=600)] | None, BeforeValidator(no_truth)] = None
    """At most what the door allows, which is also the default."""


def _is_event(event: Any) -> Any:
    if not isinstance(event, dict | list):
        raise ValueError("must be an event, which is an object, or a list of them")
    return event


EventBody: TypeAlias = Annotated[
    Any, AfterValidator(_is_event), WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "array", "items": {}}]})
]
