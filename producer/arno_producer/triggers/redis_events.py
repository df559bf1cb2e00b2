"""S3 events from Redis, as MinIO writes them: a list of what happened (`access`), or a hash of what is there
(`namespace`).

What is taken off a list lies in another one until it is enqueued. A field of a hash is removed once it is enqueued, if
it still says the same. What cannot be read, or what another job has the place of, goes to a list of its own.
"""

import json
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from arno_producer.client import Producer
from arno_producer.triggers.trigger import Trigger
from arno_producer.triggers.waiting import Pauses, Waiting
from arno_shared.errors import HouseError, InvalidRequest
from arno_shared.logs import get_logger
from arno_shared.names import Lane, dead_list, taken_list
from arno_shared.redis_client import RedisClient, connection_options, pool_of_one, redis_away
from arno_shared.redis_url import parse_redis_url

log = get_logger(__name__)

_IDLE_S = 0.5
_REMOVE = """
-- KEYS: hash, dead letters. ARGV: field, the value that was done, and whether that was refused.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[3] == '1' then redis.call('RPUSH', KEYS[2], ARGV[2]) end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""


class RedisTrigger:
    def __init__(
        self, url: str, key: str, trigger: Trigger, producer: Producer, lanes: Sequence[Lane], stopping: Event
    ) -> None:
        """`key` is written as it stands, whatever prefix Arno's own keys have. Raises InvalidRequest."""
        try:
            parsed = parse_redis_url(url)
        except ValueError as error:
            raise InvalidRequest(f"--redis-url: {error}") from None
        if parsed.kind == "sentinel":
            raise InvalidRequest("--redis-url: MinIO writes to one server, and not to sentinels: give its redis:// URL")
        options = {**connection_options(producer.settings, parsed), "retry": Retry(NoBackoff(), 0)}
        self._redis: RedisClient = redis.Redis.from_pool(pool_of_one(parsed, options))
        self._key, self._trigger, self._stopping = key, trigger, stopping
        self._waiting, self._pauses = Waiting(producer, lanes, stopping), Pauses(stopping)
        self._remove = self._redis.register_script(_REMOVE)

    def run(self) -> None:
        """Until it is to stop, and what is in hand is done with. Raises InvalidRequest when the key holds neither."""
        while self._waiting.for_room():
            try:
                with redis_away():
                    worked = self._work()
            except HouseError as error:
                self._pauses.pause(str(error))
                continue
            self._pauses.over()
            if not worked:
                self._stopping.wait(_IDLE_S)

    def _work(self) -> bool:
        """Whether there was anything."""
        taken = self._redis.lindex(taken_list(self._key), -1)
        if taken is not None:
            # Taken by a trigger that died, or that was to stop before it was enqueued.
            return self._enqueue_taken(taken)
        match self._redis.type(self._key):
            case b"list":
                taken = self._redis.lmove(self._key, taken_list(self._key), "LEFT", "RIGHT")
                return taken is not None and self._enqueue_taken(taken)
            case b"hash":
                return self._enqueue_hash()
            case b"none":
                return False
            case kind:
                raise InvalidRequest(
                    f"{self._key!r} is a {kind.decode()}: MinIO writes events to a list (access) or a hash (namespace)"
                )

    def _enqueue_taken(self, value: bytes) -> bool:
        def remove(refused: bool) -> None:
            steps = self._redis.pipeline()
            if refused:
                steps.rpush(dead_list(self._key), value)
            steps.lrem(taken_list(self._key), -1, value)
            steps.execute()

        return self._enqueue(value, remove)

    def _enqueue_hash(self) -> bool:
        found = False
        for field, value in self._redis.hscan_iter(self._key, count=100):
            found = True

            def remove(refused: bool, field: bytes = field, value: bytes = value) -> None:
                self._remove(keys=[self._key, dead_list(self._key)], args=[field, value, int(refused)])

            if not self._enqueue(value, remove):
                break
        return found

    def _enqueue(self, value: bytes, remove: Callable[[bool], None]) -> bool:
        """`remove` is called once it is enqueued, or refused. False when it is to stop before that."""
        try:
            taken = self._waiting.until_taken(lambda: self._trigger.handle(_read(value)))
        except InvalidRequest as error:
            log.warning("an event is set aside", key=self._key, kept_in=dead_list(self._key), error=str(error))
            remove(True)
            return True
        if taken:
            remove(False)
        return taken


def _read(value: bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise InvalidRequest("it is not JSON") from None
