"""A server whose memory is full takes what a worker sends, and refuses what a producer sends."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from arno_shared.broker import Sender, celery_app
from arno_shared.delivery.hands import Hands
from arno_shared.errors import HouseError
from arno_shared.names import Lane, queues
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings
from tests.servers import Valkey, redis_programs

PROGRAMS = redis_programs()


@pytest.fixture(scope="module", params=PROGRAMS)
def server(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    with Valkey(program=PROGRAMS[request.param]) as server:
        yield server


@contextmanager
def full(redis: RedisClient) -> Iterator[None]:
    redis.config_set("maxmemory", 1)
    try:
        yield
    finally:
        redis.config_set("maxmemory", 0)


@pytest.mark.parametrize("lane", Lane)
@pytest.mark.parametrize("key_prefix", ["", "p:"])
def test_on_a_full_server_a_worker_sends_and_a_producer_is_refused(lane: Lane, key_prefix: str, server: Valkey) -> None:
    settings = Settings(redis_url=server.url, key_prefix=key_prefix)
    with connect(settings) as redis:
        redis.flushall()
        hands = Hands(redis, worker="w", key_prefix=key_prefix, lease_s=60, lease_max_s=900, max_letters=10)
        with celery_app(settings, hands) as workers, celery_app(settings) as producers, full(redis):
            with pytest.raises(HouseError, match="maxmemory"):
                Sender(producers).send_raw(lane, "arno.annotate", [], {"by": "a producer"})
            Sender(workers).send_raw(lane, "arno.annotate", [], {"by": "a worker"})
            assert redis.llen(lane.queue) == 1
            claimed = hands.claim(queues(1))
            assert claimed
            assert claimed.queue == lane.queue
        assert not redis.exists(lane.queue)


def test_what_a_worker_sends_is_what_a_producer_sends(server: Valkey) -> None:
    settings = Settings(redis_url=server.url)
    with connect(settings) as redis:
        redis.flushall()
        hands = Hands(redis, worker="w", key_prefix="", lease_s=60, lease_max_s=900, max_letters=10)
        for own in (hands, None):
            with celery_app(settings, own) as app:
                Sender(app).send_raw(Lane.BULK, "arno.annotate", ["ä"], {"images": []}, "run-7.0.1")
        first, second = map(json.loads, redis.lrange(Lane.BULK.queue, 0, -1))
        assert first.keys() == second.keys()
        assert [first[name] for name in ("body", "content-type")] == [second[name] for name in ("body", "content-type")]
        assert first["properties"].keys() == second["properties"].keys()
