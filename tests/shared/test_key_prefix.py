"""With a prefix, every key has it and no answer shows it; who has another prefix is not met."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis as redis_py

from arno_shared import key_prefix, presence
from arno_shared.broker import Sender, celery_app, queue_length
from arno_shared.dead_letters import DeadLetter, DeadLetters, LetterKind
from arno_shared.delivery.hands import Hands
from arno_shared.key_prefix import client_class
from arno_shared.ledger import Found, JobState, Ledger, Message, Outcome, Verdict
from arno_shared.messages import Chunk, ImageRef, Output, Prompt
from arno_shared.names import LIVE, Lane, place_key, task_id
from arno_shared.presence import WorkerState
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from arno_shared.topic import ChunkCompleted, ChunkEvent, Counts, TopicReader

PREFIX = "{mine}:"
OUTPUT = Output(prefix="s3://results/run-7/")
CHUNK = Chunk(
    images=(ImageRef(uri="s3://photos/a.jpg"),), prompts=(Prompt(task="<OD>"),), output=OUTPUT, job_id="run-7", index=0
)
EVENT = ChunkEvent(
    id="run-7/0",
    source="arno/gpu0",
    subject="s3://results/run-7/part-000000000.jsonl",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    data=ChunkCompleted(
        job_id="run-7",
        index=0,
        attempt=1,
        result_uri="s3://results/run-7/part-000000000.jsonl",
        counts=Counts(ok=0, failed=0, put_off=1),
    ),
)
WORKER = WorkerState(
    worker="gpu0@a",
    device="cuda",
    model="arno-tiny",
    revision="main",
    dtype="float32",
    phase="working",
    pid=1,
    version="1",
    schema_version=1,
    health="127.0.0.1:1",
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    chunks_in_flight=0,
    chunks_committed=0,
    images_done=0,
)


def with_index(index: int) -> Chunk:
    return CHUNK.model_copy(update={"index": index})


def letter_of(chunk: Chunk) -> DeadLetter:
    return DeadLetter.of_chunk(LetterKind.CHUNK, chunk, code="x", reason="y", worker="gpu0")


@pytest.fixture
def settings(valkey_url: str) -> Settings:
    return Settings(redis_url=valkey_url, key_prefix=PREFIX)


@pytest.fixture
def plain(valkey_url: str) -> Iterator[redis_py.Redis]:
    """A client without a prefix, which sees all keys."""
    with redis_py.Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def mine(request: pytest.FixtureRequest, valkey_url: str, plain: redis_py.Redis) -> Iterator[RedisClient]:
    """A client with the prefix; in the end all keys have it."""
    with client_class(PREFIX).from_url(valkey_url, protocol=request.param) as client:
        yield client
    assert all_have_it(plain)


def all_have_it(plain: redis_py.Redis) -> bool:
    keys = plain.keys("*")
    return bool(keys) and all(key.startswith(PREFIX.encode()) for key in keys)


def test_all_that_arno_writes_has_the_prefix(settings: Settings, plain: redis_py.Redis) -> None:
    with connect(settings) as redis:
        ledger, letters = Ledger(redis, settings), DeadLetters(redis, 10)
        assert ledger.open("run-7", "{}", OUTPUT, Lane.BULK).created
        ledger.announce("run-7", 3, 3)
        ledger.seal("run-7", 3, 3, "digest")
        own = Message(task_id("run-7", 0, 1), CHUNK.digest, "tag")
        assert ledger.begin("run-7", 0, 1, own, OUTPUT).verdict is Verdict.GO
        others = Output(prefix="s3://results/others/")
        assert ledger.begin("others", None, 1, Message("m", CHUNK.digest, "tag"), others).index == 0
        assert ledger.suspect(CHUNK, 0, "token") == 1
        ledger.acquit(CHUNK, 0)
        ledger.hand_back(CHUNK, "t")
        assert ledger.commit(CHUNK, Outcome(EVENT, put_off=CHUNK.retry_of(CHUNK.images), lane=Lane.BULK))
        assert ledger.is_committed(CHUNK)
        assert ledger.bury(with_index(1), letter_of(with_index(1)))
        assert ledger.restore(with_index(2), Found(ok=1))
        (due,) = ledger.due()
        assert (due.job_id, due.attempt) == ("run-7", "0.2")
        ledger.sent(due)
        assert ledger.committed_indices("run-7", 0, 8) == {0, 2}
        assert ledger.commits("run-7", 0, 10)[0].at_us > 0
        assert ledger.later_attempts("run-7", [(0, 1)]) == {(0, 1): []}
        assert ledger.first_attempts("run-7", 0, 1)[0].committed
        assert ledger.next_committed("run-7", 0) == 0
        assert ledger.committed_chunks("run-7") == 8
        assert ledger.buried_indices("run-7") == {1}
        assert ledger.abandon() == 0
        assert ledger.jobs(10) == ["run-7"]

        (filed,) = letters.list(job_id="run-7")
        assert ledger.replay(filed)
        letters.add(letter_of(CHUNK))
        (filed,) = letters.list()
        assert letters.remove(filed.entry_id)

        reader = TopicReader(redis, "group", "one")
        ((entry_id, event),) = reader.read()
        assert event == EVENT
        reader.ack([entry_id])
        assert reader.read(block_s=0.01) == []

        presence.announce(redis, WORKER)
        assert [seen.state for seen in presence.workers(redis)] == [WORKER]
        assert ledger.cancel("run-7") is JobState.CANCELLED
    assert all_have_it(plain)


def test_what_is_sent_and_claimed_has_the_prefix(settings: Settings, plain: redis_py.Redis) -> None:
    with connect(settings) as redis, celery_app(settings) as app:
        sender = Sender(app)
        for index in range(3):
            sender.send_chunk(with_index(index), Lane.BULK)
        assert queue_length(redis, Lane.BULK) == 3
        hands = Hands(redis, worker="w", key_prefix=PREFIX, lease_s=60, lease_max_s=60, max_letters=10)
        claimed = [hands.claim([Lane.BULK.queue]) for _ in range(3)]
        assert all(claimed)
        done, back, _ = (message.tag for message in claimed if message)
        hands.ack(done)
        assert hands.give_back([back]) == 1
        assert hands.renew() == 1
        assert queue_length(redis, Lane.BULK) == 1
    assert all_have_it(plain)


def test_two_prefixes_in_one_database_do_not_meet(settings: Settings, plain: redis_py.Redis) -> None:
    others = settings.model_copy(update={"key_prefix": "others:"})
    with connect(settings) as mine, connect(others) as theirs:
        Ledger(mine, settings).open("run-7", "{}", OUTPUT, Lane.BULK)
        Ledger(mine, settings).commit(CHUNK, Outcome(EVENT))
        presence.announce(mine, WORKER)
        with celery_app(settings) as app:
            Sender(app).send_chunk(CHUNK, Lane.BULK)
        assert Ledger(theirs, others).jobs(10) == []
        assert not Ledger(theirs, others).is_committed(CHUNK)
        assert TopicReader(theirs, "group", "one").read(block_s=0.01) == []
        assert presence.workers(theirs) == []
        assert queue_length(theirs, Lane.BULK) == 0
        assert Ledger(theirs, others).open("run-7", '{"other": 1}', OUTPUT, Lane.BULK).created
        names = {"arno:jobs", "arno:job:run-7", "arno:topic", LIVE, place_key(OUTPUT.prefix)}
        assert set(theirs.scan_iter()) == set(theirs.keys()) == {name.encode() for name in names}
        assert list(theirs.scan_iter("arno:jo*s")) == [b"arno:jobs"]


ANSWERS: dict[str, tuple[Callable[[Any], object], object]] = {
    "KEYS": (lambda redis: sorted(redis.keys()), [b"hash", b"list", b"stream", b"text"]),
    "KEYS like": (lambda redis: redis.keys("t*"), [b"text"]),
    "SCAN": (lambda redis: sorted(redis.scan_iter()), [b"hash", b"list", b"stream", b"text"]),
    "SCAN like": (lambda redis: list(redis.scan_iter(match="t*", count=100)), [b"text"]),
    "BLPOP": (lambda redis: tuple(redis.blpop(["none", "list"], 1)), (b"list", b"a")),
    "BLPOP of nothing": (lambda redis: redis.blpop(["none"], 0.01), None),
    "XREAD": (lambda redis: names(redis.xread({"stream": 0, "none": 0})), [b"stream"]),
    "XREAD of nothing": (lambda redis: names(redis.xread({"none": 0})), []),
    "XREADGROUP": (lambda redis: names(redis.xreadgroup("STREAMS", "STREAMS", {"stream": ">"}, 1)), [b"stream"]),
    "MGET": (lambda redis: redis.mget("none", "text"), [None, b"value"]),
    "DEL": (lambda redis: redis.delete("text", "none", "hash"), 2),
    "BLMOVE": (lambda redis: (redis.blmove("list", "list2", 1), redis.lrange("list2", 0, -1)), (b"a", [b"a"])),
    "EVAL": (lambda redis: redis.eval("return {KEYS[1], ARGV[1]}", 1, "text", "x"), [b"{mine}:text", b"x"]),
    "OBJECT": (lambda redis: redis.object("REFCOUNT", "text"), 1),
    "keys of every type": (lambda redis: redis.exists(b"text", "text", memoryview(b"text")), 3),
    "a client of the client": (lambda redis: redis.client().get("text"), b"value"),
    "a lock": (lambda redis: redis.lock("lock", timeout=60).acquire(), True),
}


def names(streams: Any) -> list[bytes]:
    return list(streams) if isinstance(streams, dict) else [name for name, _ in streams or []]


@pytest.mark.parametrize(("ask", "answer"), ANSWERS.values(), ids=ANSWERS)
def test_answers_are_those_of_a_client_without_a_prefix(
    ask: Callable[[Any], object], answer: object, mine: RedisClient
) -> None:
    mine.set("text", "value")
    mine.hset("hash", "field", "value")
    mine.rpush("list", "a", "b")
    mine.xgroup_create("stream", "STREAMS", id="0", mkstream=True)
    mine.xadd("stream", {"field": "value"})
    assert ask(mine) == answer


@pytest.mark.parametrize("transaction", [True, False])
def test_a_pipeline_has_the_prefix(mine: RedisClient, transaction: bool) -> None:
    pipeline = mine.pipeline(transaction=transaction).set("a", 1).xadd("s", {"x": 1}).keys("a").xread({"s": 0})
    *_, keys, streams = pipeline.execute()
    assert (keys, names(streams)) == ([b"a"], [b"s"])
    script = mine.register_script("return redis.call('INCR', KEYS[1])")
    with mine.pipeline(transaction=transaction) as pipeline:
        script(keys=["a"], client=pipeline)
        assert pipeline.execute() == [2]
    assert mine.get("a") == b"2"


def test_a_watched_key_has_the_prefix(mine: RedisClient, plain: redis_py.Redis) -> None:
    with mine.pipeline() as pipeline:
        pipeline.watch("a")
        plain.set(f"{PREFIX}a", 1)
        pipeline.multi()
        with pytest.raises(redis_py.WatchError):
            pipeline.set("a", 2).execute()


@pytest.mark.parametrize(
    "ask",
    [
        lambda redis: redis.sort("text"),
        lambda redis: redis.randomkey(),
        lambda redis: redis.execute_command("GET text"),
        lambda redis: redis.execute_command("MEMORY USAGE text"),
        lambda redis: redis.pipeline().sort("text"),
        lambda redis: redis.pubsub(),
    ],
    ids=["SORT", "RANDOMKEY", "a key in the command's name", "another", "in a pipeline", "channels"],
)
def test_what_has_its_keys_in_unknown_places_is_refused(
    ask: Callable[[RedisClient], object], settings: Settings
) -> None:
    with connect(settings) as redis, pytest.raises(NotImplementedError, match="prefix"):
        ask(redis)


def test_keys_are_where_the_server_says_they_are(plain: redis_py.Redis) -> None:
    args = [str(at) for at in range(1, 9)]
    said = commands(plain)
    # Its pattern is treated as a key.
    for name in key_prefix._KEYS.keys() - {"KEYS"}:
        first, last, step = said["OBJECT ENCODING" if name == "OBJECT" else name]
        words = [*name.split(), *args]
        keys = words[first : (last % len(words)) + 1 : step]
        assert [[name, *args][at] for at in key_prefix._key_positions([name, *args])] == keys, name


def test_commands_that_pass_as_they_are_have_no_keys(plain: redis_py.Redis) -> None:
    said = commands(plain)
    for name, keys in said.items():
        if name.split()[0] in key_prefix._KEYLESS:
            assert keys == (0, 0, 0), name
    assert said.keys() >= key_prefix._KEYLESS


def commands(plain: redis_py.Redis) -> dict[str, tuple[int, int, int]]:
    """Of each command the positions of its first and its last key, and the step between them."""
    said: dict[str, Any] = plain.command()
    found = {
        name.upper(): (command["first_key_pos"], command["last_key_pos"], command["step_count"])
        for name, command in said.items()
    }
    for command in said.values():
        for name, _, _, *keys in command["subcommands"]:
            found[name.decode().upper().replace("|", " ")] = tuple(keys[:3])
    return found
