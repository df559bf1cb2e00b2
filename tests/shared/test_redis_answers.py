"""Each answer of Redis that is an error, from each server that is installed, where it can be made to give it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from threading import Thread
from typing import Any

import pytest
import redis as redis_py
from redis import exceptions
from redis._parsers.base import BaseParser

from arno_shared.errors import ArnoError, HouseError, InternalError, RedisRefused
from arno_shared.redis_answers import ANSWERS, NEWER, ONE_SERVER, Answer, Meaning, arno_error
from arno_shared.redis_client import RedisClient, connect, redis_away
from arno_shared.settings import Settings
from tests.acceptance.arno_worker import eventually
from tests.servers import Valkey, redis_programs

PROGRAMS = redis_programs()
FOR_EVER = "while true do end"
ADMIN = "on >admin ~* &* +@all"


class House:
    """A server, whom its owner may do anything to, and a client of it."""

    def __init__(self, server: Valkey, owner: RedisClient) -> None:
        self.server, self.owner = server, owner

    def client(self, **changes: Any) -> RedisClient:
        """One that is new: it logs in."""
        url = changes.pop("url", self.server.url)
        return connect(Settings(redis_url=url, broker={"socket_timeout_s": 2.0, "connect_timeout_s": 2.0}, **changes))

    @contextmanager
    def configured(self, **options: str | int) -> Iterator[None]:
        names = {name: name.replace("_", "-") for name in options}
        before = {name: self.owner.config_get(name)[name] for name in names.values()}
        for name, value in options.items():
            self.owner.config_set(names[name], value)
        try:
            yield
        finally:
            for name, value in before.items():
                self.owner.config_set(name, value)

    @contextmanager
    def user(self, *rules: str) -> Iterator[None]:
        """The client's user, with other rights."""
        self.owner.execute_command("ACL", "SETUSER", "default", *rules)
        try:
            yield
        finally:
            self.owner.execute_command("ACL", "SETUSER", "default", "reset", "on", "nopass", "~*", "&*", "+@all")

    @contextmanager
    def replica(self) -> Iterator[None]:
        self.owner.replicaof("127.0.0.1", "1")
        try:
            yield
        finally:
            self.owner.replicaof("no", "one")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """With a script that does not end."""

        def run() -> None:
            with self.client() as client:
                # It is not asked for twice, as a question without an answer is.
                client.connection_pool.connection_kwargs["socket_timeout"] = None
                assert "cript killed by user" in refusal(lambda: client.eval(FOR_EVER, 0), HouseError)

        with self.configured(lua_time_limit=1):
            thread = Thread(target=run)
            thread.start()
            eventually(self._is_busy, "the script runs")
            try:
                yield
            finally:
                self.owner.script_kill()
                thread.join()

    def _is_busy(self) -> bool:
        try:
            self.owner.ping()
        except redis_py.ResponseError:
            return True
        return False


@pytest.fixture(scope="module", params=PROGRAMS)
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    with Valkey(program=PROGRAMS[request.param]) as server:
        with redis_py.Redis.from_url(server.url) as first:
            first.execute_command("ACL", "SETUSER", "owner", *ADMIN.split())
        with redis_py.Redis.from_url(server.url, username="owner", password="admin") as owner:
            yield House(server, owner)


def command(client: RedisClient) -> object:
    return client.set("key", "value")


def script(client: RedisClient) -> object:
    return client.register_script("return redis.call('SET', KEYS[1], 'value')")(keys=["key"])


def pipeline(client: RedisClient) -> object:
    return client.pipeline(transaction=False).set("key", "https://host/?sig=hush").execute()


def transaction(client: RedisClient) -> object:
    return client.pipeline().set("key", "https://host/?sig=hush").execute()


WRITES = (command, script, pipeline, transaction)
Trouble = Callable[[House], AbstractContextManager[None]]
TROUBLES: dict[str, tuple[Trouble, type[ArnoError], str]] = {
    "full": (lambda house: house.configured(maxmemory=1), HouseError, "maxmemory"),
    "a replica": (House.replica, HouseError, "read only replica"),
    "too few replicas": (lambda house: house.configured(min_replicas_to_write=1), HouseError, "enough good replicas"),
    "busy": (House.busy, HouseError, "busy running a script"),
    "no scripts": (lambda house: house.user("-@scripting"), RedisRefused, r"ACL SETUSER name on \+@all"),
    "not this command": (lambda house: house.user("-set"), RedisRefused, r"ACL SETUSER name on \+@all"),
    "not this key": (lambda house: house.user("resetkeys", "~other:*"), RedisRefused, "ARNO_KEY_PREFIX"),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_write_that_is_refused(trouble: str, write: Callable[[RedisClient], object], house: House) -> None:
    begin, error, words = TROUBLES[trouble]
    with house.client() as client:
        client.ping()
        with begin(house):
            if trouble == "no scripts" and write is not script:
                write(client)
            else:
                with pytest.raises(error, match=f"Redis cannot be used: .*{words}") as refused, redis_away():
                    write(client)
                assert type(refused.value) is error
                assert refused.value.retryable == (error is HouseError)
                assert "hush" not in str(refused.value)
        with redis_away():
            write(client)


def refusal(call: Callable[[], object], error: type[ArnoError]) -> str:
    with pytest.raises(error) as refused, redis_away():
        call()
    assert type(refused.value) is error
    return str(refused.value)


def test_a_master_that_a_replica_may_not_speak_for(house: House) -> None:
    with house.configured(replica_serve_stale_data="no"), house.client() as client:
        client.ping()
        with house.replica():
            assert "Link with MASTER is down" in refusal(lambda: client.get("key"), HouseError)


def test_logins_that_are_refused_before_anything_and_in_the_middle(house: House) -> None:
    wrong = house.server.url.replace("redis://", "redis://default:hush@")
    with house.user("resetpass", ">right"):
        for url in (wrong, house.server.url):
            with house.client(url=url) as client:
                words = refusal(client.ping, RedisRefused)
            assert "redis://user:password@host" in words
            assert "hush" not in words
    with house.client() as client:
        client.ping()
        with house.user("off"):
            client.connection_pool.disconnect()
            assert "redis://user:password@host" in refusal(client.ping, RedisRefused)


def test_a_database_that_is_not_there(house: House) -> None:
    with house.client(url=house.server.url.replace("/0", "/99")) as client:
        assert "setting `databases`" in refusal(client.ping, RedisRefused)


def test_too_many_clients(house: House) -> None:
    with house.configured(maxclients=1), house.client() as client:
        assert "max number of clients" in refusal(client.ping, HouseError)


def test_a_server_that_is_away_or_mute(house: House, free_tcp_port: int) -> None:
    with house.client(url=f"redis://127.0.0.1:{free_tcp_port}/0") as client:
        assert "refused" in refusal(client.ping, HouseError)
    with house.client() as client:
        client.connection_pool.connection_kwargs["socket_timeout"] = 0.05
        house.server.freeze()
        try:
            assert "Timeout" in refusal(client.ping, HouseError)
        finally:
            house.server.thaw()


BUGS: dict[str, Callable[[RedisClient], object]] = {
    "syntax": lambda client: client.execute_command("SET", "key", "value", "hush"),
    "too few arguments": lambda client: client.execute_command("SET", "key"),
    "no number": lambda client: client.hincrby("hash", "field", 1),
    "no number in a script": lambda client: client.eval("redis.call('HINCRBY', KEYS[1], 'field', 1)", 1, "hash"),
    "a command that no script may run": lambda client: client.eval("redis.call('NOSUCH')", 0),
    "a script that is none": lambda client: client.eval("this is none", 0),
    "a script with an error": lambda client: client.eval("local x = nil; return x.y", 0),
    "an argument that is none": lambda client: client.set("key", object()),
}


@pytest.mark.parametrize("bug", BUGS)
def test_what_was_asked_wrongly_is_an_internal_error(bug: str, house: House) -> None:
    with house.client() as client:
        client.hset("hash", "field", "text")
        refusal(lambda: BUGS[bug](client), InternalError)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.lpush("hash", "value"),
        lambda client: client.eval("redis.call('LPUSH', KEYS[1], 'x')", 1, "hash"),
    ],
    ids=["a command", "a script"],
)
def test_a_key_that_others_have_put_something_else_into(call: Callable[[RedisClient], object], house: House) -> None:
    with house.client() as client:
        client.hset("hash", "field", "text")
        assert "a database or an ARNO_KEY_PREFIX of its own" in refusal(lambda: call(client), RedisRefused)


def test_a_command_that_the_server_does_not_know(house: House) -> None:
    with house.client() as client:
        words = refusal(lambda: client.execute_command("INFO2", "https://host/?sig=hush"), RedisRefused)
    assert NEWER in words
    assert "hush" not in words


def test_a_script_that_the_server_has_forgotten_may_be_asked_for_again(house: House) -> None:
    with house.client() as client:
        refusal(lambda: client.evalsha("0" * 40, 0), HouseError)
        house.owner.script_flush()
        script(client)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_cluster(program: str) -> None:
    with Valkey(program=PROGRAMS[program], cluster_enabled="yes") as server:
        with connect(Settings(redis_url=server.url)) as client:
            assert "Hash slot not served" in refusal(lambda: client.set("key", "value"), HouseError)
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16000))
            eventually(lambda: client.cluster("INFO")["cluster_slots_ok"] == "16000", "it has its slots")
            two = client.register_script("redis.call('SET', KEYS[1], 1); redis.call('SET', KEYS[2], 1)")
            client.config_set("cluster-require-full-coverage", "no")
            eventually(lambda: client.cluster("INFO")["cluster_state"] == "ok", "it serves them")
            assert ONE_SERVER in refusal(lambda: two(keys=["a", "b"]), RedisRefused)
            assert ONE_SERVER in refusal(lambda: client.mget("a", "b"), RedisRefused)
        with connect(Settings(redis_url=server.url.replace("/0", "/1"))) as client:
            refusal(client.ping, RedisRefused)


# The table


ROWS = [(answer, sign) for answer in ANSWERS for sign in answer.signs]


def as_raised(sign: type[redis_py.RedisError] | str) -> list[redis_py.RedisError]:
    """The ways in which such an answer comes, where it is not of the network."""
    if not isinstance(sign, str):
        words = "12 127.0.0.1:1" if issubclass(sign, exceptions.AskError) else "words"
        return [sign(words)]
    if sign.isupper():
        words = "12 127.0.0.1:1" if sign in ("ASK", "MOVED") else "words"
        in_script = f"ERR Error running script (call to f_{'0' * 40}): @user_script:1: @user_script: 1: -{sign} words"
        return [BaseParser.parse_error(text) for text in (f"{sign} {words}", in_script)]
    return [BaseParser.parse_error(f"ERR {sign.capitalize()}"), BaseParser.parse_error(f"ERR {sign}")]


@pytest.mark.parametrize(("answer", "sign"), ROWS, ids=lambda part: getattr(part, "__name__", str(part))[:30])
def test_each_sign_of_the_table_means_what_its_row_says(answer: Answer, sign: type[redis_py.RedisError] | str) -> None:
    for raised in as_raised(sign):
        in_pipeline = copy(raised)
        in_pipeline.args = (f"Command # 1 (SET a b) of pipeline caused error: {raised}",)
        for error in (raised, in_pipeline):
            became = arno_error(error)
            assert type(became) is answer.meaning.value
            assert answer.what_to_do in str(became)


def test_no_sign_stands_in_two_rows() -> None:
    signs = [sign for _, sign in ROWS]
    assert len(set(signs)) == len(signs)


def test_a_mistake_says_what_to_do_and_nothing_else_does() -> None:
    assert all(bool(answer.what_to_do) == (answer.meaning is Meaning.MISTAKE) for answer in ANSWERS)


def test_whatever_redis_py_may_raise_becomes_an_error_of_arnos() -> None:
    kinds = [
        kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, redis_py.RedisError)
    ]
    assert len(kinds) > 20
    for kind in kinds:
        with pytest.raises(ArnoError), redis_away():
            raise kind("12 127.0.0.1:1")


@pytest.mark.parametrize("words", ["", "NEWCODE words", "ERR", "ERR nobody foresaw this", "-"])
def test_what_is_in_no_row_is_a_bug(words: str) -> None:
    assert type(arno_error(redis_py.ResponseError(words))) is InternalError
