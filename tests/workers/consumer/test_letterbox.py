"""A letter that cannot be filed now waits with its message in hand, and keeps nobody from anything."""

from collections.abc import Iterator

import pytest
import redis as redis_py

from arno_shared.dead_letters import DeadLetter, DeadLetters, LetterKind
from arno_shared.delivery.hands import Hands
from arno_shared.names import UNACKED, UNACKED_INDEX, Lane
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from arno_workers.consumer.letterbox import Letterbox
from arno_workers.pipeline.patience import Drain
from tests.acceptance.arno_worker import eventually

QUEUE = Lane.BULK.queue
LETTER = DeadLetter(kind=LetterKind.MESSAGE, code="unknown_task", reason="who knows", raw="{}", worker="w")
MESSAGE = '{"properties": {"delivery_tag": "%s"}}'


@pytest.fixture
def owner(valkey_url: str) -> Iterator[RedisClient]:
    """Who may do everything; a worker has the user `worker`."""
    with redis_py.Redis.from_url(valkey_url) as client:
        client.execute_command("ACL", "SETUSER", "worker", "on", "nopass", "~*", "&*", "+@all")
        yield client
        client.execute_command("ACL", "DELUSER", "worker")


@pytest.fixture
def hands(valkey_url: str, owner: RedisClient) -> Hands:
    redis = connect(Settings(redis_url=valkey_url.replace("redis://", "redis://worker:x@")))
    return Hands(redis, worker="w", key_prefix="", lease_s=60, lease_max_s=900, max_letters=100)


def claim(hands: Hands, owner: RedisClient, name: str) -> str:
    owner.lpush(QUEUE, MESSAGE % name)
    claimed = hands.claim([QUEUE])
    assert claimed
    return claimed.tag


def filed(owner: RedisClient) -> list[str]:
    return [each.letter.code for each in DeadLetters(owner, 10).list()]


def test_a_letter_is_filed_at_once(hands: Hands, owner: RedisClient) -> None:
    count: list[int] = []
    assert Letterbox(hands, Drain(60), lambda: count.append(1))(claim(hands, owner, "a"), LETTER)
    assert (filed(owner), count, len(hands)) == (["unknown_task"], [1], 0)


def test_one_that_cannot_be_filed_waits_while_others_are_taken(hands: Hands, owner: RedisClient) -> None:
    count: list[int] = []
    refusals: list[str] = []
    hands.on_refusal = refusals.append
    tag = claim(hands, owner, "a")
    owner.execute_command("ACL", "SETUSER", "worker", "-xadd")
    assert Letterbox(hands, Drain(60), lambda: count.append(1))(tag, LETTER) is False
    assert hands.holds(tag)
    assert "xadd" in refusals[0]
    claim(hands, owner, "b")
    assert not filed(owner)
    owner.execute_command("ACL", "SETUSER", "worker", "+xadd")
    eventually(lambda: filed(owner) == ["unknown_task"], "the letter is filed")
    eventually(lambda: not hands.holds(tag), "its message is done with")
    assert count == [1]


def test_one_that_cannot_be_filed_before_the_worker_stops_goes_back(hands: Hands, owner: RedisClient) -> None:
    tag = claim(hands, owner, "a")
    drain = Drain(60)
    owner.execute_command("ACL", "SETUSER", "worker", "-xadd")
    assert Letterbox(hands, drain, lambda: None)(tag, LETTER) is False
    drain.end_now()
    eventually(lambda: owner.lrange(QUEUE, 0, -1) == [(MESSAGE % "a").encode()], "it is back in its queue")
    assert not owner.exists(UNACKED, UNACKED_INDEX)
