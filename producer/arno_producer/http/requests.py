"""What callers of the HTTP door may say. Shorthands are as in task messages: a string for an image or a prompt."""

import re
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from arno_shared.messages import MAX_PROMPTS, GenerationOptions, ImageRef, Output, Prompt
from arno_shared.names import Lane
from arno_shared.prompts import TASKS, Takes

_PLAIN = "|".join(re.escape(token) for token, task in TASKS.items() if task.takes is Takes.NOTHING)
_WITH_TEXT = "|".join(re.escape(token) for token, task in TASKS.items() if task.takes is Takes.TEXT)

JOB_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

ImageIn: TypeAlias = Annotated[str, Field(min_length=1, max_length=8192)] | ImageRef
PROMPT_PATTERN = f"^(?:(?:{_PLAIN})|(?:{_WITH_TEXT})[^<]*[^<\\s][^<]*)$"
PromptIn: TypeAlias = Annotated[str, Field(max_length=4200, pattern=PROMPT_PATTERN)] | Prompt
OutputIn: TypeAlias = Annotated[str, Field(pattern="^(s3://[a-z0-9]|file:///)")] | Output
Prompts: TypeAlias = Annotated[list[PromptIn], Field(min_length=1, max_length=MAX_PROMPTS)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JobRequest(_Request):
    images: Annotated[list[ImageIn], Field(min_length=1)]
    prompts: Prompts
    output: OutputIn | None = None
    """`s3://bucket/prefix/`; by default a folder of the job's own below the house's prefix."""
    generation: GenerationOptions | None = None
    lane: Lane = Lane.BULK
    job_id: Annotated[str, Field(pattern=JOB_ID_PATTERN)] | None = None
    """In place of an `Idempotency-Key`."""


class AnnotateRequest(_Request):
    image: ImageIn
    prompts: Prompts
    generation: GenerationOptions | None = None
    timeout_s: Annotated[float, Field(gt=0, le=600)] | None = None
    """At most what the door allows, which is also the default."""
