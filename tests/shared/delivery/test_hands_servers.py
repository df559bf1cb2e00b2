"""What happens to messages in hand, on each server that is installed: while its memory is full, while it is a replica,
while its user may not do all."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import pytest
import redis as redis_py

from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.delivery.hands import Hands
from arno_shared.errors import HouseError, RedisRefused
from arno_shared.names import DEAD_LETTERS, UNACKED, UNACKED_INDEX, Lane, lists, queues
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from tests.servers import Valkey, redis_programs

PROGRAMS = redis_programs()
QUEUES = queues(1)
BULK = Lane.BULK.queue
LEASE_S = 60
LETTER = DeadLetter(kind=LetterKind.MESSAGE, code="undecodable", reason="-", raw="m", worker="w")


@pytest.fixture(scope="module", params=PROGRAMS)
def server(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    with Valkey(program=PROGRAMS[request.param]) as server:
        with redis_py.Redis.from_url(server.url) as first:
            first.execute_command("ACL", "SETUSER", "owner", "on", ">admin", "~*", "&*", "+@all")
        yield server


@pytest.fixture
def owner(server: Valkey) -> Iterator[RedisClient]:
    """Who may do anything to the server, which is empty."""
    with redis_py.Redis.from_url(server.url, username="owner", password="admin") as client:
        client.flushall()
        yield client


@pytest.fixture
def hands(server: Valkey, owner: RedisClient) -> Iterator[Hands]:
    with connect(Settings(redis_url=server.url)) as client:
        yield hands_of(client)


def hands_of(client: RedisClient) -> Hands:
    return Hands(client, worker="w", key_prefix="", lease_s=LEASE_S, lease_max_s=900, max_letters=1000)


@contextmanager
def full(owner: RedisClient) -> Iterator[None]:
    owner.config_set("maxmemory", 1)
    try:
        yield
    finally:
        owner.config_set("maxmemory", 0)


@contextmanager
def replica(owner: RedisClient) -> Iterator[None]:
    owner.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        owner.replicaof("no", "one")


@contextmanager
def may_not(rule: str, owner: RedisClient) -> Iterator[None]:
    owner.execute_command("ACL", "SETUSER", "default", *rule.split())
    try:
        yield
    finally:
        owner.execute_command("ACL", "SETUSER", "default", "reset", "on", "nopass", "~*", "&*", "+@all")


def message(name: str) -> bytes:
    return json.dumps({"body": name, "properties": {"delivery_tag": f"tag-of-{name}"}}).encode()


def take(hands: Hands, owner: RedisClient, name: str) -> str:
    """Claims a message of that name; its tag."""
    owner.lpush(BULK, message(name))
    claimed = hands.claim(QUEUES)
    assert claimed
    return claimed.tag


def let_the_lease_run_out(owner: RedisClient, tag: str) -> None:
    owner.zadd(UNACKED_INDEX, {tag: owner.time()[0] - LEASE_S - 1})


def waiting(owner: RedisClient) -> list[str]:
    return [json.loads(raw)["body"] for queue in QUEUES for name in lists(queue) for raw in owner.lrange(name, 0, -1)]


def held(owner: RedisClient) -> list[str]:
    """Those that have both: the message, and an entry in the index."""
    tags = owner.zrange(UNACKED_INDEX, 0, -1)
    records = owner.hmget(UNACKED, tags) if tags else []
    return [json.loads(record)[0]["body"] for record in records if record]


def everywhere(owner: RedisClient) -> list[str]:
    """Where it can still be found by somebody: what is in the hash alone is lost."""
    return sorted([*waiting(owner), *held(owner)])


# Memory is full


def test_a_full_server_lets_messages_be_claimed_and_their_leases_renewed(hands: Hands, owner: RedisClient) -> None:
    owner.lpush(BULK, message("m"))
    with full(owner):
        claimed = hands.claim(QUEUES)
        assert claimed
        assert hands.renew() == 1
    assert held(owner) == ["m"]


def test_a_full_server_lets_messages_be_acknowledged(hands: Hands, owner: RedisClient) -> None:
    tag = take(hands, owner, "m")
    with full(owner):
        hands.ack(tag)
    assert not owner.exists(UNACKED, UNACKED_INDEX, BULK)


@pytest.mark.parametrize("last", [False, True])
def test_a_full_server_lets_messages_be_given_back(last: bool, hands: Hands, owner: RedisClient) -> None:
    tag = take(hands, owner, "m")
    with full(owner):
        assert hands.give_back([tag], last=last) == 1
    assert waiting(owner) == ["m"]
    assert not owner.exists(UNACKED, UNACKED_INDEX)


def test_a_full_server_is_swept(hands: Hands, owner: RedisClient) -> None:
    late, ahead = take(hands, owner, "late"), take(hands, owner, "ahead")
    let_the_lease_run_out(owner, late)
    owner.zadd(UNACKED_INDEX, {ahead: owner.time()[0] + 3600})
    with full(owner):
        assert hands.sweep() == 1
    assert (waiting(owner), held(owner)) == (["late"], ["ahead"])
    assert owner.zscore(UNACKED_INDEX, ahead) < owner.time()[0] + 60


def test_a_full_server_takes_letters(hands: Hands, owner: RedisClient) -> None:
    tag = take(hands, owner, "m")
    owner.lpush(BULK, "no message")
    with full(owner):
        hands.bury(tag, LETTER)
        assert hands.claim(QUEUES) is None
    assert owner.xlen(DEAD_LETTERS) == 2
    assert not owner.exists(UNACKED, UNACKED_INDEX, BULK)


def test_a_full_server_takes_what_a_worker_sends(hands: Hands, owner: RedisClient) -> None:
    with full(owner):
        hands.put(BULK, message("m").decode())
    assert waiting(owner) == ["m"]


# It is refused: nothing is half done

REFUSALS: dict[str, Callable[[RedisClient], AbstractContextManager[None]]] = {
    "a replica": replica,
    **{
        rule: (lambda owner, rule=rule: may_not(rule, owner))
        for rule in (
            "-@scripting",
            "-@all",
            "-hdel",
            "-hset",
            "-zrem",
            "-zadd",
            "-rpop",
            "-rpush",
            "-lpush",
            "-xadd",
            "resetkeys ~unacked",
            "resetkeys ~unacked* ~arno:dead",
        )
    },
}
STEPS: dict[str, Callable[[Hands, str], object]] = {
    "claim": lambda hands, tag: hands.claim(QUEUES),
    "renew": lambda hands, tag: hands.renew(),
    "ack": lambda hands, tag: hands.ack(tag),
    "give back": lambda hands, tag: hands.give_back([tag]),
    "give back last": lambda hands, tag: hands.give_back([tag], last=True),
    "bury": lambda hands, tag: hands.bury(tag, LETTER),
    "sweep": lambda hands, tag: hands.sweep(),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_is_refused_loses_no_message_and_doubles_none(
    refusal: str, step: str, server: Valkey, hands: Hands, owner: RedisClient
) -> None:
    """However often it is tried. Done is what was acknowledged or buried, and what nothing refused."""
    tag = take(hands, owner, "held")
    owner.lpush(BULK, message("waits"))
    if step == "sweep":
        let_the_lease_run_out(owner, tag)
    refused = 0
    error = HouseError if refusal == "a replica" else RedisRefused
    with REFUSALS[refusal](owner):
        for _ in range(3):
            try:
                STEPS[step](hands, tag)
            except error:
                refused += 1
    ended = step in ("ack", "bury") and (refused == 0 or owner.xlen(DEAD_LETTERS) or not owner.hexists(UNACKED, tag))
    assert everywhere(owner) == (["waits"] if ended else ["held", "waits"])
    assert owner.xlen(DEAD_LETTERS) <= 1
    # And all goes on as if nothing had been.
    for entry in owner.zrange(UNACKED_INDEX, 0, -1):
        let_the_lease_run_out(owner, entry.decode())
    hands.sweep()
    assert sorted(waiting(owner)) == (["waits"] if ended else ["held", "waits"])
    assert not owner.exists(UNACKED, UNACKED_INDEX)


def test_what_dies_in_the_middle_of_an_acknowledgement_leaves_nothing_for_ever(
    hands: Hands, owner: RedisClient
) -> None:
    tag = take(hands, owner, "m")
    with may_not("-zrem", owner), suppress(HouseError):
        hands.ack(tag)
    assert not owner.exists(UNACKED)
    let_the_lease_run_out(owner, tag)
    assert hands.sweep() == 0
    assert not owner.exists(UNACKED_INDEX, BULK)
