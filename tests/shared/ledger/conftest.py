"""A ledger in a Valkey that is empty."""

from collections.abc import Iterator

import pytest

from arno_shared.dead_letters import DeadLetters
from arno_shared.ledger import Ledger
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from tests.shared.ledger.hand import RETENTION_S


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


@pytest.fixture
def ledger(redis: RedisClient, valkey_url: str) -> Ledger:
    return Ledger(redis, Settings(redis_url=valkey_url, ledger_retention_s=RETENTION_S))


@pytest.fixture
def letters(redis: RedisClient) -> DeadLetters:
    return DeadLetters(redis, 1000)
