"""What lies in the topic and cannot be read keeps nobody from the rest; what is merely newer is read."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from arno_shared.names import TOPIC
from arno_shared.parts import decode_part, encode_part
from arno_shared.redis_client import RedisClient, connect
from arno_shared.results import Failure, Generation
from arno_shared.settings import Settings
from arno_shared.topic import ChunkEvent, FailedImage, TopicReader, entries_after, latest_entry_id
from tests.shared.test_topic import NOT_YET, ROW, event_of, ids, indices, publish

SECRET = "https://host/a.jpg?X-Amz-Signature=hunter2"

UNREADABLE: dict[str, dict[str, Any]] = {
    "no event": {"letter": "{}"},
    "no fields of ours": {"": ""},
    "no JSON": {"event": '{"id": "' + SECRET},
    "nothing": {"event": ""},
    "no text": {"event": b"\xff\xfe"},
    "no object": {"event": "[]"},
    "another type": {"event": event_of(7).model_dump_json().replace("completed.v1", "completed.v2")},
    "a field is missing": {"event": event_of(7).model_dump_json().replace("result_uri", "result_url")},
    "a field is wrong": {"event": event_of(7).model_dump_json().replace('"index":7', json.dumps(SECRET) + ":7")},
    "deep": {"event": "[" * 5000},
}


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


def unknown_everywhere(value: Any) -> Any:
    """The document with a field in each of its objects that nobody knows."""
    if isinstance(value, dict):
        return {**{name: unknown_everywhere(inner) for name, inner in value.items()}, "newer": {"than": "this"}}
    return [unknown_everywhere(inner) for inner in value] if isinstance(value, list) else value


FULL = event_of(
    0,
    failed=(FailedImage(uri="s3://photos/b.jpg", code="not_found"),),
    results=(
        ROW.model_copy(
            update={
                "error": Failure(code="x", message="y"),
                "generation": Generation(num_beams=1, no_repeat_ngram_size=0, length_penalty=1, early_stopping=True),
            }
        ),
    ),
)


def test_fields_that_a_newer_writer_adds_are_passed_over(redis: RedisClient) -> None:
    newer = unknown_everywhere(json.loads(FULL.model_dump_json()))
    assert json.dumps(newer).count("newer") == 11
    redis.xadd(TOPIC, {"event": json.dumps(newer), "type": FULL.type, "newer": "x"})
    reader = TopicReader(redis, "g", "c")
    assert [event for _, event in reader.read()] == [FULL]
    assert reader.skipped == 0


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_rows_that_a_newer_worker_wrote_are_read(format: str) -> None:
    assert FULL.data.results
    (row,) = FULL.data.results
    newer = {"jsonl": with_other_fields, "parquet": with_another_column}[format]
    assert decode_part(newer(encode_part([row], format)), format) == [row]


def with_other_fields(data: bytes) -> bytes:
    return json.dumps(unknown_everywhere(json.loads(data))).encode()


def with_another_column(data: bytes) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    buffer = io.BytesIO()
    pq.write_table(table.append_column("newer", pa.array(["x"])), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("fields", UNREADABLE.values(), ids=list(UNREADABLE))
def test_an_entry_that_cannot_be_read_is_skipped(redis: RedisClient, fields: dict[str, Any]) -> None:
    publish(redis, 0)
    entry_id = redis.xadd(TOPIC, fields).decode()
    publish(redis, 1)
    reader, other = TopicReader(redis, "g", "c", stale_s=0), TopicReader(redis, "other", "c")
    with capture_logs() as logs:
        read = reader.read()
        assert indices(read) == [0, 1]
        # Acknowledged: it does not come again. The others wait for whoever reads them.
        assert reader.read() == read
        assert indices(other.read()) == [0, 1]
        assert indices(entries_after(redis, "0-0")) == [0, 1]
    assert (reader.skipped, other.skipped) == (1, 1)
    assert [entry["message_id"].decode() for entry in redis.xpending_range(TOPIC, "g", "-", "+", 9)] == ids(read)
    # Once, however often it is met.
    assert [line["entry_id"] for line in logs] == [entry_id]
    assert "hunter2" not in str(logs)


def test_an_entry_that_an_older_reader_left_pending_is_skipped(redis: RedisClient) -> None:
    redis.xadd(TOPIC, {"event": "nonsense"})
    publish(redis, 0)
    redis.xgroup_create(TOPIC, "g", id="0")
    redis.xreadgroup("g", "dead", {TOPIC: ">"})
    reader = TopicReader(redis, "g", "c", stale_s=0)
    assert indices(reader.read()) == [0]
    assert reader.skipped == 1
    assert redis.xpending(TOPIC, "g")["pending"] == 1


def test_a_batch_in_which_nothing_can_be_read_does_not_end_the_wait(redis: RedisClient) -> None:
    for _ in range(5):
        redis.xadd(TOPIC, {"event": "nonsense"})
    publish(redis, 0)
    reader = TopicReader(redis, "g", "c")
    assert indices(reader.read(count=2, block_s=30)) == [0]
    assert reader.skipped == 5
    assert reader.read(block_s=NOT_YET) == []


def test_who_is_in_no_group_gets_past_many_that_cannot_be_read(redis: RedisClient) -> None:
    for _ in range(5):
        redis.xadd(TOPIC, {"event": "nonsense"})
    publish(redis, 0)
    redis.xadd(TOPIC, {"event": "nonsense"})
    ((entry_id, event),) = entries_after(redis, "0-0", count=2)
    assert event.data.index == 0
    assert entries_after(redis, entry_id, count=2) == []
    assert entries_after(redis, latest_entry_id(redis)) == []


def test_a_publisher_still_writes_what_the_schema_says() -> None:
    """Unknown fields are for readers to pass over, not for writers to add."""
    assert "newer" not in ChunkEvent.model_validate(unknown_everywhere(FULL.model_dump())).model_dump()
