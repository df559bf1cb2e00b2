"""What a worker says of itself is read as it was said, ages by the server's clock, and is forgotten in the end."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from arno_shared import presence
from arno_shared.errors import HouseError
from arno_shared.names import WORKERS, worker_key
from arno_shared.presence import FORGET_AFTER_S, SILENT_AFTER_S, WorkerState, announce, withdraw, workers
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


def state_of(worker: str = "gpu0@here", **fields: Any) -> WorkerState:
    given = {
        "worker": worker,
        "device": "cuda",
        "model": "arno-tiny",
        "revision": "main",
        "dtype": "bfloat16",
        "phase": "working",
        "pid": 12,
        "version": "1.2.3",
        "schema_version": 1,
        "health": "127.0.0.1:8080",
        "started_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "chunks_in_flight": 2,
        "chunks_committed": 3,
        "images_done": 96,
    }
    return WorkerState(**{**given, **fields})


def age(redis: RedisClient, worker: str, seconds: float) -> None:
    """As if the worker had been heard of earlier."""
    redis.zincrby(WORKERS, -seconds, worker)


def test_a_worker_is_seen_as_it_said(redis: RedisClient) -> None:
    state = state_of(ailment="stuck", last_commit_at=datetime(2026, 1, 2, 4, 0, tzinfo=UTC))
    announce(redis, state)
    (seen,) = workers(redis)
    assert (seen.worker, seen.state, seen.silent) == ("gpu0@here", state, False)


def test_what_it_says_last_counts_and_it_is_listed_once(redis: RedisClient) -> None:
    announce(redis, state_of(phase="loading"))
    announce(redis, state_of(phase="working"))
    (seen,) = workers(redis)
    assert seen.state
    assert seen.state.phase == "working"


def test_nobody_is_an_empty_list(redis: RedisClient) -> None:
    assert workers(redis) == []


def test_workers_are_listed_by_name(redis: RedisClient) -> None:
    for name in ("gpu1@b", "gpu0@b", "gpu0@a"):
        announce(redis, state_of(name))
    assert [seen.worker for seen in workers(redis)] == ["gpu0@a", "gpu0@b", "gpu1@b"]


def test_one_that_stops_in_good_order_is_gone(redis: RedisClient) -> None:
    announce(redis, state_of("stays@here"))
    announce(redis, state_of("leaves@here"))
    withdraw(redis, "leaves@here")
    assert [seen.worker for seen in workers(redis)] == ["stays@here"]
    assert not redis.exists(worker_key("leaves@here"))
    withdraw(redis, "never-came@here")


def test_ages_are_by_the_servers_clock(redis: RedisClient, monkeypatch: pytest.MonkeyPatch) -> None:
    # A machine whose clock is wrong, and a worker that says when it started by another clock that is wrong.
    monkeypatch.setattr("time.time", lambda: 0.0)
    announce(redis, state_of(started_at=datetime(1980, 1, 1, tzinfo=UTC)))
    seconds, _ = redis.time()
    assert abs(redis.zscore(WORKERS, "gpu0@here") - seconds) < 60
    (seen,) = workers(redis)
    assert 0 <= seen.seen_s_ago < 60


def test_one_that_says_nothing_more_is_silent_with_its_last_words(redis: RedisClient) -> None:
    announce(redis, state_of(ailment="nothing moved for 300 s"))
    age(redis, "gpu0@here", SILENT_AFTER_S + 1)
    (seen,) = workers(redis)
    assert seen.silent
    assert seen.seen_s_ago > SILENT_AFTER_S
    assert seen.state
    assert seen.state.ailment == "nothing moved for 300 s"


def test_one_that_speaks_again_is_silent_no_more(redis: RedisClient) -> None:
    announce(redis, state_of())
    age(redis, "gpu0@here", SILENT_AFTER_S + 1)
    announce(redis, state_of())
    assert [seen.silent for seen in workers(redis)] == [False]


def test_one_that_is_silent_for_long_is_forgotten(redis: RedisClient) -> None:
    announce(redis, state_of("dead@here"))
    age(redis, "dead@here", FORGET_AFTER_S + 1)
    assert workers(redis) == []
    # The set itself stays small: whoever speaks clears away those who do not.
    announce(redis, state_of("alive@here"))
    assert redis.zrange(WORKERS, 0, -1) == [b"alive@here"]


def test_nothing_stays_behind_when_nobody_speaks_any_more(redis: RedisClient) -> None:
    announce(redis, state_of())
    keys = set(redis.keys("*"))
    assert keys == {WORKERS.encode(), worker_key("gpu0@here").encode()}
    assert all(FORGET_AFTER_S - 60 < redis.ttl(key) <= FORGET_AFTER_S for key in keys)


def test_a_newer_worker_says_more_than_is_understood(redis: RedisClient) -> None:
    said = state_of(schema_version=2).model_dump_json()
    announce(redis, state_of())
    redis.set(worker_key("gpu0@here"), said.replace("{", '{"unheard_of": [1], ', 1))
    (seen,) = workers(redis)
    assert seen.state
    assert seen.state.schema_version == 2


def test_an_older_worker_does_not_say_how_it_computes(redis: RedisClient) -> None:
    announce(redis, state_of())
    redis.set(worker_key("gpu0@here"), state_of().model_dump_json(exclude={"execution"}))
    (seen,) = workers(redis)
    assert seen.state
    assert (seen.state.execution, seen.state.computes) == ("", "")


@pytest.mark.parametrize("said", [None, b"", b"{}", b"\xff", b"[]"])
def test_one_that_cannot_be_understood_is_seen_all_the_same(redis: RedisClient, said: bytes | None) -> None:
    announce(redis, state_of())
    announce(redis, state_of("other@here"))
    if said is None:
        redis.delete(worker_key("gpu0@here"))
    else:
        redis.set(worker_key("gpu0@here"), said)
    assert [(seen.worker, seen.state is None) for seen in workers(redis)] == [
        ("gpu0@here", True),
        ("other@here", False),
    ]


def test_a_full_server_takes_what_workers_say(redis: RedisClient) -> None:
    before = redis.config_get("maxmemory")["maxmemory"]
    redis.config_set("maxmemory", 1)
    try:
        announce(redis, state_of())
        assert len(workers(redis)) == 1
        withdraw(redis, "gpu0@here")
    finally:
        redis.config_set("maxmemory", before)


@pytest.mark.parametrize(
    "call",
    [lambda redis: announce(redis, state_of()), lambda redis: withdraw(redis, "gpu0@here"), presence.workers],
    ids=["announce", "withdraw", "workers"],
)
def test_redis_away_is_an_error_of_the_house(call: Any, free_tcp_port: int) -> None:
    with connect(Settings(redis_url=f"redis://:hush@127.0.0.1:{free_tcp_port}/0")) as nobody:
        with pytest.raises(HouseError, match="Redis cannot be used") as away:
            call(nobody)
        assert "hush" not in str(away.value)
