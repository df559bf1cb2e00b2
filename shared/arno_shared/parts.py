"""A part: the result object of one chunk, one row an image, as JSON lines or as Parquet."""

import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from arno_shared.errors import MissingExtra
from arno_shared.results import ResultRow

if TYPE_CHECKING:
    import pyarrow as pa

CONTENT_TYPES = {"jsonl": "application/x-ndjson", "parquet": "application/vnd.apache.parquet"}


def encode_part(rows: Sequence[ResultRow], format: str) -> bytes:
    """Raises MissingExtra when Parquet is asked for and pyarrow is not installed."""
    if format == "jsonl":
        return b"".join(row.model_dump_json().encode() + b"\n" for row in rows)
    import_parquet()
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([_to_columns(row) for row in rows], schema=_parquet_schema())
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def decode_part(data: bytes, format: str) -> list[ResultRow]:
    """Raises MissingExtra when it is Parquet and pyarrow is not installed."""
    if format == "jsonl":
        return [ResultRow.model_validate_json(line) for line in data.splitlines()]
    import_parquet()
    import pyarrow.parquet as pq

    # In this thread, which `read_table` does not see to: a part is small, and pyarrow's threads abort a process that
    # ends soon after.
    table = pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)
    return [_from_columns(columns) for columns in table.to_pylist()]


def import_parquet() -> None:
    """Raises MissingExtra, which names the pip line, when pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise MissingExtra("Parquet", "parquet") from None


def _to_columns(row: ResultRow) -> dict[str, Any]:
    """`parsed` differs in shape from task to task, so that it travels as JSON within its column."""
    columns = row.model_dump()
    for prompt in columns["prompts"]:
        prompt["parsed"] = json.dumps(prompt["parsed"], ensure_ascii=False)
        prompt["region"] = prompt["region"] and list(prompt["region"])
    if generation := columns["generation"]:
        # A column has one type: "true", "false" and "never", which `Generation` reads as they stand.
        generation["early_stopping"] = str(generation["early_stopping"]).lower()
    return columns


def _from_columns(columns: dict[str, Any]) -> ResultRow:
    for prompt in columns["prompts"]:
        prompt["parsed"] = json.loads(prompt["parsed"])
    return ResultRow.model_validate(columns)


_MODEL = ("id", "revision", "dtype", "adapter", "adapter_revision", "processor", "processor_revision")


def _parquet_schema() -> "pa.Schema":
    import pyarrow as pa

    def struct(fields: dict[str, Any]) -> Any:
        return pa.struct(list(fields.items()))

    text, real, whole = pa.string(), pa.float64(), pa.int64()
    image = dict.fromkeys(("uri", "id", "version_id", "etag", "sha256"), text)
    prompt: dict[str, Any] = {
        "task": text,
        "text": text,
        "region": pa.list_(real),
        "prompt": text,
        "raw": text,
        "parsed": text,
        "tokens": whole,
        "truncated": pa.bool_(),
        "score": real,
        "confidences": pa.list_(real),
        "repetitive": pa.bool_(),
        "parse": text,
    }
    columns: dict[str, Any] = {
        "job_id": text,
        "index": whole,
        "position": whole,
        "attempts": whole,
        "image": struct({**image, "width": whole, "height": whole, "format": text}),
        "status": text,
        "error": struct({"code": text, "message": text}),
        "prompts": pa.list_(struct(prompt)),
        "model": struct(dict.fromkeys(_MODEL, text)),
        "generation": struct(
            {
                "num_beams": whole,
                "no_repeat_ngram_size": whole,
                "length_penalty": real,
                "early_stopping": text,
            }
        ),
        "timings": struct(dict.fromkeys(("fetch_ms", "decode_ms", "wait_ms", "model_ms"), real)),
        "worker": text,
        "finished_at": pa.timestamp("us", tz="UTC"),
        "schema_version": whole,
    }
    return pa.schema(columns)
