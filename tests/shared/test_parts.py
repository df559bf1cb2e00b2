"""Result objects: what a worker writes, a reader gets back, with Arno or without it."""

import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from arno_shared.errors import MissingExtra
from arno_shared.parts import CONTENT_TYPES, decode_part, encode_part
from arno_shared.prompts import Answer
from arno_shared.results import Failure, Generation, ImageFacts, ModelFacts, PromptResult, ResultRow, Status, Timings

MODEL = ModelFacts(id="florence-community/Florence-2-base-ft", revision="abc", dtype="bfloat16")
WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

FULL = ResultRow(
    job_id="run-7",
    index=12,
    attempts=2,
    image=ImageFacts(
        uri="s3://photos/Zürich 🏔.jpg",
        id="a\u2028b\nc",
        version_id="v1",
        etag='"e"',
        sha256="0" * 64,
        width=640,
        height=480,
        format="JPEG",
    ),
    status=Status.OK,
    prompts=(
        PromptResult(
            task="<CAPTION_TO_PHRASE_GROUNDING>",
            text="a red car",
            prompt="Locate the phrases in the caption: a red car",
            raw="</s><s>a red car<loc_1></s>",
            parsed={"bboxes": [[0.5, 1.25, 3.0, 4.0]], "labels": ["a red car"]},
            tokens=9,
            truncated=False,
            score=-0.2231,
            confidences=(0.8125, 0.0001),
        ),
        PromptResult(
            task="<REGION_TO_CATEGORY>",
            region=(1.0, 2.0, 3.5, 4.0),
            prompt="What is the region <loc_1>?",
            raw="\r\ncar\x85\u2029",
            parsed="car",
            tokens=1,
            truncated=True,
            score=0.0,
            confidences=(),
            repetitive=True,
        ),
        PromptResult(task="<OCR>", prompt="", raw="", parsed=None, tokens=0, truncated=False),
        PromptResult(
            task=None, parse=Answer.TEXT, prompt="<VQA>what?", raw="", parsed="a car", tokens=0, truncated=False
        ),
    ),
    model=MODEL,
    generation=Generation(num_beams=3, no_repeat_ngram_size=3, length_penalty=1.0, early_stopping=True),
    timings=Timings(fetch_ms=1.5, decode_ms=2.5, wait_ms=3.5, model_ms=4.5),
    worker="gpu0@host",
    finished_at=WHEN,
)
FAILED = ResultRow(
    job_id="run-7",
    index=12,
    attempts=3,
    image=ImageFacts(uri="https://host/b.png"),
    status=Status.FAILED,
    error=Failure(code="not_found", message="404"),
    model=MODEL.model_copy(update={"adapter": "s3://models/mine", "adapter_revision": "sha256:12"}),
    worker="gpu0@host",
    finished_at=WHEN,
)
ROWS = [FULL, FAILED]

formats = pytest.mark.parametrize("format", sorted(CONTENT_TYPES))


@formats
@pytest.mark.parametrize("rows", [ROWS, [FULL], [FAILED], [], ROWS * 500], ids=len)
def test_rows_come_back_as_they_were_written(rows: list[ResultRow], format: str) -> None:
    assert decode_part(encode_part(rows, format), format) == rows


@formats
def test_the_same_rows_make_the_same_bytes(format: str) -> None:
    assert encode_part(ROWS, format) == encode_part(ROWS, format)


@formats
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_how_a_search_was_stopped_comes_back_as_it_was(early_stopping: Any, format: str) -> None:
    assert FULL.generation
    generation = FULL.generation.model_copy(update={"early_stopping": early_stopping})
    (row,) = decode_part(encode_part([FULL.model_copy(update={"generation": generation})], format), format)
    assert row.generation == generation


def test_json_lines_are_one_json_object_a_line() -> None:
    lines = encode_part(ROWS, "jsonl").decode().split("\n")
    assert lines.pop() == ""
    first, second = map(json.loads, lines)
    assert first["image"]["uri"] == "s3://photos/Zürich 🏔.jpg"
    assert first["prompts"][0]["parsed"] == {"bboxes": [[0.5, 1.25, 3.0, 4.0]], "labels": ["a red car"]}
    assert first["prompts"][1]["region"] == [1.0, 2.0, 3.5, 4.0]
    assert [prompt["confidences"] for prompt in first["prompts"]] == [[0.8125, 0.0001], [], None, None]
    assert [prompt["score"] for prompt in first["prompts"]] == [-0.2231, 0.0, None, None]
    assert first["finished_at"] == "2026-01-02T03:04:05.678901Z"
    assert second["status"] == "failed"
    assert second["error"] == {"code": "not_found", "message": "404"}


def test_parquet_is_read_by_plain_pyarrow() -> None:
    table = pq.read_table(io.BytesIO(encode_part(ROWS, "parquet")))
    first, second = table.to_pylist()
    assert table.column_names == list(ResultRow.model_fields)
    assert [(prompt["task"], prompt["parse"]) for prompt in first["prompts"]][2:] == [("<OCR>", None), (None, "text")]
    assert first["image"]["width"] == 640
    assert json.loads(first["prompts"][0]["parsed"])["labels"] == ["a red car"]
    assert [prompt["confidences"] for prompt in first["prompts"]] == [[0.8125, 0.0001], [], None, None]
    assert [prompt["score"] for prompt in first["prompts"]] == [-0.2231, 0.0, None, None]
    assert [prompt["repetitive"] for prompt in first["prompts"]] == [False, True, False, False]
    assert first["generation"]["early_stopping"] == "true"
    assert first["finished_at"] == WHEN
    assert (second["status"], second["error"]["code"]) == ("failed", "not_found")


def test_parquet_parts_have_one_schema_whatever_is_in_them() -> None:
    schemas = [pq.read_schema(io.BytesIO(encode_part(rows, "parquet"))) for rows in ([FULL], [FAILED], [])]
    assert schemas[0] == schemas[1] == schemas[2]


@formats
def test_a_part_that_is_cut_short_is_an_error_and_not_fewer_rows(format: str) -> None:
    with pytest.raises((ValidationError, ValueError, OSError)):
        decode_part(encode_part(ROWS, format)[:-20], format)


def test_without_pyarrow_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=r"pip install 'arno\[parquet\]'"):
        encode_part(ROWS, "parquet")
    with pytest.raises(MissingExtra, match=r"pip install 'arno\[parquet\]'"):
        decode_part(b"", "parquet")
    assert encode_part(ROWS, "jsonl")


READ = """
import sys
from arno_shared.parts import decode_part
decode_part(sys.stdin.buffer.read(), "parquet")
"""


def test_a_process_that_has_read_parquet_ends_well() -> None:
    """pyarrow's threads aborted every other one."""
    part = encode_part(ROWS, "parquet")
    codes = [subprocess.run([sys.executable, "-c", READ], input=part, capture_output=True).returncode for _ in range(5)]
    assert codes == [0] * 5
