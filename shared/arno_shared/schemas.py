"""Exports the JSON Schemas of everything that crosses the wire: `python -m arno_shared.schemas docs/schemas`."""

import json
import sys
from pathlib import Path
from typing import Any

from arno_shared.messages import TaskMessage
from arno_shared.results import ResultRow
from arno_shared.topic import ChunkEvent


def schemas() -> dict[str, dict[str, Any]]:
    """File name → JSON Schema (draft 2020-12). The task message's schema admits one in place of a list."""
    return {
        "task-message.v1.json": _with_single(TaskMessage.model_json_schema()),
        "result-row.v1.json": ResultRow.model_json_schema(mode="serialization"),
        "chunk-event.v1.json": ChunkEvent.model_json_schema(mode="serialization"),
    }


def export(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _with_single(schema: dict[str, Any]) -> dict[str, Any]:
    """One image, or one prompt, stands for a list of one."""
    for field in ("images", "prompts"):
        many = schema["properties"][field]
        schema["properties"][field] = {"anyOf": [many["items"], many]}
    return schema


if __name__ == "__main__":
    export(Path(sys.argv[1]))
