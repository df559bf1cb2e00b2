"""A message in a few words, for Flower: which chunk of which job, how many images, which prompts. No URI, no secret."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from arno_shared.prompts import RAW, TASKS, split_shorthand

_MOST_CHARS = 200
_SUMMARY = re.compile(
    r"job=(?P<job>\S*) chunk=(?P<chunk>\S*) images=(?P<images>\d*) prompts=(?P<prompts>.*)", re.DOTALL
)


class Summary(NamedTuple):
    job: str
    chunk: str
    images: str
    prompts: str

    def __str__(self) -> str:
        return f"job={self.job} chunk={self.chunk} images={self.images} prompts={self.prompts}"

    @classmethod
    def read(cls, text: str) -> "Summary | None":
        """What `str` wrote; None when it did not."""
        match = _SUMMARY.search(text)
        return cls(**match.groupdict()) if match else None


def summary_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Summary:
    """Of a task's arguments, whatever they are: anybody may have sent them."""
    fields = dict(kwargs)
    if len(args) == 1 and isinstance(args[0], Mapping):
        fields = {**args[0], **fields}
    else:
        fields = {**dict(zip(("images", "prompts"), args, strict=False)), **fields}
    attempt = fields.get("attempt", 1)
    chunk = _word(fields.get("index", "")) + (f".{_word(attempt)}" if attempt != 1 else "")
    images, prompts = _listed(fields.get("images")), _listed(fields.get("prompts"))
    asked = " ".join(map(_task, prompts))[:_MOST_CHARS]
    return Summary(_word(fields.get("job_id") or "-"), chunk or "-", str(len(images)), asked)


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def _task(prompt: Any) -> str:
    """Its token alone: texts are what somebody wants to know, and nobody else's business."""
    if isinstance(prompt, Mapping) and prompt.get("raw") is not None:
        return RAW
    task = prompt.get("task") if isinstance(prompt, Mapping) else prompt
    token = split_shorthand(task)[0] if isinstance(task, str) else ""
    return token if token in TASKS else "?"


def _word(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9._<>-]", "?", str(value))[:80] if isinstance(value, str | int) else "?"
