"""Exports the JSON Schemas of everything that crosses the wire: `python -m arno_shared.schemas docs/schemas`.

A file for each version, of what says that it is of that version. The code describes the newest one; what version 1 did
not have yet is taken away again.
"""

import json
import sys
from pathlib import Path
from typing import Any

from arno_shared.messages import SCHEMA_VERSION, TaskMessage
from arno_shared.results import ResultRow
from arno_shared.topic import ChunkEvent, dataschema


def schemas() -> dict[str, dict[str, Any]]:
    """File name → JSON Schema (draft 2020-12). The task message's schema admits one in place of a list."""
    documents: dict[str, dict[str, Any]] = {}
    for version in range(1, SCHEMA_VERSION + 1):
        message = TaskMessage.model_json_schema()
        row = ResultRow.model_json_schema(mode="serialization")
        event = ChunkEvent.model_json_schema(mode="serialization")
        for schema in (message, row, event):
            _pin(schema, version)
        documents |= {
            f"task-message.v{version}.json": _with_single(message),
            f"result-row.v{version}.json": row,
            f"chunk-event.v{version}.json": event,
        }
    return documents


def export(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _pin(schema: dict[str, Any], version: int) -> None:
    """To what says that it is of this version. An event of version 2 may have rows of version 1 beside others."""
    parts = schema.get("$defs", {})
    for part in parts.values():
        if "schema_version" in part.get("properties", {}):
            part["properties"]["schema_version"] |= {"minimum": 1, "maximum": version}
    for field, value in (("schema_version", version), ("dataschema", dataschema(version))):
        if said := schema["properties"].get(field):
            for least in ("default", "minimum", "maximum"):
                said.pop(least, None)
            said["const"] = value
    if version == 1:
        _take_raw_prompts_from(parts)


def _take_raw_prompts_from(parts: dict[str, Any]) -> None:
    if prompt := parts.get("Prompt"):
        prompt["anyOf"] = [form for form in prompt["anyOf"] if "raw" not in form.get("required", ())]
        for form in prompt["anyOf"]:
            for field in ("raw", "parse"):
                form.get("properties", {}).pop(field, None)
    if answer := parts.get("PromptResult"):
        del parts["Answer"], answer["properties"]["parse"]
        answer["properties"]["task"] = {"title": "Task", "type": "string"}


def _with_single(schema: dict[str, Any]) -> dict[str, Any]:
    """One image, or one prompt, stands for a list of one."""
    for field in ("images", "prompts"):
        many = schema["properties"][field]
        schema["properties"][field] = {"anyOf": [many["items"], many]}
    return schema


if __name__ == "__main__":
    export(Path(sys.argv[1]))
