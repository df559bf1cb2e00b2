"""Who writes an object, where storage does not see to it that only one does: a lock in Redis for each object."""

import hashlib
import uuid
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from time import monotonic, sleep
from typing import Any, NamedTuple

from arno_shared.errors import HouseError
from arno_shared.logs import get_logger
from arno_shared.names import write_lock
from arno_shared.redis_client import RedisClient, redis_away
from arno_shared.storage.backend import CONNECT_TIMEOUT_S, MAX_ATTEMPTS, READ_TIMEOUT_S
from arno_shared.uris import redact

_CALL_S = MAX_ATTEMPTS * (CONNECT_TIMEOUT_S + READ_TIMEOUT_S)
"""How long a call of boto3 may take, but for its waits between attempts, of at most 3 s in all."""

LIFE_S = 2.0 * (_CALL_S + 15)
"""How long a lock lives that nobody renews: as long as a look, or a write, may take. Each is two calls at most (HEAD
and GET; two puts to a bucket of which nothing is known), and has some seconds for requests that arrive late. Where
bytes trickle a call takes longer still, which is noticed."""

_LOOK_EVERY_S = 0.05

_TAKE = """
-- KEYS: lock. ARGV: token, life_ms. Returns 1, or 0 when another has it.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
-- First, because a server whose memory is full refuses what may take more until a script has written something else.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

_RENEW = """
-- KEYS: lock. ARGV: token, life_ms. Returns 1, or 0 when it is no longer ours.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

_LET_GO = """
-- KEYS: lock. ARGV: token.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""

log = get_logger(__name__)


class _Lock(NamedTuple):
    key: str
    token: str
    name: str
    """Of the object, for people."""


class RedisArbiter:
    """Lets one at a time look whether an object stands, and write it. All who write there have to share the Redis.

    `life_s` is for how long one that died keeps others out; `wait_s`, for how long one is waited for.
    """

    def __init__(self, redis: RedisClient, *, life_s: float = LIFE_S, wait_s: float = 2.0) -> None:
        self._life_s, self._wait_s = life_s, wait_s
        self._name = uuid.uuid4().hex
        self._take, self._renew, self._let_go = map(redis.register_script, (_TAKE, _RENEW, _LET_GO))

    def write_new(self, uri: str, data: bytes, stands: Callable[[], bool], write: Callable[[], bool]) -> bool:
        """As `Arbiter.write_new`. Raises HouseError, too, when another is at it for longer than this waits, when Redis
        is away, and when the write took longer than the lock lives, so that another may have come in between."""
        lock = _Lock(write_lock(uri), self._token(data), redact(uri)[:500])
        self._wait_for(lock)
        ended = True
        try:
            if stands():
                return False
            until_s = self._renewed(lock)
            try:
                is_new = write()
            except HouseError:
                # What was sent may still arrive: others are kept out until the lock has run out.
                ended = False
                raise
        finally:
            if ended:
                # Where Redis is away, it runs out by itself.
                with suppress(HouseError):
                    self._asks(self._let_go, lock)
        if monotonic() > until_s:
            raise self._outlived(lock)
        return is_new

    def _token(self, data: bytes) -> str:
        """The lock that a write left behind which was not seen to end is that of the same thread that tries the same
        bytes again: those do no harm, whichever of them arrives last."""
        return f"{self._name}/{get_ident()}/{hashlib.sha256(data).hexdigest()}"

    def _wait_for(self, lock: _Lock) -> None:
        give_up_s = monotonic() + self._wait_s
        while not self._asks(self._take, lock):
            if monotonic() > give_up_s:
                raise HouseError(f"another writes {lock.name} just now, or was cut off: try again a little later")
            sleep(_LOOK_EVERY_S)

    def _renewed(self, lock: _Lock) -> float:
        """By when, on this process's own clock, the write must be done. Redis is asked, so that whoever was frozen
        since it took the lock learns that it has run out."""
        until_s = monotonic() + self._life_s
        if not self._asks(self._renew, lock):
            raise self._outlived(lock)
        return until_s

    def _asks(self, script: Any, lock: _Lock) -> bool:
        with redis_away():
            return bool(script(keys=[lock.key], args=[lock.token, int(self._life_s * 1000)]))

    def _outlived(self, lock: _Lock) -> HouseError:
        log.warning("a write outlived its lock", object=lock.name, life_s=self._life_s)
        return HouseError(f"{lock.name} took longer than its lock lives, {self._life_s:g} s: another may have written")
