"""A reader that falls behind is told how many events it misses, and how far behind it is."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from structlog.testing import capture_logs

from arno_shared.names import TOPIC
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from arno_shared.topic import Lag, TopicReader
from tests.servers import Valkey
from tests.shared.test_topic import NOT_YET, ids, indices, publish


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


def trim(redis: RedisClient, left: int) -> None:
    redis.xtrim(TOPIC, maxlen=left, approximate=False)


def read_all(*readers: TopicReader) -> list[int]:
    """In turns, until none gets any more; nothing is acknowledged."""
    got: list[int] = []
    while events := [event for reader in readers for event in reader.read(count=7, block_s=NOT_YET)]:
        got += indices(events)
    return got


def add_many(redis: RedisClient, events: int) -> None:
    """Publishes one, and copies of it."""
    publish(redis, 0)
    ((_, fields),) = redis.xrevrange(TOPIC, count=1)
    with redis.pipeline() as step:
        for _ in range(events - 1):
            step.xadd(TOPIC, fields)
        step.execute()


@pytest.mark.parametrize("begun", [False, True])
def test_a_reader_gets_what_is_left_and_knows_how_much_it_missed(redis: RedisClient, begun: bool) -> None:
    reader = TopicReader(redis, "g", "c")
    if begun:
        assert reader.read(block_s=NOT_YET) == []
    add_many(redis, 600)
    trim(redis, 6)
    with capture_logs() as logs:
        assert len(read_all(reader)) == 6
    assert reader.lost == 594
    assert [line["event"] for line in logs] == [
        "594 events were trimmed before this group read them: the results are in storage"
    ]
    assert reader.lag() == Lag(waiting=0, pending=6, lost=594)


def test_losses_add_up(redis: RedisClient) -> None:
    reader, seen = TopicReader(redis, "g", "c"), 0
    for round in range(5):
        publish(redis, *range(round * 20, round * 20 + 20))
        trim(redis, 12)
        seen += len(reader.read(count=5))
        assert reader.lag().waiting == 7
        # All that was not seen, but for the 7 that still wait.
        assert reader.lost == (round + 1) * 20 - seen - 7
    assert seen == 25


def test_what_was_trimmed_after_the_group_had_it_is_no_loss(redis: RedisClient) -> None:
    reader = TopicReader(redis, "g", "c")
    for round in range(3):
        publish(redis, *range(round * 10, round * 10 + 10))
        reader.ack(ids(reader.read()))
        trim(redis, round)
        assert reader.read(block_s=NOT_YET) == []
    assert reader.lost == 0


def test_consumers_of_a_group_share_its_losses(redis: RedisClient) -> None:
    readers = [TopicReader(redis, "g", name) for name in "abcd"]
    others = TopicReader(redis, "others", "a")
    barrier, published, got = Barrier(4), 0, 0

    def read(reader: TopicReader) -> int:
        barrier.wait()
        return len(reader.read(count=3, block_s=NOT_YET))

    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            publish(redis, *range(published, published + 20))
            published += 20
            trim(redis, 15)
            got += sum(threads.map(read, readers))
    assert got == 240
    assert sum(reader.lost or 0 for reader in readers) + got + (readers[0].lag().waiting or 0) == published
    # Of all rounds together, it has seen the end of the last.
    assert len(read_all(others)) == 15
    assert others.lost == published - 15


def test_a_group_that_begins_with_what_is_new_has_lost_nothing(redis: RedisClient) -> None:
    publish(redis, *range(20))
    trim(redis, 5)
    reader = TopicReader(redis, "g", "c", from_start=False)
    assert reader.lag() == Lag(0, 0, 0)
    assert reader.read(block_s=NOT_YET) == []
    publish(redis, 20, 21)
    assert reader.lag() == Lag(2, 0, 0)
    assert indices(reader.read()) == [20, 21]
    assert reader.lost == 0
    publish(redis, *range(22, 32))
    trim(redis, 4)
    assert indices(reader.read()) == [28, 29, 30, 31]
    assert reader.lost == 6


@pytest.mark.parametrize("start", ["0", "$"])
def test_a_group_that_somebody_else_made_is_counted_as_well(redis: RedisClient, start: str) -> None:
    publish(redis, *range(10))
    redis.xgroup_create(TOPIC, "g", id=start)
    publish(redis, *range(10, 20))
    trim(redis, 4)
    reader = TopicReader(redis, "g", "c")
    assert indices(reader.read()) == [16, 17, 18, 19]
    # In the middle of a stream, servers do not know how many came before.
    assert reader.lost == {"0": 16, "$": None}[start]


def test_events_deleted_from_the_middle_make_no_wrong_number(redis: RedisClient) -> None:
    publish(redis, *range(10))
    entries = [entry_id for entry_id, _ in redis.xrange(TOPIC)]
    redis.xdel(TOPIC, entries[0], entries[7])
    reader = TopicReader(redis, "g", "c")
    with capture_logs() as logs:
        assert indices(reader.read()) == [1, 2, 3, 4, 5, 6, 8, 9]
        reader.read(block_s=NOT_YET)
    assert [line["event"] for line in logs] == ["the server cannot tell how many events this group has missed"]
    assert reader.lost is None
    assert reader.lag() == Lag(0, 8, None)


def test_a_topic_that_was_deleted_and_made_again_is_read_from_its_beginning(redis: RedisClient) -> None:
    reader = TopicReader(redis, "g", "c", from_start=False)
    assert reader.read(block_s=NOT_YET) == []
    publish(redis, *range(10))
    assert len(reader.read()) == 10
    redis.flushall()
    assert reader.lag() == Lag(0, 0, 0)
    publish(redis, *range(5))
    assert reader.lag() == Lag(5, 0, 0)
    assert indices(reader.read()) == [0, 1, 2, 3, 4]
    assert reader.lost == 0


def test_all_may_be_gone(redis: RedisClient) -> None:
    reader = TopicReader(redis, "g", "c")
    publish(redis, 0, 1, 2)
    assert indices(reader.read(count=1)) == [0]
    trim(redis, 0)
    assert reader.read(block_s=NOT_YET) == []
    assert reader.lost == 2
    publish(redis, 3)
    assert indices(reader.read()) == [3]
    assert reader.lost == 2


def test_what_was_given_to_one_that_died_and_trimmed_is_lost_and_no_longer_pending(redis: RedisClient) -> None:
    publish(redis, *range(10))
    TopicReader(redis, "g", "dead").read(count=8)
    trim(redis, 4)
    # While it may still be at work, nothing is lost.
    patient = TopicReader(redis, "g", "b", stale_s=3600)
    assert indices(patient.read()) == [8, 9]
    assert patient.lag() == Lag(0, 10, 0)
    heir = TopicReader(redis, "g", "c", stale_s=0)
    with capture_logs() as logs:
        assert indices(heir.read(count=100)) == [6, 7, 8, 9]
    assert heir.lost == 6
    assert heir.lag() == Lag(0, 4, 6)
    assert "6 events were trimmed before" in logs[0]["event"]


def test_lag_is_known_before_anything_was_read(redis: RedisClient) -> None:
    reader = TopicReader(redis, "g", "c")
    assert reader.lag() == Lag(0, 0, 0)
    publish(redis, 0, 1, 2)
    assert reader.lag() == Lag(3, 0, 0)
    read = reader.read(count=2)
    assert reader.lag() == Lag(1, 2, 0)
    reader.ack(ids(read))
    assert reader.lag() == Lag(1, 0, 0)


def test_full_memory_keeps_nobody_from_reading() -> None:
    with Valkey() as valkey, connect(Settings(redis_url=valkey.url)) as redis:
        reader = TopicReader(redis, "g", "c", stale_s=0)
        publish(redis, *range(10))
        assert len(reader.read(count=2)) == 2
        trim(redis, 3)
        valkey.config_set("maxmemory", 1)
        assert indices(reader.read()) == [7, 8, 9]
        assert indices(reader.read()) == [7, 8, 9]
        assert reader.lost == 7
