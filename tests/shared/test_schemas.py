"""What crosses the wire is stable to the byte, and is what the published schemas say.

The golden files in `contracts`, beside this one, are what others have written code against. A file that is missing is
written, and its test fails once: look at what was written before it is committed.
"""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from arno_shared.broker import Sender, celery_app
from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.ledger import Ledger, Outcome
from arno_shared.messages import Chunk, GenerationOptions, ImageRef, Output, Prompt, TaskMessage, parse_message
from arno_shared.names import TOPIC, Lane
from arno_shared.parts import decode_part, encode_part
from arno_shared.prompts import Answer
from arno_shared.redis_client import connect
from arno_shared.results import (
    Failure,
    Generation,
    ImageFacts,
    ModelFacts,
    PromptResult,
    ResultRow,
    Status,
    Timings,
)
from arno_shared.schemas import export, schemas
from arno_shared.settings import Settings
from arno_shared.topic import ChunkCompleted, ChunkEvent, Counts, FailedImage, dataschema

GOLDEN = Path(__file__).parent / "contracts"
PUBLISHED = Path(__file__).parents[2] / "docs" / "schemas"
WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

CHUNK = Chunk(
    images=(
        ImageRef(uri="s3://photos/Zürich/a b.jpg", id="a", version_id="3HL4kqtJvjVBH40Nrjfkd", etag='"9b2cf5"'),
        ImageRef(uri="https://example.org/b.png"),
    ),
    prompts=(
        Prompt(task="<OD>"),
        Prompt(task="<CAPTION_TO_PHRASE_GROUNDING>", text="a red car"),
        Prompt(task="<REGION_TO_CATEGORY>", region=(10, 20, 200.5, 180)),
    ),
    output=Output(prefix="s3://results/run-7/", format="parquet", inline=True),
    generation=GenerationOptions(num_beams=1, max_new_tokens=256),
    job_id="run-7",
    index=12,
    attempt=2,
)
ROW = ResultRow(
    job_id="run-7",
    index=12,
    attempts=2,
    image=ImageFacts(
        **CHUNK.images[0].model_dump(),
        sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
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
            raw="</s><s>a red car<loc_52><loc_333><loc_932><loc_774></s>",
            parsed={"bboxes": [[33.6, 160.08, 596.8, 371.76]], "labels": ["a red car"]},
            tokens=9,
            truncated=False,
            score=-0.2231,
            confidences=(0.8125,),
        ),
        PromptResult(
            task="<REGION_TO_CATEGORY>",
            region=(10, 20, 200.5, 180),
            prompt="What is the region <loc_15><loc_41><loc_313><loc_375>?",
            raw="</s><s>car</s>",
            parsed="car",
            tokens=2,
            truncated=True,
            score=-1.5,
            repetitive=True,
        ),
    ),
    model=ModelFacts(id="florence-community/Florence-2-base-ft", revision="main", dtype="bfloat16"),
    generation=Generation(num_beams=1, no_repeat_ngram_size=3, length_penalty=1.0, early_stopping=True),
    timings=Timings(fetch_ms=12.5, decode_ms=31.0, wait_ms=4.25, model_ms=210.75),
    worker="gpu0@host",
    finished_at=WHEN,
)
OWN = CHUNK.model_copy(
    update={
        "prompts": (Prompt(task="<OD>"), Prompt(raw="<DocVQA>Où est la date ? <OD>", parse=Answer.BOXES_OR_POLYGONS)),
        "schema_version": 2,
    }
)
OWN_ROW = ROW.model_copy(
    update={
        "prompts": (
            ROW.prompts[0],
            PromptResult(
                task=None,
                parse=Answer.BOXES_OR_POLYGONS,
                prompt="<DocVQA>Où est la date ? <OD>",
                raw="</s><s>date<loc_52><loc_333><loc_932><loc_774></s>",
                parsed={
                    "bboxes": [[33.6, 160.08, 596.8, 371.76]],
                    "bboxes_labels": ["date"],
                    "polygons": [],
                    "polygons_labels": [],
                },
                tokens=7,
                truncated=False,
                score=-0.5,
                confidences=(0.625,),
            ),
        ),
        "schema_version": 2,
    }
)
FAILED = ResultRow(
    job_id="run-7",
    index=12,
    attempts=1,
    image=ImageFacts.asked(CHUNK.images[1]),
    status=Status.FAILED,
    error=Failure(code="not_found", message="https://example.org/b.png answered 404"),
    model=ROW.model,
    worker="gpu0@host",
    finished_at=WHEN,
)
EVENT = ChunkEvent(
    id="run-7/12.2",
    source="/arno/workers/gpu0",
    subject="run-7",
    time=WHEN,
    data=ChunkCompleted(
        job_id="run-7",
        index=12,
        attempt=2,
        result_uri="s3://results/run-7/part-000000012.2.parquet",
        counts=Counts(ok=1, failed=1, put_off=0),
        failed=(FailedImage(uri="https://example.org/b.png", code="not_found"),),
        results=(ROW, FAILED),
    ),
)
OWN_EVENT = EVENT.model_copy(
    update={"dataschema": dataschema(2), "data": EVENT.data.model_copy(update={"results": (OWN_ROW, FAILED)})}
)
LETTER = DeadLetter.of_chunk(
    LetterKind.IMAGES,
    CHUNK,
    code="timeout",
    reason="gave up after 3 attempts",
    failed_by_code={"timeout": 1, "throttled": 1},
    worker="gpu0@host",
    at=WHEN,
)


def golden(name: str, written: str | None = None) -> str:
    """The text of a golden file, which `written` must equal."""
    file = GOLDEN / name
    if not file.exists() and written is not None:
        file.write_text(written)
        pytest.fail(f"{name} was missing; it was written and is to be looked at")
    text = file.read_text()
    if written is not None:
        assert written == text
    return text


def compact(value: Any) -> str:
    """A document as one line of JSON, in the order in which it was made."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def published(name: str) -> Draft202012Validator:
    schema = json.loads((PUBLISHED / name).read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


# Task messages


def test_what_is_asked_in_tasks_has_the_digest_that_it_ever_had() -> None:
    """Or jobs that run while Arno is upgraded would be other work."""
    assert CHUNK.digest == "fedb2e031dc7f076efd6fff1"
    assert json.dumps(CHUNK.to_wire()["prompts"]) == (
        '[{"task": "<OD>"}, {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a red car"}, '
        '{"task": "<REGION_TO_CATEGORY>", "region": [10.0, 20.0, 200.5, 180.0]}]'
    )


def test_a_task_message_with_a_fine_tunes_own_prompt_is_written_as_ever() -> None:
    text = golden("task-message.own-prompt.json", compact(OWN.to_wire()))
    assert Chunk.model_validate(parse_message([], json.loads(text)).model_dump()) == OWN
    published("task-message.v2.json").validate(json.loads(text))
    with pytest.raises(ValidationError):
        published("task-message.v1.json").validate(json.loads(text))


def test_a_full_task_message_is_written_as_ever() -> None:
    text = golden("task-message.full.json", compact(CHUNK.to_wire()))
    assert Chunk.model_validate(parse_message([], json.loads(text)).model_dump()) == CHUNK


def test_the_shortest_task_message_is_written_as_ever() -> None:
    chunk = Chunk(
        images=(ImageRef(uri="s3://photos/a.jpg"),),
        prompts=(Prompt(task="<OD>"),),
        output=Output(prefix="s3://results/run-7/"),
        job_id="run-7",
        index=0,
    )
    text = golden("task-message.short.json", compact(chunk.to_wire()))
    assert Chunk.model_validate(parse_message([], json.loads(text)).model_dump()) == chunk


def test_the_least_that_anyone_may_send_is_still_understood() -> None:
    message = parse_message([], json.loads(golden("task-message.minimal.json")))
    assert message == TaskMessage(images=(ImageRef(uri="s3://photos/a.jpg"),), prompts=(Prompt(task="<OD>"),))


@pytest.mark.parametrize("name", ["full", "short", "minimal"])
def test_task_messages_are_what_their_schema_says(name: str) -> None:
    published("task-message.v1.json").validate(json.loads(golden(f"task-message.{name}.json")))


SHORTHANDS: list[dict[str, Any]] = [
    {"images": "s3://photos/a.jpg"},
    {"images": {"uri": "s3://photos/a.jpg"}},
    {"images": ["s3://photos/a.jpg", {"uri": "s3://photos/b.jpg", "id": None}]},
    {"prompts": "<OD>"},
    {"prompts": {"task": "<OD>"}},
    {"prompts": ["<OD>", "<CAPTION_TO_PHRASE_GROUNDING>a red car"]},
    {"prompts": ["<OD> ", "<CAPTION_TO_PHRASE_GROUNDING>\n a < b"]},
    {"prompts": [{"task": "<OD>", "text": None}, {"task": "<REGION_TO_OCR>", "region": [0, 0, 1.5, 1]}]},
    {"output": "s3://Results"},
    {"output": "file:///results/a%20b/"},
    {"output": "s3://results/"},
    {"output": {"prefix": "s3://results/"}},
    {"generation": {}},
    {"generation": {"num_beams": 1}},
    {"generation": {"num_beams": None, "max_new_tokens": 4096}},
    {"output": None, "job_id": None, "index": None},
]
"""Of any version."""

OWN_PROMPTS: list[dict[str, Any]] = [
    {"prompts": {"raw": "<VQA>what is it?"}},
    {"prompts": [{"raw": "<OD>", "parse": "text"}, "<OD>"]},
    {"prompts": [{"raw": " {input}\n", "parse": None}]},
    {"prompts": [{"raw": "a" * 4096, "task": None, "text": None, "region": None}]},
    *({"prompts": [{"raw": "where?", "parse": kind.value}]} for kind in Answer),
]

REFUSED: list[dict[str, Any]] = [
    {"images": []},
    {"images": 7},
    {"images": [""]},
    {"prompts": ["<ODD>"]},
    {"prompts": ["<OD>a car"]},
    {"prompts": ["<CAPTION_TO_PHRASE_GROUNDING> "]},
    {"prompts": [{"task": "<OD>", "text": "a car"}]},
    {"prompts": [{"task": "<REGION_TO_OCR>"}]},
    {"prompts": [{"task": "<REGION_TO_OCR>", "region": [-1, 2, 3, 4]}]},
    {"output": "ftp://results/"},
    {"output": "s3:///results/"},
    {"job_id": "../x"},
    {"images": [{"id": "a"}]},
    {"prompts": []},
    {"prompts": None},
    {"output": {"prefix": "s3://results/", "format": "csv"}},
    {"generation": None},
    {"generation": {"num_beams": 0}},
    {"generation": {"max_new_tokens": 4097}},
    {"generation": {"temperature": 1}},
    {"index": -1},
    {"attempt": 0},
    {"schema_version": 3},
    {"schema_version": 0},
    {"priority": 1},
    {"prompts": ["<CAPTOIN>"]},
    {"prompts": [{"task": "<DocVQA>"}]},
    {"prompts": [{"raw": ""}]},
    {"prompts": [{"raw": " \n"}]},
    {"prompts": [{"raw": "a" * 4097}]},
    {"prompts": [{"raw": 7}]},
    {"prompts": [{"raw": "what?", "parse": "ocr"}]},
    {"prompts": [{"raw": "what?", "parser": "text"}]},
    {"prompts": [{"raw": "what?", "task": "<OD>"}]},
    {"prompts": [{"raw": "what?", "text": "a"}]},
    {"prompts": [{"raw": "what?", "region": [1, 2, 3, 4]}]},
    {"prompts": [{"task": "<OD>", "parse": "boxes"}]},
    {"prompts": [{"parse": "boxes"}]},
    {"prompts": [{}]},
    {"prompts": [{"raw": "what?"}], "schema_version": 1},
]


def message_of(fields: dict[str, Any]) -> dict[str, Any]:
    return {"images": ["s3://photos/a.jpg"], "prompts": ["<OD>"], **fields}


@pytest.mark.parametrize("fields", SHORTHANDS)
def test_the_schemas_admit_every_shorthand_that_the_code_does(fields: dict[str, Any]) -> None:
    for version in (1, 2):
        for said in ({}, {"schema_version": version}):
            published(f"task-message.v{version}.json").validate(message_of(fields | said))
            parse_message([], message_of(fields | said))


@pytest.mark.parametrize("fields", OWN_PROMPTS)
def test_the_schema_of_version_2_alone_admits_fine_tunes_own_prompts(fields: dict[str, Any]) -> None:
    for said in ({}, {"schema_version": 2}):
        published("task-message.v2.json").validate(message_of(fields | said))
        assert parse_message([], message_of(fields | said)).schema_version == 2
        with pytest.raises(ValidationError):
            published("task-message.v1.json").validate(message_of(fields | said))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("fields", REFUSED)
def test_the_schemas_refuse_what_the_code_refuses(fields: dict[str, Any], version: int) -> None:
    with pytest.raises(ValidationError):
        published(f"task-message.v{version}.json").validate(message_of(fields))
    with pytest.raises(ValueError, match=r"."):
        TaskMessage.model_validate(message_of(fields))


@pytest.mark.parametrize(("version", "other"), [(1, 2), (2, 1)])
def test_a_schema_is_of_what_says_its_version(version: int, other: int) -> None:
    with pytest.raises(ValidationError):
        published(f"task-message.v{version}.json").validate(message_of({"schema_version": other}))


# What workers write


def test_result_rows_are_written_as_ever() -> None:
    text = golden("result-rows.jsonl", encode_part([ROW, FAILED], "jsonl").decode())
    assert decode_part(text.encode(), "jsonl") == [ROW, FAILED]


def test_result_rows_are_what_their_schema_says() -> None:
    for line in golden("result-rows.jsonl").splitlines():
        published("result-row.v1.json").validate(json.loads(line))


def test_a_row_with_a_fine_tunes_own_prompt_is_written_as_ever() -> None:
    text = golden("result-row.own-prompt.jsonl", encode_part([OWN_ROW], "jsonl").decode())
    assert decode_part(text.encode(), "jsonl") == [OWN_ROW]
    assert ResultRow.model_validate(OWN_ROW.model_dump(exclude={"schema_version"})).schema_version == 2
    published("result-row.v2.json").validate(json.loads(text))
    with pytest.raises(ValidationError):
        published("result-row.v1.json").validate(json.loads(text))


def test_an_event_is_published_as_ever(valkey_url: str) -> None:
    settings = Settings(redis_url=valkey_url)
    with connect(settings) as redis:
        Ledger(redis, settings).commit(CHUNK, Outcome(event=EVENT))
        ((_, fields),) = redis.xrange(TOPIC)
    assert set(fields) == {b"event", b"type"}
    text = golden("topic-event.json", fields[b"event"].decode() + "\n")
    assert ChunkEvent.model_validate_json(text) == EVENT


def test_an_event_is_what_its_schema_says() -> None:
    published("chunk-event.v1.json").validate(json.loads(golden("topic-event.json")))
    own = json.loads(OWN_EVENT.model_dump_json())
    published("chunk-event.v2.json").validate(own)
    with pytest.raises(ValidationError):
        published("chunk-event.v1.json").validate(own)


def test_a_dead_letter_is_filed_as_ever() -> None:
    text = golden("dead-letter.json", LETTER.model_dump_json() + "\n")
    letter = DeadLetter.model_validate_json(text)
    assert letter == LETTER
    assert Chunk.model_validate(json.loads(letter.raw)["kwargs"]) == CHUNK


# The broker


def test_an_envelope_lies_in_redis_as_ever(valkey_url: str) -> None:
    settings = Settings(redis_url=valkey_url)
    with connect(settings) as redis, celery_app(settings) as app:
        Sender(app).send_chunk(CHUNK, Lane.BULK)
        (entry,) = redis.lrange("arno.bulk", 0, -1)
    envelope = json.loads(entry)
    envelope["headers"]["origin"] = "PID@HOST"
    envelope["headers"]["sent_at"] = "SECONDS"
    envelope["properties"]["delivery_tag"] = "DELIVERY-TAG"
    envelope["properties"]["reply_to"] = "REPLY-TO"
    golden("celery-envelope.json", compact(envelope))


def test_the_envelope_that_others_have_learnt_to_write_still_holds_the_message() -> None:
    envelope = json.loads(golden("celery-envelope.json"))
    args, kwargs, _ = json.loads(base64.b64decode(envelope["body"]))
    assert envelope["headers"]["task"] == "arno.annotate"
    assert kwargs == json.loads(golden("task-message.full.json"))
    assert Chunk.model_validate(parse_message(args, kwargs).model_dump()) == CHUNK


# Schemas


def test_the_published_schemas_are_those_of_the_code(tmp_path: Path) -> None:
    export(tmp_path)
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert {file.name: file.read_text() for file in PUBLISHED.glob("*.json")} == written
    assert set(written) == set(schemas())


@pytest.mark.parametrize("name", sorted(schemas()))
def test_a_published_schema_is_a_schema(name: str) -> None:
    schema = json.loads((PUBLISHED / name).read_text())
    assert schema.pop("$schema") == "https://json-schema.org/draft/2020-12/schema"
    assert schema == json.loads(json.dumps(schemas()[name]))
    Draft202012Validator.check_schema(schema)
