"""The JSON Schemas of what a string may stand for, and of the objects that it stands for.

They say what a schema can say in patterns that every validator reads, without looking ahead; what they cannot (a text
that holds another task, a region that is inside out, a prefix with `..`), the code refuses.
"""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core.core_schema import CoreSchema

from arno_shared.prompts import MAX_TEXT_CHARS, TASKS, Answer, Takes


def _tasks(takes: Takes) -> list[str]:
    return [task.token for task in TASKS.values() if task.takes is takes]


def _one_of(words: Sequence[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, words))})"


IMAGE: JsonSchemaValue = {"type": "string", "minLength": 1, "maxLength": 8192, "description": "Its URI."}
PROMPT: JsonSchemaValue = {
    "type": "string",
    "pattern": rf"^(?:{_one_of(_tasks(Takes.NOTHING))}\s*$|{_one_of(_tasks(Takes.TEXT))}\s*\S)",
    "description": f"A task, and after it the text that it takes, of at most {MAX_TEXT_CHARS} characters.",
}
_BUCKET = "s3://[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = r"[^/\\\x00-\x1f\x7f-\x9f]+"
OUTPUT: JsonSchemaValue = {
    "type": "string",
    "pattern": f"^(?:{_BUCKET}|(?:{_BUCKET}/|file:///)(?:{_NAME}(?:/{_NAME})*/?)?)$",
    "description": "s3://bucket/prefix/, or file:///folder/ where that is allowed.",
}

_NULL: JsonSchemaValue = {"type": "null"}
_REGION: JsonSchemaValue = {
    "type": "array",
    "items": {"type": "number", "minimum": 0},
    "minItems": 4,
    "maxItems": 4,
    "description": "x1, y1, x2, y2 in pixels of the upright picture; x1 is less than x2, and y1 than y2.",
}


_TEXT: JsonSchemaValue = {"type": "string", "pattern": r"\S", "maxLength": MAX_TEXT_CHARS}


def _prompt_object(takes: Takes, text: JsonSchemaValue, region: JsonSchemaValue) -> JsonSchemaValue:
    needed = {Takes.TEXT: ["text"], Takes.REGION: ["region"]}.get(takes, [])
    return {
        "type": "object",
        "title": f"A task that takes {takes.value}",
        "properties": {"task": {"enum": _tasks(takes)}, "text": text, "region": region, "raw": _NULL, "parse": _NULL},
        "required": ["task", *needed],
        "additionalProperties": False,
    }


PROMPT_OBJECTS: tuple[JsonSchemaValue, ...] = (
    _prompt_object(Takes.NOTHING, _NULL, _NULL),
    _prompt_object(Takes.TEXT, _TEXT, _NULL),
    _prompt_object(Takes.REGION, _NULL, _REGION),
    {
        "type": "object",
        "title": "A fine-tune's own prompt",
        "properties": {
            "raw": {**_TEXT, "description": "The sentence that the model is asked, to the letter."},
            "parse": {
                "enum": [*map(str, Answer), None],
                "default": Answer.TEXT.value,
                "description": "How the answer is read.",
            },
            "task": _NULL,
            "text": _NULL,
            "region": _NULL,
        },
        "required": ["raw"],
        "additionalProperties": False,
    },
)


def or_object(
    shorthand: JsonSchemaValue,
    core: CoreSchema,
    handler: GetJsonSchemaHandler,
    objects: Sequence[JsonSchemaValue] = (),
) -> JsonSchemaValue:
    """A model's schema that admits its shorthand. `objects` say more than its own, where that can be said."""
    placed = handler(core)
    own: dict[str, Any] = handler.resolve_ref_schema(placed)
    full = dict(own)
    own.clear()
    own.update({"anyOf": [shorthand, *(objects or [full])], "title": full["title"]})
    return placed
