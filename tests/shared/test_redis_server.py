"""A server that Arno cannot work with is refused in one sentence, by whoever would use it."""

from collections.abc import Callable, Iterator

import pytest
import redis as redis_py

from arno_shared.errors import HouseError, RedisRefused
from arno_shared.redis_client import RedisClient, connect
from arno_shared.redis_server import check_server
from arno_shared.settings import Settings
from tests.servers import Valkey, redis_programs

PROGRAMS = redis_programs()


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


class SaysOfItself(redis_py.Redis):
    """A server of any version."""

    def __init__(self, **said: object) -> None:
        super().__init__()
        self._said = said

    def info(self, *_: object, **__: object) -> dict[str, object]:
        return self._said


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_server_that_is_installed_will_do(program: str) -> None:
    with Valkey(program=PROGRAMS[program]) as server, connect(Settings(redis_url=server.url)) as client:
        check_server(client)


@pytest.mark.parametrize("version", ["6.2.0", "6.2.14", "7.2.4", "8.2.1", "10.0", "255.255.255", "7.4.0-v1", "", "?"])
def test_a_version_that_is_new_enough_or_cannot_be_read_will_do(version: str) -> None:
    check_server(SaysOfItself(redis_version=version))


def test_a_server_that_says_nothing_of_itself_will_do() -> None:
    check_server(SaysOfItself())


@pytest.mark.parametrize("version", ["6.0.16", "5.0.7", "2.8", "6.1.240"])
def test_a_version_that_is_too_old_is_refused(version: str) -> None:
    with pytest.raises(RedisRefused) as refused:
        check_server(SaysOfItself(redis_version=version))
    assert str(refused.value) == f"Redis {version} is too old: use Redis 6.2, Valkey or newer"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_cluster_is_refused_before_and_after_it_has_its_slots(program: str) -> None:
    server = Valkey(program=PROGRAMS[program], cluster_enabled="yes")
    with server, connect(Settings(redis_url=server.url)) as client:
        for slots in (range(0), range(16384)):
            if slots:
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)
            with pytest.raises(RedisRefused, match=r"Redis Cluster, .* use one server, or Sentinel"):
                check_server(client)


def test_whoever_may_not_ask_is_not_refused(redis: RedisClient) -> None:
    redis.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        check_server(redis)
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "+@all")


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (lambda url: "redis://127.0.0.1:1/0", HouseError),
        (lambda url: url.replace("redis://", "redis://me:wrong@"), RedisRefused),
        (lambda url: url.replace("/0", "/99"), RedisRefused),
    ],
    ids=["away", "a wrong password", "no such database"],
)
def test_whoever_gets_no_answer_is_told_why(
    url: Callable[[str], str], error: type[HouseError], valkey_url: str
) -> None:
    with connect(Settings(redis_url=url(valkey_url))) as client, pytest.raises(HouseError) as told:
        check_server(client)
    assert type(told.value) is error
