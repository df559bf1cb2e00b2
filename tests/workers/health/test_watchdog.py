"""A worker in which nothing moves is ailing, and then ended; one that is at work, idle or waiting is neither."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from arno_shared.delivery.hands import Hands
from arno_shared.errors import HouseError
from arno_shared.names import UNACKED, Lane, queues
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from arno_workers.health import vitals as vitals_module
from arno_workers.health import watchdog as watchdog_module
from arno_workers.health.vitals import Phase, Vitals
from arno_workers.health.watchdog import EXIT_STUCK, Watchdog
from tests.workers.health import stuck_worker

STUCK_S = 300.0


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


class Watched:
    """A worker's watchdog, in a time that the test lets pass."""

    def __init__(self, redis: RedisClient, monkeypatch: pytest.MonkeyPatch, *, with_hands: bool = True) -> None:
        self.now_s = 1000.0
        for module in (vitals_module, watchdog_module):
            monkeypatch.setattr(module, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(watchdog_module.os, "_exit", lambda code: pytest.fail(f"it ended with {code}"))
        self.redis = redis
        self.hands = Hands(redis, worker="w", key_prefix="", lease_s=60, lease_max_s=900, max_letters=10)
        self.vitals = Vitals()
        self.vitals.phase = Phase.WORKING
        self.busy_s = 0.0
        self.watchdog = Watchdog(
            self.vitals,
            self.hands if with_hands else None,
            stuck_s=STUCK_S,
            answer_s=0.0,
            room_chunks=2,
            busy_s=lambda: self.busy_s,
            waiting=lambda: int(redis.llen(Lane.BULK.queue)),
        )
        self.watchdog._look()

    def after(self, seconds: float) -> str:
        """What ails the worker then, the watchdog having looked every second."""
        for _ in range(int(seconds)):
            self.now_s += 1
            self.watchdog._look()
        return self.vitals.ailment


@pytest.fixture
def watched(redis: RedisClient, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(redis, monkeypatch)


def send(redis: RedisClient, number: int = 1) -> None:
    for _ in range(number):
        redis.lpush(Lane.BULK.queue, '{"properties": {"delivery_tag": "t"}}')


# Nothing moves


def test_a_chunk_in_which_nothing_moves_is_an_ailment_before_it_is_the_end(watched: Watched) -> None:
    with watched.vitals.chunk():
        assert watched.after(STUCK_S / 2 - 1) == ""
        assert watched.after(2) == "nothing has moved for 151 s, with 1 chunks in hand"


@pytest.mark.parametrize("sign", ["an image settled", "the device worked", "a chunk ended"])
def test_any_sign_of_life_heals(sign: str, watched: Watched) -> None:
    with ExitStack() as chunks:
        for _ in range(2):
            chunks.enter_context(watched.vitals.chunk())
        assert watched.after(STUCK_S - 10)
        if sign == "an image settled":
            watched.vitals.progressed()
        elif sign == "the device worked":
            watched.busy_s += 0.001
        else:
            chunks.pop_all().__exit__(None, None, None)
        assert watched.after(1) == ""
        assert watched.after(STUCK_S / 2 - 2) == ""


def test_an_idle_worker_is_well_for_ever_and_has_its_whole_time_when_work_comes(watched: Watched) -> None:
    assert watched.after(5 * STUCK_S) == ""
    with watched.vitals.chunk():
        assert watched.after(STUCK_S / 2 - 1) == ""
        assert watched.after(2)


def test_a_replica_may_take_long_to_load(watched: Watched) -> None:
    watched.vitals.phase = Phase.LOADING
    send(watched.redis)
    assert watched.after(5 * STUCK_S) == ""


# The consumer is silent


def test_a_consumer_that_takes_nothing_while_messages_wait_is_an_ailment_sooner(watched: Watched) -> None:
    send(watched.redis)
    assert watched.after(30) == ""
    assert watched.after(2) == "messages wait, and none was taken for 31 s"


def test_a_consumer_that_takes_what_comes_is_well_though_more_waits_always(watched: Watched) -> None:
    send(watched.redis, 100)
    for _ in range(20):
        assert watched.after(25) == ""
        assert watched.hands.claim(queues(1))


def test_a_worker_with_chunks_and_room_may_be_deaf_as_well(watched: Watched) -> None:
    send(watched.redis)
    with watched.vitals.chunk():
        for _ in range(40):
            watched.vitals.progressed()
            watched.after(1)
        assert "messages wait" in watched.vitals.ailment


def test_a_worker_that_is_full_takes_nothing_and_is_well(watched: Watched) -> None:
    send(watched.redis)
    with watched.vitals.chunk(), watched.vitals.chunk():
        for _ in range(100):
            watched.vitals.progressed()
            assert watched.after(1) == ""


def test_a_worker_that_stops_takes_nothing_and_is_well(watched: Watched) -> None:
    watched.vitals.phase = Phase.DRAINING
    send(watched.redis)
    assert watched.after(200) == ""


def test_without_messages_nothing_is_to_be_taken(watched: Watched) -> None:
    assert watched.after(50) == ""
    send(watched.redis)
    assert watched.after(30) == ""
    watched.redis.delete(Lane.BULK.queue)
    assert watched.after(30) == ""
    send(watched.redis)
    assert watched.after(30) == "", "it waits anew"


def test_a_server_that_is_away_is_not_the_consumers_silence(watched: Watched) -> None:
    send(watched.redis)

    def away() -> int:
        raise HouseError("away")

    watched.watchdog._waiting = away
    assert watched.after(500) == ""


def test_a_server_that_counts_messages_and_lets_nobody_take_any_is_not_the_consumers_silence(watched: Watched) -> None:
    send(watched.redis)
    for _ in range(100):
        # It asks every few seconds, and is refused.
        watched.vitals.consumer_refused("Not enough good replicas to write.")
        assert watched.after(6) == ""
    watched.vitals.consumer_beat()
    assert watched.after(30) == ""
    assert watched.after(2) == "messages wait, and none was taken for 31 s", "it may take them again, and does not"


def test_a_consumer_that_asks_no_more_after_it_was_refused_is_silent(watched: Watched) -> None:
    send(watched.redis)
    watched.vitals.consumer_refused("Not enough good replicas to write.")
    assert watched.after(40) == ""
    assert "messages wait" in watched.after(30)


def test_with_the_stock_transport_nobody_counts_claims(redis: RedisClient, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(redis, monkeypatch, with_hands=False)
    send(redis)
    assert watched.after(500) == ""
    with watched.vitals.chunk():
        assert watched.after(200)


# The end


@pytest.fixture
def ended(valkey_url: str, redis: RedisClient) -> Callable[..., subprocess.CompletedProcess[str]]:
    """How a process that is stuck in that way ended. It held two messages."""

    def run(way: str, stuck_s: float = 1) -> subprocess.CompletedProcess[str]:
        send(redis, 2)
        script = Path(stuck_worker.__file__)
        return subprocess.run(
            [sys.executable, str(script), valkey_url, way, str(stuck_s)], capture_output=True, text=True, timeout=120
        )

    return run


@pytest.mark.parametrize("way", ["device", "consumer"])
def test_a_stuck_worker_ends_says_where_and_gives_back(
    way: str, ended: Callable[..., subprocess.CompletedProcess[str]], redis: RedisClient
) -> None:
    done = ended(way)
    assert done.returncode == EXIT_STUCK == 75
    assert "Thread 0x" in done.stderr
    assert "signal.pause" in done.stderr or "in stuck" in done.stderr
    assert "the worker is stuck" in done.stdout + done.stderr
    assert (redis.llen(Lane.BULK.queue), redis.hlen(UNACKED)) == (2, 0)


def test_native_code_that_lets_no_thread_in_ends_the_worker_too(
    ended: Callable[..., subprocess.CompletedProcess[str]], redis: RedisClient
) -> None:
    done = ended("native code")
    assert done.returncode == 1
    assert "in stuck" in done.stderr
    assert (redis.llen(Lane.BULK.queue), redis.hlen(UNACKED)) == (0, 2), "they come back when their lease is over"


def test_a_server_that_is_frozen_does_not_keep_a_stuck_worker_alive(
    ended: Callable[..., subprocess.CompletedProcess[str]], redis: RedisClient
) -> None:
    # Long enough for giving back to be given up before native code is suspected.
    assert ended("server frozen", stuck_s=6).returncode == EXIT_STUCK
    assert redis.hlen(UNACKED) == 2


@pytest.mark.parametrize("way", stuck_worker.HARMLESS)
def test_a_worker_that_is_not_stuck_lives(way: str, ended: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert ended(way).returncode == 0
