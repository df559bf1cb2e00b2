"""No step is done by half: scripts are not rolled back, and what a server may refuse in the middle is met before it."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files

import pytest
import redis as redis_py

from arno_shared.dead_letters import DeadLetters, LetterKind
from arno_shared.errors import InternalError, RedisRefused
from arno_shared.ledger import Found, Ledger
from arno_shared.names import DEAD_LETTERS, DELAYED, JOBS, LIVE, TOPIC, Lane, job_keys, place_key
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from tests.servers import Valkey, redis_programs
from tests.shared.ledger.hand import (
    OUTPUT,
    TERMS,
    bury,
    chunk_of,
    foreign,
    letter_of,
    open_job,
    outcome,
    send_due,
    sent,
)

Call = Callable[[Ledger, RedisClient], object]

CHUNK = chunk_of(4)
SECOND = chunk_of(4, index=1)
LATER = CHUNK.only([0]).retry_of(CHUNK.images[:1], (0,))


def replay_all(ledger: Ledger, redis: RedisClient) -> None:
    for filed in DeadLetters(redis, 100).list():
        ledger.replay(filed)


def nothing(ledger: Ledger, redis: RedisClient) -> None:
    pass


def opened(ledger: Ledger, redis: RedisClient) -> None:
    open_job(ledger, 4, 4)


def buried(ledger: Ledger, redis: RedisClient) -> None:
    opened(ledger, redis)
    bury(ledger, CHUNK)


def put_off(ledger: Ledger, redis: RedisClient) -> None:
    opened(ledger, redis)
    ledger.commit(CHUNK, outcome(CHUNK, put_off=1))


def given_up(ledger: Ledger, redis: RedisClient) -> None:
    opened(ledger, redis)
    ledger.commit(CHUNK, outcome(CHUNK, failed=2, gives_up=True))


def paused(ledger: Ledger, redis: RedisClient) -> None:
    opened(ledger, redis)
    ledger.pause("run-7")


def parked(ledger: Ledger, redis: RedisClient) -> None:
    paused(ledger, redis)
    ledger.park(CHUNK, Lane.BULK)


def cancelled(ledger: Ledger, redis: RedisClient) -> None:
    buried(ledger, redis)
    ledger.cancel("run-7")


def expected(ledger: Ledger, redis: RedisClient) -> None:
    ledger.expect(CHUNK, Lane.BULK)


def silent(ledger: Ledger, redis: RedisClient) -> None:
    opened(ledger, redis)
    redis.zadd(LIVE, {"run-7": 1})


def put_off_and_buried(ledger: Ledger, redis: RedisClient) -> None:
    put_off(ledger, redis)
    send_due(ledger)
    bury(ledger, LATER)


def begun(ledger: Ledger, redis: RedisClient) -> None:
    opened(ledger, redis)
    ledger.begin("run-7", 0, 1, sent(CHUNK, "tag"), OUTPUT)


STEPS: dict[str, tuple[Call, Call]] = {
    "open": (nothing, lambda ledger, _: ledger.open("run-7", TERMS, OUTPUT, Lane.BULK, digest="d")),
    "open again": (opened, lambda ledger, _: ledger.open("run-7", TERMS, OUTPUT, Lane.BULK)),
    "announce": (opened, lambda ledger, _: ledger.announce("run-7", 2, 8)),
    "expect": (nothing, lambda ledger, _: ledger.expect(CHUNK, Lane.BULK)),
    "was sent": (expected, lambda ledger, _: ledger.was_sent("run-7")),
    "resend": (expected, lambda ledger, _: ledger.resend("run-7")),
    "begin": (opened, lambda ledger, _: ledger.begin("run-7", 0, 1, sent(CHUNK, "tag"), OUTPUT)),
    "begin what is cancelled": (
        cancelled,
        lambda ledger, _: ledger.begin("run-7", 1, 1, sent(SECOND), OUTPUT),
    ),
    "begin a message": (nothing, lambda ledger, _: ledger.begin("run-7", None, 1, foreign(tag="tag"), OUTPUT)),
    "suspect": (begun, lambda ledger, _: ledger.suspect(CHUNK, 0, "tag")),
    "hand back": (begun, lambda ledger, _: ledger.hand_back(CHUNK, "tag")),
    "commit": (begun, lambda ledger, _: ledger.commit(CHUNK, outcome(CHUNK, put_off=1, delay_s=9))),
    "commit and give up": (begun, lambda ledger, _: ledger.commit(CHUNK, outcome(CHUNK, failed=2, gives_up=True))),
    "commit a message": (nothing, lambda ledger, _: ledger.commit(CHUNK, outcome(CHUNK))),
    "commit a later attempt": (put_off, lambda ledger, _: ledger.commit(LATER, outcome(LATER))),
    "commit what was buried": (buried, lambda ledger, _: ledger.commit(CHUNK, outcome(CHUNK))),
    "restore": (opened, lambda ledger, _: ledger.restore(CHUNK, Found(4))),
    "bury": (begun, lambda ledger, _: ledger.bury(CHUNK, letter_of(LetterKind.CHUNK, CHUNK))),
    "bury a later attempt": (put_off, lambda ledger, _: ledger.bury(LATER, letter_of(LetterKind.CHUNK, LATER))),
    "replay a chunk": (buried, replay_all),
    "replay images": (given_up, replay_all),
    "replay a later attempt": (put_off_and_buried, replay_all),
    "cancel": (opened, lambda ledger, _: ledger.cancel("run-7")),
    "pause": (opened, lambda ledger, _: ledger.pause("run-7")),
    "park": (paused, lambda ledger, _: ledger.park(CHUNK, Lane.BULK)),
    "unpause": (parked, lambda ledger, _: ledger.unpause("run-7")),
    "revive": (cancelled, lambda ledger, _: ledger.revive("run-7", TERMS, OUTPUT, Lane.BULK)),
    "abandon": (silent, lambda ledger, _: ledger.abandon()),
}


@cache
def commands_of_scripts() -> list[str]:
    scripts = files("arno_shared.ledger") / "scripts"
    text = "".join(script.read_text() for script in scripts.iterdir())
    return sorted({name.lower() for name in re.findall(r"(?:call\(|\{)'([A-Z]+)'", text)})


@pytest.fixture(scope="module", params=sorted(redis_programs()))
def house(request: pytest.FixtureRequest) -> Iterator[tuple[RedisClient, str]]:
    """Whom everything is allowed, and the URL of somebody else."""
    with Valkey(program=redis_programs()[request.param]) as server:
        owner = redis_py.Redis.from_url(server.url)
        owner.execute_command("ACL", "SETUSER", "other", "on", "nopass", "~*", "&*", "+@all")
        yield owner, server.url.replace("redis://", "redis://other:x@")
        owner.close()


def kept(redis: RedisClient) -> dict[bytes, object]:
    """All that the server has, but for what a time or a stream's entries are called."""
    found: dict[bytes, object] = {}
    for key in sorted(redis.keys("*")):
        match redis.type(key):
            case b"hash":
                fields = redis.hgetall(key)
                found[key] = {name: value for name, value in fields.items() if not name.endswith(b"_at")}
            case b"zset":
                found[key] = sorted(redis.zrange(key, 0, -1))
            case b"stream":
                found[key] = [sorted(fields.items()) for _, fields in redis.xrange(key)]
            case _:
                found[key] = redis.get(key)
    return found


def without_letters_names(found: dict[bytes, object]) -> str:
    return re.sub(r":\d+-\d+", ":letter", re.sub(r'"at":"[^"]*"', "", repr(found)))


@pytest.mark.parametrize("step", STEPS)
def test_a_user_who_may_not_do_all_of_a_step_does_nothing_of_it(step: str, house: tuple[RedisClient, str]) -> None:
    owner, url = house
    prepare, call = STEPS[step]
    with connect(Settings(redis_url=url)) as redis:
        ledger = Ledger(redis, Settings())
        owner.flushall()
        prepare(ledger, redis)
        call(ledger, redis)
        undisturbed = without_letters_names(kept(owner))
        for command in commands_of_scripts():
            owner.flushall()
            prepare(ledger, redis)
            before = kept(owner)
            owner.execute_command("ACL", "SETUSER", "other", f"-{command}")
            try:
                call(ledger, redis)
            except RedisRefused:
                assert kept(owner) == before, f"half of it was done without {command}"
            finally:
                owner.execute_command("ACL", "SETUSER", "other", "+@all")
            if kept(owner) == before:
                call(ledger, redis)
            assert without_letters_names(kept(owner)) == undisturbed, command


@pytest.mark.parametrize("step", STEPS)
def test_a_key_that_is_something_else_lets_nothing_be_done_by_half(step: str, house: tuple[RedisClient, str]) -> None:
    owner, url = house
    prepare, call = STEPS[step]
    shared = [TOPIC, DEAD_LETTERS, DELAYED, LIVE, JOBS, place_key(OUTPUT.prefix)]
    with connect(Settings(redis_url=url)) as redis:
        ledger = Ledger(redis, Settings())
        for key in [*shared, *job_keys("run-7")]:
            owner.flushall()
            prepare(ledger, redis)
            owner.delete(key)
            owner.rpush(key, "somebody else's")
            before = kept_beside(owner, key)
            refused = False
            try:
                call(ledger, redis)
            except (RedisRefused, InternalError) as error:
                # Of one job's keys, that job alone suffers; the others are waited for.
                refused = isinstance(error, RedisRefused) == (key in shared)
                assert refused, key
            if refused:
                assert kept_beside(owner, key) == before, f"half of it was done though {key} is something else"


def kept_beside(redis: RedisClient, key: str) -> dict[bytes, object]:
    value = redis.dump(key)
    redis.delete(key)
    found = kept(redis)
    redis.restore(key, 0, value)
    return found
