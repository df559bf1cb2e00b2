"""When Redis is away, in whatever way, it is an error of the house; what is wrong with a command is not."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from threading import Thread

import pytest
import redis as redis_py
from redis.backoff import NoBackoff
from redis.retry import Retry

from arno_shared.dead_letters import DeadLetter, DeadLetters, LetterKind
from arno_shared.errors import HouseError, InternalError
from arno_shared.ledger import Ledger, Message, Outcome, Verdict
from arno_shared.messages import Chunk, ImageRef, Output, Prompt
from arno_shared.names import DELAYED, TOPIC, Lane, task_id
from arno_shared.redis_client import RedisClient, connect, redis_away
from arno_shared.settings import Settings
from arno_shared.topic import ChunkCompleted, ChunkEvent, Counts, TopicReader
from tests.acceptance.arno_worker import eventually
from tests.servers import Sentinels

OUTPUT = Output(prefix="s3://results/run-7/")
CHUNK = Chunk(
    images=(ImageRef(uri="s3://photos/a.jpg"),), prompts=(Prompt(task="<OD>"),), output=OUTPUT, job_id="run-7", index=0
)
LATER = CHUNK.model_copy(update={"index": 1})
COUNTS = Counts(ok=0, failed=0, put_off=1)
EVENT = ChunkEvent(
    id="run-7/0",
    source="arno/gpu0",
    subject="s3://results/run-7/part-000000000.jsonl",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    data=ChunkCompleted(
        job_id="run-7", index=0, attempt=1, result_uri="s3://results/run-7/part-000000000.jsonl", counts=COUNTS
    ),
)
OUTCOME = Outcome(EVENT, put_off=CHUNK.retry_of(CHUNK.images), put_off_delay_s=60)
LETTER = DeadLetter.of_chunk(LetterKind.CHUNK, CHUNK, code="x", reason="y", worker="gpu0")

OWN = Message(task_id("run-7", 0, 1), CHUNK.digest, "tag")

WRITES: dict[str, Callable[[RedisClient], object]] = {
    "opening a job": lambda redis: Ledger(redis, Settings()).open("run-7", "{}", OUTPUT, Lane.BULK),
    "beginning a chunk": lambda redis: Ledger(redis, Settings()).begin("run-7", 0, 1, OWN, OUTPUT),
    "burying a chunk": lambda redis: Ledger(redis, Settings()).bury(CHUNK, LETTER),
    "filing a letter": lambda redis: DeadLetters(redis, 10).add(LETTER),
    "reading the topic": lambda redis: TopicReader(redis, "g", "c").read(block_s=0.001),
}
CALLS = WRITES | {
    "a status": lambda redis: Ledger(redis, Settings()).status("run-7"),
    "the jobs": lambda redis: Ledger(redis, Settings()).jobs(1),
    "what is due": lambda redis: Ledger(redis, Settings()).due(),
    "listing letters": lambda redis: list(DeadLetters(redis, 10).list()),
}
REFUSED_WHEN_FULL = ("opening a job", "reading the topic")
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
every_write = pytest.mark.parametrize("call", WRITES.values(), ids=WRITES)


def client_of(port: int) -> RedisClient:
    url = f"redis://me:hunter2@127.0.0.1:{port}/0"
    return connect(Settings(redis_url=url, broker={"socket_timeout_s": 0.02, "connect_timeout_s": 0.5}))


@contextmanager
def listening(answer: bytes | None) -> Iterator[int]:
    """A port that answers the same to everything, or nothing at all."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(65536):
                if answer:
                    connection.sendall(answer)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            Thread(target=serve, args=[connection], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def valkey(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


@contextmanager
def configured(valkey: RedisClient, **options: str | int) -> Iterator[None]:
    """The server with these options; as it was, afterwards."""
    names = [name.replace("_", "-") for name in options]
    before = {name: valkey.config_get(name)[name] for name in names}
    for name, value in zip(names, options.values(), strict=True):
        valkey.config_set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            valkey.config_set(name, value)


def full(valkey: RedisClient) -> AbstractContextManager[None]:
    """It has no memory left, and evicts nothing."""
    return configured(valkey, maxmemory_policy="noeviction", maxmemory=1)


@every_call
def test_a_refused_connection_is_an_error_of_the_house(call: Callable[[RedisClient], object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    with pytest.raises(HouseError, match="Redis cannot be used") as away:
        call(client_of(port))
    assert away.value.retryable
    assert "hunter2" not in str(away.value)


@every_call
def test_a_server_that_does_not_answer_is_an_error_of_the_house(call: Callable[[RedisClient], object]) -> None:
    with listening(None) as port, pytest.raises(HouseError, match="Redis cannot be used"):
        call(client_of(port))


@pytest.mark.parametrize(
    "answer",
    [
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        b"-MISCONF Errors writing to the AOF file: No space left on device\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        b"-NOREPLICAS Not enough good replicas to write.\r\n",
        b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n",
    ],
    ids=lambda answer: answer[1:].split()[0].decode(),
)
def test_a_server_that_answers_that_it_cannot_now_is_an_error_of_the_house(answer: bytes) -> None:
    with listening(answer) as port:
        # Over RESP2 and without a name nothing is said before the command itself.
        client = redis_py.Redis(port=port, protocol=2, lib_name=None, lib_version=None, retry=Retry(NoBackoff(), 0))
        with pytest.raises(HouseError, match="Redis cannot be used"), redis_away():
            client.set("key", "value")


@pytest.mark.parametrize("call", [WRITES[name] for name in REFUSED_WHEN_FULL], ids=REFUSED_WHEN_FULL)
def test_a_full_server_is_an_error_of_the_house(call: Callable[[RedisClient], object], valkey: RedisClient) -> None:
    with full(valkey), pytest.raises(HouseError, match="maxmemory"):
        call(valkey)
    call(valkey)


def test_on_a_full_server_workers_finish_what_producers_can_add_nothing_to(valkey: RedisClient) -> None:
    ledger = Ledger(valkey, Settings())
    ledger.open("run-7", "{}", OUTPUT, Lane.BULK)
    ledger.announce("run-7", 2, 2)
    with full(valkey):
        with pytest.raises(HouseError, match="maxmemory"):
            ledger.open("run-8", "{}", Output(prefix="s3://results/run-8/"), Lane.BULK)
        with pytest.raises(HouseError, match="maxmemory"):
            ledger.seal("run-7", 3, 3, "digest")
        assert ledger.begin("run-7", 0, 1, OWN, OUTPUT).times == 1
        assert ledger.begin("run-7", 0, 1, replace(OWN, tag="another"), OUTPUT).times == 2
        assert ledger.suspect(CHUNK, 0, "token") == 1
        assert ledger.commit(CHUNK, OUTCOME)
        assert ledger.begin("run-7", 0, 1, OWN, OUTPUT).verdict is Verdict.COMMITTED
        assert ledger.bury(LATER, LETTER)
        status = ledger.status("run-7")
        assert (status.ok, status.put_off, status.dead, status.chunks_committed) == (0, 1, 1, 1)
        assert [letter.letter for letter in DeadLetters(valkey, 10).list()] == [LETTER]
        assert (valkey.xlen(TOPIC), valkey.zcard(DELAYED)) == (1, 1)


@pytest.mark.parametrize(
    "end",
    [
        lambda ledger: ledger.begin("run-7", 0, 1, OWN, OUTPUT).verdict is Verdict.GO,
        lambda ledger: ledger.begin("run-7", None, 1, Message("m", CHUNK.digest, "tag"), OUTPUT).verdict is Verdict.GO,
        lambda ledger: ledger.suspect(CHUNK, "whole", "token") == 1,
        lambda ledger: ledger.commit(CHUNK, OUTCOME),
        lambda ledger: ledger.bury(CHUNK, LETTER),
    ],
    ids=["beginning a chunk", "beginning a chunk without an index", "suspecting one", "committing one", "burying one"],
)
def test_a_full_server_takes_the_first_that_it_hears_of_a_job_from_a_worker(
    end: Callable[[Ledger], bool], valkey: RedisClient
) -> None:
    with full(valkey):
        assert end(Ledger(valkey, Settings()))


@every_write
def test_a_replica_is_an_error_of_the_house(call: Callable[[RedisClient], object], valkey: RedisClient) -> None:
    valkey.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(HouseError, match="read only replica"):
            call(valkey)
    finally:
        valkey.replicaof("NO", "ONE")
    call(valkey)


@every_write
def test_too_few_replicas_are_an_error_of_the_house(call: Callable[[RedisClient], object], valkey: RedisClient) -> None:
    with configured(valkey, min_replicas_to_write=1), pytest.raises(HouseError, match="Not enough good replicas"):
        call(valkey)
    call(valkey)


def test_a_wrong_command_is_not_an_error_of_the_house(valkey: RedisClient) -> None:
    valkey.set("key", "text")
    with pytest.raises(InternalError, match="not an integer"), redis_away():
        valkey.incr("key")


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError), redis_away():
        raise KeyError("x")


def test_a_dropped_connection_is_opened_again_without_a_word(valkey_url: str) -> None:
    with connect(Settings(redis_url=valkey_url)) as client, connect(Settings(redis_url=valkey_url)) as other:
        client.set("key", "value")
        other.client_kill_filter(skipme=True)
        assert client.get("key") == b"value"


def test_nothing_is_sent_before_the_first_command() -> None:
    connect(Settings(redis_url="redis://127.0.0.1:1/0")).close()


def kill(sentinels: Sentinels) -> None:
    sentinels.kill_master()


def freeze(sentinels: Sentinels) -> None:
    sentinels.server_that_is_master().freeze()


@pytest.mark.parametrize(
    ("mishap", "password", "sentinel_password"),
    [(kill, "", ""), (freeze, "hush", ""), (Sentinels.fail_over, "hush", "hush")],
    ids=["killed", "frozen, with a password", "asked to step back, all with a password"],
)
def test_once_there_is_another_master_commands_reach_it(
    mishap: Callable[[Sentinels], None], password: str, sentinel_password: str
) -> None:
    with Sentinels(password, sentinel_password) as sentinels:
        settings = Settings(redis_url=sentinels.url, broker={"socket_timeout_s": 0.5, "connect_timeout_s": 0.5})
        with connect(settings) as client:
            ledger = Ledger(client, settings)
            ledger.open("run-7", "{}", OUTPUT, Lane.BULK)
            sentinels.wait_until_replicated()
            before = sentinels.master()
            mishap(sentinels)

            def committed() -> bool:
                """The old master may take, and lose, what it is given before it is told to step back."""
                try:
                    ledger.commit(CHUNK, OUTCOME)
                except HouseError:
                    return False
                if sentinels.master() == before:
                    return False
                with redis_py.Redis.from_url(sentinels.server_that_is_master().url) as master:
                    return master.xlen(TOPIC) == 1

            eventually(committed, "a chunk is committed by the new master")


def sentinel_client(*ports: int) -> RedisClient:
    url = f"sentinel://me:hunter2@{','.join(f'127.0.0.1:{port}' for port in ports)}/arno/0"
    return connect(Settings(redis_url=url, broker={"socket_timeout_s": 0.02, "connect_timeout_s": 0.02}))


def refuses_to_say_who(call: Callable[[], object]) -> bool:
    with pytest.raises(HouseError, match="No master found for 'arno'") as away, redis_away():
        call()
    return away.value.retryable and "hunter2" not in str(away.value)


def test_sentinels_that_cannot_be_reached_are_an_error_of_the_house(free_tcp_port: int) -> None:
    assert refuses_to_say_who(sentinel_client(free_tcp_port, free_tcp_port).ping)


def test_sentinels_that_do_not_answer_are_an_error_of_the_house() -> None:
    with listening(None) as port:
        assert refuses_to_say_who(sentinel_client(port, port).ping)


def test_sentinels_that_know_no_such_master_are_an_error_of_the_house() -> None:
    with Sentinels() as sentinels:
        client = connect(Settings(redis_url=sentinels.url.replace("/arno/", "/nobody/")))
        with pytest.raises(HouseError, match="No master found for 'nobody'"), redis_away():
            client.ping()


def test_a_url_that_is_none_is_a_wrong_value() -> None:
    with pytest.raises(ValueError, match="name of the master"):
        connect(Settings(redis_url="sentinel://me:hunter2@host:26379"))


def test_without_a_prefix_the_client_is_redis_pys_own(valkey_url: str) -> None:
    assert type(connect(Settings(redis_url=valkey_url))) is redis_py.Redis
