"""The faults do what they say, and no more: what finds nothing lost under them must have been under them."""

import http.client
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import pytest
import redis as redis_py
from redis.backoff import NoBackoff
from redis.retry import Retry

from arno_shared.errors import HouseError
from arno_shared.redis_client import connect, redis_away
from arno_shared.settings import Settings
from tests import servers
from tests.acceptance.arno_worker import eventually
from tests.faults.proxy import TcpProxy

SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 50\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message/></Error>    "
)


@pytest.fixture
def proxy(valkey_url: str) -> Iterator[TcpProxy]:
    """Before a Valkey."""
    with TcpProxy("127.0.0.1", urlsplit(valkey_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
def bucket(rclone_s3: str, _rclone_folder: Path) -> Path:
    """A bucket's folder on a server that expects signatures; its name is that of the folder."""
    folder = _rclone_folder / servers.make_bucket()
    assert folder.is_dir()
    return folder


@pytest.fixture
def s3_proxy(rclone_s3: str) -> Iterator[TcpProxy]:
    """Before an S3 server."""
    with TcpProxy("127.0.0.1", urlsplit(rclone_s3).port or 0) as proxy:
        yield proxy


def client(proxy: TcpProxy, timeout_s: float = 10) -> redis_py.Redis:
    """It tries nothing again."""
    host, port = proxy.address
    return redis_py.Redis(host, port, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0))


def connected(proxy: TcpProxy) -> socket.socket:
    """A connection that has reached the server."""
    connection = socket.create_connection(proxy.address, timeout=10)
    connection.sendall(b"PING\r\n")
    assert connection.recv(100) == b"+PONG\r\n"
    return connection


def s3_client(proxy: TcpProxy, tries: int = 1):
    import boto3
    from botocore.config import Config

    retries = {"total_max_attempts": tries, "mode": "standard"}
    config = Config(s3={"addressing_style": "path"}, retries=retries)  # type: ignore[arg-type]
    return boto3.client("s3", endpoint_url="http://{}:{}".format(*proxy.address), config=config)


def away(client: redis_py.Redis) -> bool:
    try:
        return not client.ping()
    except redis_py.ConnectionError:
        return True


def test_without_faults_all_passes_on_hundreds_of_connections(proxy: TcpProxy) -> None:
    text = "x" * 300_000

    def writes_and_reads(number: int) -> bool:
        with client(proxy, timeout_s=60) as redis:
            redis.set(f"key{number}", text)
            return redis.get(f"key{number}") == text.encode()

    with ExitStack() as stack:
        idle = [stack.enter_context(client(proxy, timeout_s=60)) for _ in range(300)]
        assert all(redis.ping() for redis in idle)
        with ThreadPoolExecutor(20) as pool:
            assert all(pool.map(writes_and_reads, range(40)))
    assert proxy.connections == 340


def test_a_cut_resets_what_is_there_and_nothing_else(proxy: TcpProxy) -> None:
    with ExitStack() as stack:
        there = [stack.enter_context(connected(proxy)) for _ in range(20)]
        proxy.cut()
        for connection in there:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        with client(proxy) as redis:
            assert redis.ping()


def test_refused_connections_are_refused_and_the_others_stay(proxy: TcpProxy) -> None:
    with client(proxy) as stays:
        stays.ping()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(proxy.address)
        assert stays.ping()
        proxy.accept()
        with client(proxy) as redis:
            assert redis.ping()


def test_a_frozen_connection_is_open_and_silent_and_loses_nothing(proxy: TcpProxy, valkey_url: str) -> None:
    with client(proxy, timeout_s=0.2) as redis, redis_py.Redis.from_url(valkey_url) as beside:
        redis.ping()
        with connected(proxy) as connection:
            proxy.freeze()
            connection.sendall(b"SET late value\r\n")
            with pytest.raises(redis_py.TimeoutError):
                redis.ping()
            assert not beside.exists("late")
            proxy.thaw()
            assert connection.recv(100) == b"+OK\r\n"
        assert redis.ping()


def test_what_is_frozen_can_be_cut(proxy: TcpProxy) -> None:
    with connected(proxy) as connection:
        proxy.freeze()
        connection.sendall(b"PING\r\n")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def took_s(work: Callable[[], object]) -> float:
    began_s = monotonic()
    work()
    return monotonic() - began_s


def test_a_delay_is_added_in_each_direction(proxy: TcpProxy) -> None:
    with client(proxy) as redis:
        redis.ping()
        proxy.delay(0.15)
        assert took_s(redis.ping) >= 0.3
        proxy.delay(0)
        assert redis.ping()


def test_a_slow_connection_carries_so_many_bytes_a_second(proxy: TcpProxy, valkey_url: str) -> None:
    with client(proxy) as redis:
        redis.set("key", "x" * 20_000)
        proxy.slow(bytes_per_s=50_000)
        assert took_s(lambda: redis.get("key")) >= 0.38


def test_a_request_whose_answer_is_lost_was_done_all_the_same(proxy: TcpProxy, valkey_url: str) -> None:
    with client(proxy) as redis, redis_py.Redis.from_url(valkey_url) as beside:
        proxy.drop_answers(b"INCR")
        assert redis.ping()
        with pytest.raises(redis_py.ConnectionError):
            redis.incr("n")
        assert beside.get("n") == b"1"
        assert proxy.matched == 1
        assert redis.ping()


def test_an_answer_is_lost_as_often_as_is_said(proxy: TcpProxy) -> None:
    with client(proxy) as redis:
        redis.ping()
        proxy.drop_answers(times=1)
        assert [away(redis) for _ in range(3)] == [True, False, False]


def test_a_pattern_is_found_across_the_pieces_of_a_request(proxy: TcpProxy) -> None:
    proxy.drop_answers(b"SET key")
    proxy.slow(bytes_per_s=100)  # five bytes at a time
    with socket.create_connection(proxy.address, timeout=10) as connection:
        connection.sendall(b"SET key value\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_an_object_was_put_although_its_answer_was_lost(s3_proxy: TcpProxy, bucket: Path) -> None:
    from botocore.exceptions import HTTPClientError

    s3_proxy.drop_answers(b"PUT ")
    s3 = s3_client(s3_proxy)
    with pytest.raises(HTTPClientError):
        s3.put_object(Bucket=bucket.name, Key="a", Body=b"x" * 100_000)
    assert s3.get_object(Bucket=bucket.name, Key="a")["Body"].read() == b"x" * 100_000
    s3_proxy.drop_answers(b"PUT ", times=1)
    s3_client(s3_proxy, tries=2).put_object(Bucket=bucket.name, Key="a", Body=b"y")
    assert s3_proxy.matched == 2


def test_a_canned_answer_comes_in_place_of_the_servers(s3_proxy: TcpProxy, bucket: Path) -> None:
    from botocore.exceptions import ClientError

    s3_proxy.answer(SLOW_DOWN, match=b"PUT ", times=3)
    s3 = s3_client(s3_proxy)
    for size in (0, 10, 3_000_000):
        with pytest.raises(ClientError, match="SlowDown"):
            s3.put_object(Bucket=bucket.name, Key="a", Body=b"x" * size)
    assert not list(bucket.iterdir())
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket.name)
    s3.put_object(Bucket=bucket.name, Key="a", Body=b"x")
    assert s3_proxy.matched == 3


def test_a_canned_answer_is_a_whole_answer_to_any_client(s3_proxy: TcpProxy) -> None:
    s3_proxy.answer(SLOW_DOWN)
    for body in (b"", b"x" * 5_000_000):
        asking = http.client.HTTPConnection(*s3_proxy.address, timeout=10)
        asking.request("POST", "/bucket/key", body)
        answer = asking.getresponse()
        assert (answer.status, len(answer.read())) == (503, 50)
        asking.close()


@pytest.mark.parametrize(
    "fault",
    [
        lambda proxy: proxy.refuse(),
        lambda proxy: proxy.freeze(),
        lambda proxy: proxy.drop_answers(),
        lambda proxy: proxy.answer(SLOW_DOWN),
        lambda proxy: proxy.slow(1),
        lambda proxy: proxy.delay(60),
    ],
    ids=["refuse", "freeze", "drop answers", "answer", "slow", "delay"],
)
def test_no_fault_outlasts_healing(fault: Callable[[TcpProxy], None], proxy: TcpProxy) -> None:
    fault(proxy)
    with client(proxy, timeout_s=0.2) as redis, pytest.raises((redis_py.RedisError, OSError)):
        redis.ping()
    proxy.heal()
    with client(proxy) as redis:
        assert redis.ping()


def test_a_server_that_is_gone_is_a_reset_and_comes_back() -> None:
    with servers.Valkey() as valkey, TcpProxy("127.0.0.1", valkey.port) as proxy, client(proxy) as redis:
        redis.ping()
        valkey.kill()
        assert away(redis)
        assert away(redis)
        valkey.start()
        assert redis.ping()


def test_what_was_answered_survives_a_kill_when_it_is_always_written() -> None:
    with servers.Valkey(appendonly="always") as valkey, redis_py.Redis.from_url(valkey.url) as redis:
        redis.set("key", "value")
        valkey.kill()
        valkey.start()
        assert redis.get("key") == b"value"


def test_all_is_forgotten_when_nothing_is_written() -> None:
    with servers.Valkey(appendonly="no") as valkey, redis_py.Redis.from_url(valkey.url) as redis:
        redis.set("key", "value")
        valkey.terminate()
        valkey.start()
        assert redis.get("key") is None


def test_a_frozen_server_is_silent_until_it_is_thawed_and_ends_when_it_is_not() -> None:
    with servers.Valkey() as valkey:
        valkey.freeze()
        with redis_py.Redis.from_url(valkey.url, socket_timeout=0.2) as redis, pytest.raises(redis_py.TimeoutError):
            redis.ping()
        valkey.thaw()
        with redis_py.Redis.from_url(valkey.url) as redis:
            assert redis.ping()
        valkey.freeze()


def test_options_are_the_servers_own() -> None:
    with servers.Valkey(maxmemory="8mb", requirepass="hush") as valkey, redis_py.Redis.from_url(valkey.url) as redis:
        assert redis.config_get("maxmemory")["maxmemory"] == str(8 * 2**20)
        valkey.config_set("maxmemory", 0)
        assert redis.config_get("maxmemory")["maxmemory"] == "0"


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(RuntimeError, match="Bad directive"), servers.Valkey(no_such_option="1"):
        pass


def test_the_sentinels_name_the_replica_once_the_master_is_dead() -> None:
    with servers.Sentinels() as sentinels:
        before = sentinels.master()
        with connect(Settings(redis_url=sentinels.url)) as redis:
            redis.set("key", "value")
            sentinels.wait_until_replicated()
            dead = sentinels.kill_master()
            assert dead.port == before[1]
            eventually(lambda: sentinels.master() != before, "there is another master")

            def written() -> bool:
                try:
                    with redis_away():
                        return bool(redis.set("key", "new"))
                except HouseError:
                    return False

            eventually(written, "it is written to")
