"""A message's arguments, as they come out of its body: a TaskMessage or an InvalidMessage, and nothing else.

The bytes are the body of Celery's protocol v2, `[args, kwargs, embed]`, or the keyword arguments alone.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kombu.utils.json import loads

from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.errors import InvalidMessage, ItemError
from arno_shared.messages import Chunk, Output, TaskMessage, parse_message, raw_message
from arno_shared.names import Lane
from arno_shared.parts import decode_part, encode_part
from arno_shared.results import ResultRow
from arno_workers.engine.null import NullReplica
from arno_workers.pipeline.chunk_run import ChunkRun
from arno_workers.pipeline.rows import settle

_LONGEST_REFUSAL_CHARS = 10_000

BODIES: list[Any] = [
    {"images": ["s3://photos/a.jpg"], "prompts": ["<OD>"]},
    [["s3://photos/a.jpg", "<CAPTION_TO_PHRASE_GROUNDING>a red car", "s3://results/"], {}, {}],
    [[{"images": "s3://b/é 🏔\0.jpg", "prompts": {"task": "<CAPTION>"}}], {"job_id": "run-7", "index": 3}, None],
    {
        "images": [{"uri": "https://h/a.png?sig=x", "id": "a", "version_id": "v", "etag": '"e"'}, "file:///a%20b.jpg"],
        "prompts": [
            {"task": "<REGION_TO_CATEGORY>", "region": [0, 1.5, 1e300, "4"]},
            {"task": "<OPEN_VOCABULARY_DETECTION>", "text": "a cat <loc_1>"},
        ],
        "output": {"prefix": "file:///tmp/out", "format": "parquet", "inline": True},
        "generation": {"num_beams": 1, "max_new_tokens": 20},
        "job_id": "a.B_c-1",
        "index": 134217727,
        "attempt": 1000,
        "schema_version": 1,
    },
    {"images": "s3://b/a.jpg", "prompts": "<OD>", "schema_version": 2, "priority": "high"},
    {"images": [{"__type__": "uuid", "__value__": {"hex": "0" * 32, "version": 4}}], "prompts": [{"task": None}]},
    {"images": [], "prompts": [float("nan")], "index": 10**4000, "\ud83d": "\ud83d"},
]
SEEDS: list[bytes] = [json.dumps(body).encode() for body in BODIES]


def test_one_input(data: bytes) -> None:
    """Raises when the arguments do anything else than a message or a refusal does: see `check`."""
    try:
        body = loads(data)
    except Exception:
        # What cannot be decoded is filed before it comes to arguments.
        return
    if isinstance(body, dict):
        check([], body)
    elif isinstance(body, list) and len(body) >= 2 and isinstance(body[0], list) and isinstance(body[1], dict):
        check(body[0], body[1])


def check(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """What is refused can be filed in full; what is accepted survives the wire, and comes to rows that come back."""
    try:
        message = parse_message(args, kwargs)
    except InvalidMessage as error:
        _check_refusal(error, raw_message(args, kwargs))
        return
    chunk = _chunk_of(message)
    wire = json.loads(json.dumps(chunk.to_wire()))
    assert _chunk_of(parse_message([], wire)) == chunk
    assert DeadLetter.of_chunk(LetterKind.CHUNK, chunk, code="c", reason="r", worker="w").model_dump_json()
    rows = failed_rows(chunk, "no such file: 'caf\udce9.jpg'")
    assert decode_part(encode_part(rows, "jsonl"), "jsonl") == list(rows)


def _check_refusal(error: InvalidMessage, raw: str) -> None:
    assert len(str(error)) < _LONGEST_REFUSAL_CHARS
    letter = DeadLetter(kind=LetterKind.MESSAGE, code=error.code, reason=str(error), raw=raw, worker="w")
    assert DeadLetter.model_validate_json(letter.model_dump_json()) == letter


def failed_rows(chunk: Chunk, words: str) -> Sequence[ResultRow]:
    """The rows of a chunk, each of whose images failed with these words."""
    run = ChunkRun(chunk, Lane.BULK)
    for item in run.items:
        item.settle(ItemError(words))
    return settle(run, NullReplica(), max_attempts=1, worker="w").rows


def _chunk_of(message: TaskMessage) -> Chunk:
    return Chunk(
        images=message.images,
        prompts=message.prompts,
        output=message.output or Output(prefix="s3://results/"),
        generation=message.generation,
        job_id=message.job_id or "job",
        index=message.index or 0,
        attempt=message.attempt,
    )
