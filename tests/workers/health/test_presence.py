"""A worker's entry in Redis follows the worker, outlives outages, and leaves with it."""

from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from arno_shared import __version__
from arno_shared.messages import SCHEMA_VERSION
from arno_shared.presence import SeenWorker, WorkerState, workers
from arno_shared.redis_client import RedisClient, connect
from arno_shared.results import ModelFacts
from arno_shared.settings import BrokerSettings, Settings
from arno_workers.health import presence as presence_module
from arno_workers.health.presence import Presence
from arno_workers.health.vitals import Phase, Vitals
from tests.acceptance.arno_worker import eventually
from tests.servers import valkey_server

ASKED = ModelFacts(id="s3://key:hush@models/large", revision="main", dtype="auto")


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "SAY_EVERY_S", 0.05)


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


@pytest.fixture
def present() -> Iterator[Callable[[RedisClient, Vitals], Presence]]:
    """Starts a worker's presence; it ends with the test."""
    started: list[Presence] = []

    def start(redis: RedisClient, vitals: Vitals) -> Presence:
        presence = Presence(redis, vitals, worker="cpu0@here", device="cpu", model=ASKED, health="127.0.0.1:1")
        presence.start()
        started.append(presence)
        return presence

    yield start
    for presence in started:
        presence.stop()


def said(redis: RedisClient, condition: Callable[[WorkerState], Any], what: str) -> WorkerState:
    """What the worker says once the condition holds."""

    def state() -> WorkerState | None:
        return next((seen.state for seen in workers(redis) if seen.state and condition(seen.state)), None)

    found: WorkerState = eventually(state, what)
    return found


def test_a_worker_is_there_before_its_replica_is_loaded(
    redis: RedisClient, present: Callable[[RedisClient, Vitals], Presence]
) -> None:
    vitals = Vitals()
    present(redis, vitals)
    state = said(redis, lambda state: True, "the worker is there")
    assert (state.worker, state.device, state.phase, state.health) == ("cpu0@here", "cpu", "loading", "127.0.0.1:1")
    assert (state.model, state.revision, state.dtype) == ("s3://***@models/large", "main", "auto")
    assert state.execution == ""
    assert (state.version, state.schema_version, state.started_at) == (__version__, SCHEMA_VERSION, vitals.started_at)
    assert state.pid == psutil.Process().pid


def test_what_it_says_follows_what_it_does(
    redis: RedisClient, present: Callable[[RedisClient, Vitals], Presence]
) -> None:
    vitals = Vitals()
    presence = present(redis, vitals)
    presence.model = ModelFacts(id="arno-large", revision="abc", dtype="bfloat16")
    presence.execution = lambda: "triton, graphs"
    vitals.phase = Phase.WORKING
    with vitals.chunk():
        working = said(redis, lambda state: state.chunks_in_flight, "a chunk is in flight")
    assert (working.phase, working.chunks_in_flight) == ("working", 1)
    assert (working.model, working.revision, working.dtype) == ("arno-large", "abc", "bfloat16")
    assert working.execution == "triton, graphs"
    vitals.committed(32)
    done = said(redis, lambda state: state.images_done, "images are done")
    assert (done.chunks_committed, done.images_done, done.last_commit_at) == (1, 32, vitals.last_commit_at)
    vitals.ailment = "stuck at redis://:hush@house"
    assert said(redis, lambda state: state.ailment, "it ails").ailment == "stuck at redis://***@house"
    vitals.phase = Phase.DRAINING
    said(redis, lambda state: state.phase == "draining", "it drains")


def test_an_error_that_it_tells_of_is_one_short_line_without_secrets(
    redis: RedisClient, present: Callable[[RedisClient, Vitals], Presence]
) -> None:
    presence = present(redis, Vitals())
    words = "plain, without graphs: s3://key:hush@models/large:\n  out of memory\r\n" + "x" * 1000
    presence.execution = lambda: words
    state = said(redis, lambda state: state.execution, "it computes")
    assert state.execution.startswith("plain, without graphs: s3://***@models/large: out of memory xxx")
    assert len(state.execution) == 300


def test_a_worker_that_stops_takes_its_leave(
    redis: RedisClient, present: Callable[[RedisClient, Vitals], Presence]
) -> None:
    presence = present(redis, Vitals())
    said(redis, lambda state: True, "the worker is there")
    presence.stop()
    assert workers(redis) == []
    presence.stop()


def test_redis_that_is_away_is_outlived_and_logged_once(
    present: Callable[[RedisClient, Vitals], Presence],
) -> None:
    impatient = BrokerSettings(socket_timeout_s=0.1)
    with (
        valkey_server() as url,
        connect(Settings(redis_url=url)) as redis,
        connect(Settings(redis_url=url, broker=impatient)) as its_own,
        capture_logs() as logs,
    ):
        vitals = Vitals()
        presence = present(its_own, vitals)
        said(redis, lambda state: True, "the worker is there")
        tries = _count_tries(presence)
        valkey = psutil.Process(int(redis.info()["process_id"]))
        valkey.suspend()
        try:
            before = len(tries)
            eventually(lambda: len(tries) > before + 3, "it tried several times in vain")
            assert [line["log_level"] for line in logs] == ["warning"]
            assert "Redis cannot be used" in logs[0]["error"]
        finally:
            valkey.resume()
        vitals.phase = Phase.WORKING
        said(redis, lambda state: state.phase == "working", "it is heard again")
        eventually(lambda: len(logs) == 2, "so is the log")
        assert logs[1]["log_level"] == "info"
        presence.stop()
        assert list(workers(redis)) == []


def _count_tries(presence: Presence) -> list[None]:
    """Grows with each time that the worker says, or tries to say, how it is."""
    tries: list[None] = []
    look = presence._state

    def counted() -> WorkerState:
        tries.append(None)
        return look()

    presence._state = counted  # type: ignore[method-assign]
    return tries


def test_a_stop_does_not_wait_for_redis(
    present: Callable[[RedisClient, Vitals], Presence], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "_LEAVE_WITHIN_S", 0.1)
    with valkey_server() as url, connect(Settings(redis_url=url)) as redis:
        presence = present(redis, Vitals())
        seen: list[SeenWorker] = eventually(lambda: workers(redis), "the worker is there")
        valkey = psutil.Process(int(redis.info()["process_id"]))
        valkey.suspend()
        try:
            presence.stop()
            assert presence._thread.is_alive()
        finally:
            valkey.resume()
        eventually(lambda: not presence._thread.is_alive(), "the leave was taken late")
        assert [one.worker for one in seen] == ["cpu0@here"]
        assert workers(redis) == []
