"""Where storage cannot write conditionally, a lock lets one look and write at a time, and what it wrote stands."""

import errno
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from time import monotonic, sleep

import pytest

from arno_shared.errors import HouseError, StorageRefused
from arno_shared.names import write_lock
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from arno_shared.storage import ObjectStore
from arno_shared.storage.arbiter import RedisArbiter
from arno_shared.uris import file_uri
from tests.faults.proxy import TcpProxy
from tests.servers import Valkey, free_port, make_bucket

URI = "s3://bucket/run/part"
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def _found_by_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They import this module by its name, and are told where the tests' own process looks."""
    monkeypatch.syspath_prepend(Path(__file__).parents[3])


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


def until_told(store: ObjectStore, uri: str, data: bytes) -> bool:
    """As callers do it: what may pass is tried again."""
    give_up_s = monotonic() + 60
    while True:
        try:
            return store.put_new(uri, data, "text/plain")
        except HouseError:
            assert monotonic() < give_up_s


def await_true(condition: Callable[[], object]) -> None:
    give_up_s = monotonic() + 30
    while not condition():
        assert monotonic() < give_up_s
        sleep(0.002)


# -- many at once ------------------------------------------------------------------------------------------------------


def put_all(url: str, uris: list[str], first: int, writers: int, ready: Barrier, answers: "Queue[object]") -> None:
    """A process: its threads put every object, at the same moment as those of the other, each with its own number."""
    with connect(Settings(redis_url=url)) as client, ThreadPoolExecutor(writers) as threads:
        store = ObjectStore(arbiter=RedisArbiter(client))

        def put(number: int, uri: str) -> bool:
            ready.wait(60)
            return until_told(store, uri, b"%d" % number)

        for uri in uris:
            told = list(threads.map(lambda number, uri=uri: put(number, uri), range(first, first + writers)))
            answers.put((uri, [first + at for at, wrote in enumerate(told) if wrote]))


def uris_of(known: bool, rounds: int) -> list[str]:
    """In one bucket, or each in one of which nothing is known yet."""
    bucket = make_bucket()
    return [f"s3://{bucket if known else make_bucket()}/run/part-{n}" for n in range(rounds)]


@pytest.mark.parametrize("known", [True, False])
def test_of_two_processes_with_many_threads_one_writes(known: bool, rclone_s3: str, valkey_url: str) -> None:
    uris, writers = uris_of(known, 20), 2
    ready, answers = SPAWN.Barrier(2 * writers), SPAWN.Queue()
    processes = [
        SPAWN.Process(target=put_all, args=(valkey_url, uris, n * writers, writers, ready, answers)) for n in range(2)
    ]
    for process in processes:
        process.start()
    wrote: dict[str, list[int]] = {}
    for _ in range(2 * len(uris)):
        uri, numbers = answers.get(timeout=120)
        wrote.setdefault(uri, []).extend(numbers)
    for process in processes:
        process.join(30)
    store = ObjectStore()
    assert {uri: [b"%d" % number for number in numbers] for uri, numbers in wrote.items()} == {
        uri: [store.get(uri)] for uri in uris
    }


def test_of_many_at_once_one_writes_a_file_where_there_are_no_links(
    redis: RedisClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    stores = [ObjectStore(arbiter=RedisArbiter(redis)) for _ in range(2)]
    with ThreadPoolExecutor(4) as threads:
        for number in range(10):
            uri = file_uri(tmp_path / f"part-{number}")
            told = list(threads.map(lambda n, uri=uri: until_told(stores[n % 2], uri, b"%d" % n), range(4)))
            assert sum(told) == 1
            assert stores[0].get(uri) == b"%d" % told.index(True)


# -- one that is slow, or dies -----------------------------------------------------------------------------------------


def test_nobody_comes_in_while_a_slow_one_writes(
    redis: RedisClient, rclone_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = rclone_s3.removeprefix("http://").split(":")
    uri = f"s3://{make_bucket()}/run/part"
    other = ObjectStore(arbiter=RedisArbiter(redis, wait_s=0))
    assert other.conditional_writes(uri.removesuffix("part")) is False
    data = bytes(600_000)
    with TcpProxy(host, int(port)) as proxy, ThreadPoolExecutor(1) as thread:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://{}:{}".format(*proxy.address))
        slow = ObjectStore(arbiter=RedisArbiter(redis))
        assert slow.conditional_writes(uri.removesuffix("part")) is False
        proxy.slow(300_000)
        writing = thread.submit(slow.put_new, uri, data, "text/plain")
        await_true(lambda: redis.exists(write_lock(uri)))
        with pytest.raises(HouseError, match="another writes"):
            other.put_new(uri, b"theirs", "text/plain")
        assert until_told(other, uri, b"theirs") is False
        assert writing.result() is True
    assert other.get(uri) == data


def write_and_die(url: str) -> None:
    with connect(Settings(redis_url=url)) as client:
        RedisArbiter(client, life_s=2).write_new(URI, b"ours", lambda: False, lambda: os._exit(9))


def test_the_lock_of_one_that_died_runs_out(valkey_url: str, redis: RedisClient) -> None:
    process = SPAWN.Process(target=write_and_die, args=(valkey_url,))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert 0 < redis.pttl(write_lock(URI)) <= 2000
    with pytest.raises(HouseError, match="another writes"):
        RedisArbiter(redis, wait_s=0).write_new(URI, b"theirs", lambda: False, lambda: True)
    assert RedisArbiter(redis, wait_s=30).write_new(URI, b"theirs", lambda: False, lambda: True) is True


def test_a_write_whose_end_was_not_seen_keeps_all_others_out(redis: RedisClient) -> None:
    ours, theirs = RedisArbiter(redis, wait_s=0), RedisArbiter(redis, wait_s=0)

    def lose_the_answer() -> bool:
        raise HouseError("no answer")

    with pytest.raises(HouseError, match="no answer"):
        ours.write_new(URI, b"ours", lambda: False, lose_the_answer)
    for arbiter, data in ((theirs, b"ours"), (theirs, b"theirs"), (ours, b"other")):
        with pytest.raises(HouseError, match="another writes"):
            arbiter.write_new(URI, data, lambda: False, lambda: True)
    with ThreadPoolExecutor(1) as thread, pytest.raises(HouseError, match="another writes"):
        thread.submit(ours.write_new, URI, b"ours", lambda: False, lambda: True).result()
    # The same bytes do no harm, whichever arrive last.
    assert ours.write_new(URI, b"ours", lambda: False, lambda: True) is True
    assert theirs.write_new(URI, b"theirs", lambda: True, lambda: True) is False


def test_a_write_that_was_refused_lets_others_in_at_once(redis: RedisClient) -> None:
    def refuse() -> bool:
        raise StorageRefused("no such bucket")

    with pytest.raises(StorageRefused):
        RedisArbiter(redis).write_new(URI, b"ours", lambda: False, refuse)
    with pytest.raises(StorageRefused):
        RedisArbiter(redis).write_new(URI, b"ours", refuse, lambda: True)
    assert not redis.exists(write_lock(URI))


def test_a_write_that_outlived_its_lock_is_not_reported(redis: RedisClient) -> None:
    def outlive() -> bool:
        await_true(lambda: not redis.exists(write_lock(URI)))
        return True

    with pytest.raises(HouseError, match="longer than its lock lives"):
        RedisArbiter(redis, life_s=0.05).write_new(URI, b"ours", lambda: False, outlive)


def test_who_lost_the_lock_while_it_looked_does_not_write(redis: RedisClient) -> None:
    def another_comes_and_goes() -> bool:
        await_true(lambda: not redis.exists(write_lock(URI)))
        return not RedisArbiter(redis).write_new(URI, b"theirs", lambda: False, lambda: True)

    with pytest.raises(HouseError, match="longer than its lock lives"):
        RedisArbiter(redis, life_s=0.05).write_new(URI, b"ours", another_comes_and_goes, pytest.fail)


def test_who_lost_the_lock_to_one_that_still_writes_does_not_write(redis: RedisClient) -> None:
    def another_comes() -> bool:
        await_true(lambda: not redis.exists(write_lock(URI)))
        redis.set(write_lock(URI), "another's")
        return False

    with pytest.raises(HouseError, match="longer than its lock lives"):
        RedisArbiter(redis, life_s=0.05).write_new(URI, b"ours", another_comes, pytest.fail)
    assert redis.ttl(write_lock(URI)) == -1


def test_a_lock_is_not_let_go_by_who_no_longer_has_it(redis: RedisClient) -> None:
    def outlive() -> bool:
        await_true(lambda: not redis.exists(write_lock(URI)))
        redis.set(write_lock(URI), "another's")
        return True

    with pytest.raises(HouseError):
        RedisArbiter(redis, life_s=0.05).write_new(URI, b"ours", lambda: False, outlive)
    assert redis.get(write_lock(URI)) == b"another's"


# -- Redis -------------------------------------------------------------------------------------------------------------


def test_full_memory_keeps_nobody_from_writing() -> None:
    """What workers write and commit is what frees it."""
    with Valkey() as valkey, connect(Settings(redis_url=valkey.url)) as redis:
        valkey.config_set("maxmemory", 1)
        assert RedisArbiter(redis).write_new(URI, b"ours", lambda: False, lambda: True) is True


@pytest.fixture
def without_redis() -> Iterator[RedisArbiter]:
    with connect(Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0")) as client:
        yield RedisArbiter(client)


def test_without_redis_nothing_is_written(without_redis: RedisArbiter, rclone_s3: str) -> None:
    store, uri = ObjectStore(arbiter=without_redis), f"s3://{make_bucket()}/run/part"
    with pytest.raises(HouseError, match="Redis"):
        store.put_new(uri, b"x", "text/plain")
    assert not store.exists(uri)


def test_storage_that_writes_conditionally_needs_no_redis(
    without_redis: RedisArbiter, moto_s3: str, tmp_path: Path
) -> None:
    store, prefix = ObjectStore(arbiter=without_redis), f"s3://{make_bucket()}/run/"
    assert store.conditional_writes(prefix) is True
    for uri in (f"{prefix}part", file_uri(tmp_path / "part")):
        assert store.put_new(uri, b"first", "text/plain") is True
        assert store.put_new(uri, b"second", "text/plain") is False
