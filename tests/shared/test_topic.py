"""The results topic: each event goes to one consumer of each group, until it is acknowledged."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from threading import Barrier
from time import monotonic, sleep
from typing import Any

import pytest

from arno_shared.ledger import Ledger, Outcome
from arno_shared.messages import Chunk, ImageRef, Output, Prompt
from arno_shared.names import TOPIC
from arno_shared.redis_client import RedisClient, connect
from arno_shared.results import ImageFacts, ModelFacts, PromptResult, ResultRow, Status
from arno_shared.settings import Settings, TopicSettings
from arno_shared.topic import (
    MAX_FAILED_BYTES,
    ChunkCompleted,
    ChunkEvent,
    Counts,
    FailedImage,
    TopicReader,
    bounded_failures,
)

WHEN = datetime(2026, 1, 2, tzinfo=UTC)
NOT_YET = 0.001
"""For a read that must find nothing: the shortest wait."""


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


def event_of(index: int, **data: Any) -> ChunkEvent:
    return ChunkEvent(
        id=f"run-7/{index}",
        source="/arno/gpu0",
        subject="run-7",
        time=WHEN,
        data=ChunkCompleted(
            job_id="run-7",
            index=index,
            attempt=1,
            result_uri=f"s3://results/run-7/part-{index:09d}.jsonl",
            counts=Counts(ok=1, failed=0, put_off=0),
            **data,
        ),
    )


def publish(redis: RedisClient, *indices: int, max_events: int = 100, **data: Any) -> list[ChunkEvent]:
    """Commits chunks, which is how events come into the topic."""
    ledger = Ledger(redis, Settings(topic=TopicSettings(max_events=max_events)))
    events = [event_of(index, **data) for index in indices]
    for index, event in zip(indices, events, strict=True):
        chunk = Chunk(
            images=(ImageRef(uri="s3://photos/a.jpg"),),
            prompts=(Prompt(task="<OD>"),),
            output=Output(prefix="s3://results/run-7/"),
            job_id="run-7",
            index=index,
        )
        assert ledger.commit(chunk, Outcome(event=event))
    return events


def indices(read: list[tuple[str, ChunkEvent]]) -> list[int]:
    return [event.data.index for _, event in read]


def ids(read: list[tuple[str, ChunkEvent]]) -> list[str]:
    return [entry_id for entry_id, _ in read]


def test_a_reader_gets_events_as_they_were_published_and_in_order(redis: RedisClient) -> None:
    events = publish(redis, 0, 1, 2)
    assert [event for _, event in TopicReader(redis, "g", "c").read()] == events


def test_a_reader_gets_no_more_than_it_asks_for(redis: RedisClient) -> None:
    publish(redis, 0, 1, 2)
    reader = TopicReader(redis, "g", "c")
    assert [indices(reader.read(count=2)), indices(reader.read(count=2))] == [[0, 1], [2]]


def test_a_group_that_comes_late_sees_everything_or_only_what_is_new(redis: RedisClient) -> None:
    publish(redis, 0, 1)
    assert indices(TopicReader(redis, "all", "c").read()) == [0, 1]
    new = TopicReader(redis, "new", "c", from_start=False)
    assert new.read(block_s=NOT_YET) == []
    publish(redis, 2)
    assert indices(new.read()) == [2]


def test_a_group_goes_on_where_it_was_whatever_its_next_reader_asks_for(redis: RedisClient) -> None:
    publish(redis, 0)
    TopicReader(redis, "g", "c").read()
    publish(redis, 1)
    assert indices(TopicReader(redis, "g", "c", from_start=False).read()) == [1]


def test_an_event_goes_to_one_consumer_of_a_group_and_to_every_group(redis: RedisClient) -> None:
    publish(redis, *range(10))
    a, b = TopicReader(redis, "g", "a"), TopicReader(redis, "g", "b")
    assert sorted(indices(a.read(count=4)) + indices(b.read())) == list(range(10))
    assert indices(TopicReader(redis, "other", "a").read()) == list(range(10))


def test_a_reader_waits_for_an_event_and_no_longer_than_it_was_told(redis: RedisClient) -> None:
    reader = TopicReader(redis, "g", "c")
    assert reader.read(block_s=NOT_YET) == []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reader.read, block_s=30)
        await_blocked(redis)
        publish(redis, 0)
        assert indices(waiting.result()) == [0]


def await_blocked(redis: RedisClient) -> None:
    """Returns once a client waits in the server."""
    deadline = monotonic() + 30
    while not redis.info("clients")["blocked_clients"]:
        assert monotonic() < deadline, "no reader came to wait"
        sleep(0.005)


def test_an_event_stays_pending_until_it_is_acknowledged(redis: RedisClient) -> None:
    publish(redis, 0, 1)
    reader = TopicReader(redis, "g", "c")
    first, second = ids(reader.read())
    assert redis.xpending(TOPIC, "g")["pending"] == 2
    reader.ack([first])
    reader.ack([])
    assert [entry["message_id"].decode() for entry in redis.xpending_range(TOPIC, "g", "-", "+", 10)] == [second]


def test_what_a_consumer_left_pending_is_taken_over_once_it_is_stale(redis: RedisClient) -> None:
    publish(redis, 0, 1)
    dead, patient = TopicReader(redis, "g", "dead"), TopicReader(redis, "g", "b", stale_s=3600)
    read = dead.read()
    dead.ack(ids(read)[:1])
    assert patient.read(block_s=NOT_YET) == []
    heir = TopicReader(redis, "g", "b", stale_s=0)
    assert heir.read() == read[1:]
    heir.ack(ids(read))
    assert heir.read(block_s=NOT_YET) == []


@pytest.mark.parametrize(("idle_s", "taken"), [(59, []), (61, [0])])
def test_what_is_stale_is_told_in_seconds(redis: RedisClient, idle_s: int, taken: list[int]) -> None:
    publish(redis, 0)
    read = TopicReader(redis, "g", "dead").read()
    redis.xclaim(TOPIC, "g", "dead", 0, ids(read), idle=idle_s * 1000)
    assert indices(TopicReader(redis, "g", "heir", stale_s=60).read(block_s=NOT_YET)) == taken


def test_the_topic_is_no_longer_than_it_may_be_by_much(redis: RedisClient) -> None:
    # Streams are trimmed by whole nodes of 100 entries.
    publish(redis, *range(350), max_events=100)
    assert 100 <= redis.xlen(TOPIC) <= 200


def test_a_reader_that_fell_behind_misses_events_and_goes_on(redis: RedisClient) -> None:
    publish(redis, 0)
    reader = TopicReader(redis, "g", "c", stale_s=0)
    assert indices(reader.read()) == [0]
    publish(redis, 1, 2)
    redis.xtrim(TOPIC, maxlen=1, approximate=False)
    # The first is pending and gone, the second is gone unread.
    read = reader.read(block_s=NOT_YET) or reader.read(block_s=NOT_YET)
    assert indices(read) == [2]


def test_a_reader_survives_the_loss_of_the_topic(redis: RedisClient) -> None:
    publish(redis, 0)
    reader = TopicReader(redis, "g", "c")
    read = reader.read()
    redis.flushall()
    reader.ack(ids(read))
    assert reader.read(block_s=NOT_YET) == []
    publish(redis, 1)
    assert indices(reader.read()) == [1]


def test_a_reader_that_waits_survives_the_loss_of_the_topic(redis: RedisClient) -> None:
    publish(redis, 0)
    reader = TopicReader(redis, "g", "c")
    reader.read()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reader.read, block_s=30)
        await_blocked(redis)
        redis.flushall()
        publish(redis, 1)
        assert indices(waiting.result()) == [1]


def test_readers_that_start_at_once_share_one_group(redis: RedisClient) -> None:
    publish(redis, 0)
    barrier = Barrier(8)

    def read(group: str, consumer: int) -> list[int]:
        barrier.wait()
        return indices(TopicReader(redis, group, str(consumer)).read(block_s=NOT_YET))

    with ThreadPoolExecutor(8) as pool:
        for group in "abcdefghij":
            assert list(chain(*pool.map(read, group * 8, range(8)))) == [0]


def test_a_wait_longer_than_the_sockets_patience_is_no_failure(valkey_url: str) -> None:
    settings = Settings(redis_url=valkey_url, broker={"socket_timeout_s": 0.5})
    with connect(settings) as impatient:
        assert TopicReader(impatient, "g", "c").read(block_s=1.2) == []


# CloudEvents

ROW = ResultRow(
    job_id="run-7",
    index=0,
    attempts=1,
    image=ImageFacts(uri="s3://photos/a.jpg"),
    status=Status.OK,
    prompts=(PromptResult(task="<OCR>", prompt="", raw="", parsed=None, tokens=0, truncated=False),),
    model=ModelFacts(id="m", revision="main", dtype="float32"),
    worker="gpu0",
    finished_at=WHEN,
)


def published(redis: RedisClient, **data: Any) -> dict[str, Any]:
    publish(redis, 0, **data)
    ((_, fields),) = redis.xrange(TOPIC)
    return json.loads(fields[b"event"])


def test_an_event_is_a_cloud_event(redis: RedisClient) -> None:
    event = published(redis, failed=(FailedImage(uri="s3://photos/b.jpg", code="not_found"),))
    assert {"specversion", "id", "source", "type", "data"} <= set(event)
    assert event["specversion"] == "1.0"
    assert event["type"] == "arno.chunk.completed.v1"
    assert event["datacontenttype"] == "application/json"
    assert (event["id"], event["subject"]) == ("run-7/0", "run-7")
    # RFC 3339, with its offset.
    assert event["time"] == "2026-01-02T00:00:00Z"
    # Attributes are lower-case letters and digits, and absent when they have no value.
    assert all(re.fullmatch("[a-z0-9]{1,20}", name) for name in event)
    assert all(isinstance(value, str) and value for name, value in event.items() if name != "data")
    assert re.match(r"[a-z][a-z0-9+.-]*:", event["dataschema"])
    assert event["data"]["failed"] == [{"uri": "s3://photos/b.jpg", "code": "not_found"}]


def test_an_event_without_results_does_not_mention_them(redis: RedisClient) -> None:
    assert "results" not in published(redis)["data"]


def test_an_event_lists_as_many_failures_as_there_is_room_for(redis: RedisClient) -> None:
    long = [FailedImage(uri=f"https://example.org/{n}/{'x' * 8192}", code="not_found") for n in range(1022)]
    short = [FailedImage(uri=f"s3://photos/{name}.jpg", code="timeout") for name in "ab"]
    (first, *_), listed = long, bounded_failures([short[0], *long, short[1]])
    # One of the long ones fits; what is left still holds a short one.
    assert listed == (short[0], first, short[1])
    event = json.dumps(published(redis, failed=listed))
    assert MAX_FAILED_BYTES / 2 < len(event) < MAX_FAILED_BYTES + 1024


def test_failures_are_measured_in_bytes_of_json() -> None:
    for character in ("ü", "\N{GRINNING FACE}", "\x01", '"'):
        failures = [FailedImage(uri=character * 100, id=character, code="x") for _ in range(1000)]
        listed = bounded_failures(failures)
        sizes = [len(failure.model_dump_json().encode()) + 1 for failure in (*listed, failures[-1])]
        assert sum(sizes[:-1]) <= MAX_FAILED_BYTES < sum(sizes)
    assert bounded_failures([]) == ()


def test_results_that_travel_in_the_event_come_out_as_they_went_in(redis: RedisClient) -> None:
    (event,) = publish(redis, 0, results=(ROW,))
    ((_, read),) = TopicReader(redis, "g", "c").read()
    assert read == event
