"""A message that is none is filed with the dead letters; where that cannot be done it goes back. None is dropped."""

from collections.abc import Callable, Iterator

import pytest

from arno_shared import logs
from arno_shared.dead_letters import DeadLetter, DeadLetters
from arno_shared.delivery.hands import Hands
from arno_shared.errors import HouseError, InternalError, Undecodable
from arno_shared.names import UNACKED, UNACKED_INDEX, Lane
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from arno_workers.consumer.unreadable import consumer_class
from arno_workers.pipeline.patience import Drained
from tests.shared.delivery.test_transport import Consuming, message

QUEUE = Lane.BULK.queue


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    logs.configure("info")
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


@pytest.fixture
def hands(redis: RedisClient) -> Hands:
    return Hands(redis, worker="w", key_prefix="", lease_s=60, lease_max_s=900, max_letters=100)


@pytest.fixture
def consuming(valkey_url: str, hands: Hands, redis: RedisClient) -> Iterator[Consuming]:
    """It holds one message."""
    redis.lpush(QUEUE, message("none"))
    consuming = Consuming(Settings(redis_url=valkey_url), hands, credit=1)
    consuming.turn()
    assert len(hands) == 1
    yield consuming
    consuming.connection.close()
    consuming.app.close()


def file(consuming: Consuming, file_letter: Callable[[str, DeadLetter], None]) -> None:
    """As Celery's consumer does with what it cannot read."""
    kind = consumer_class(file_letter, "w")
    consumer = object.__new__(kind)
    consumer.connection_errors = ()
    consumer._file(consuming.messages[0], Undecodable, "it is none")


def test_what_is_no_message_is_a_letter_and_in_nobodys_hands(
    consuming: Consuming, hands: Hands, redis: RedisClient
) -> None:
    file(consuming, hands.bury)
    assert [filed.letter.code for filed in DeadLetters(redis, 10).list()] == ["undecodable"]
    assert not redis.exists(QUEUE, UNACKED, UNACKED_INDEX)


@pytest.mark.parametrize(
    "error",
    [Drained(), HouseError("away"), InternalError("bug"), RuntimeError("x")],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_filed_goes_back(error: Exception, consuming: Consuming, redis: RedisClient) -> None:
    def throw(tag: str, letter: DeadLetter) -> None:
        raise error

    file(consuming, throw)
    assert redis.lrange(QUEUE, 0, -1) == [message("none").encode()]
    assert not redis.exists(UNACKED, UNACKED_INDEX)
