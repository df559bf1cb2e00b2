"""A Redis client that puts a prefix before every key, so that several Arnos share a database and do not meet.

A command whose keys are not known here is refused: an unprefixed key would be somebody else's.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import redis
from redis.client import Pipeline

_FIRST, _FIRST_TWO, _ALL, _ALL_BUT_LAST, _SECOND = slice(1, 2), slice(1, 3), slice(1, None), slice(1, -1), slice(2, 3)

_COMMANDS_BY_KEYS: tuple[tuple[slice, str], ...] = (
    (
        _FIRST,
        """
        APPEND DECR DECRBY GET GETBIT GETDEL GETEX GETRANGE GETSET INCR INCRBY INCRBYFLOAT SET SETBIT SETEX SETNX
        SETRANGE STRLEN BITCOUNT BITPOS PSETEX
        EXPIRE EXPIREAT EXPIRETIME PEXPIRE PEXPIREAT PERSIST PTTL TTL TYPE DUMP KEYS
        HDEL HEXISTS HGET HGETALL HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET HMSET HSCAN HSET HSETNX HVALS
        LINDEX LINSERT LLEN LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM RPOP RPUSH RPUSHX
        SADD SCARD SISMEMBER SMEMBERS SMISMEMBER SPOP SRANDMEMBER SREM SSCAN
        ZADD ZCARD ZCOUNT ZINCRBY ZMSCORE ZPOPMAX ZPOPMIN ZRANGE ZRANGEBYSCORE ZRANK ZREM ZREMRANGEBYRANK
        ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE
        XACK XADD XAUTOCLAIM XCLAIM XDEL XLEN XPENDING XRANGE XREVRANGE XTRIM
        XGROUP_CREATE XGROUP_CREATECONSUMER XGROUP_DELCONSUMER XGROUP_DESTROY XGROUP_SETID
        XINFO_CONSUMERS XINFO_GROUPS XINFO_STREAM MEMORY_USAGE
        """,
    ),
    (_FIRST_TWO, "BLMOVE LMOVE RENAME RENAMENX RPOPLPUSH BRPOPLPUSH SMOVE COPY"),
    (_ALL, "DEL EXISTS MGET TOUCH UNLINK WATCH SDIFF SINTER SUNION PFCOUNT"),
    (_ALL_BUT_LAST, "BLPOP BRPOP BZPOPMAX BZPOPMIN"),
    (_SECOND, "OBJECT"),
    (slice(1, None, 2), "MSET MSETNX"),
)
_KEYS = {name.replace("_", " "): where for where, names in _COMMANDS_BY_KEYS for name in names.split()}

_SCRIPTS = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"})

# By their first word: none of their sub-commands takes a key. FLUSHDB is for whoever means the whole database.
_KEYLESS_WORDS = """
    ACL AUTH BGREWRITEAOF BGSAVE CLIENT CONFIG DBSIZE DISCARD ECHO EXEC FLUSHALL FLUSHDB HELLO INFO LASTSAVE LATENCY
    MULTI PING REPLICAOF ROLE SAVE SCRIPT SELECT SHUTDOWN SLOWLOG TIME UNWATCH WAIT WAITAOF
"""
_KEYLESS = frozenset(_KEYLESS_WORDS.split())


def client_class(prefix: str) -> type[redis.Redis]:
    """What to make clients of whose keys all start with the prefix; `redis.Redis` itself when there is none."""
    if not prefix:
        return redis.Redis

    class PrefixedRedis(_PrefixedRedis):
        key_prefix = prefix

    return PrefixedRedis


def _key_positions(args: Sequence[Any]) -> range:
    name = args[0].upper()
    if name in _KEYS:
        return range(len(args))[_KEYS[name]]
    if name in _SCRIPTS:
        return range(3, 3 + int(args[2]))
    if name in ("XREAD", "XREADGROUP"):
        # A group or a consumer may be called STREAMS as well.
        words = [word in ("STREAMS", b"STREAMS") and at > 3 * (name == "XREADGROUP") for at, word in enumerate(args)]
        first = words.index(True) + 1
        return range(first, first + (len(args) - first) // 2)
    if name == "SCAN" or name.split()[0] in _KEYLESS:
        return range(0)
    raise NotImplementedError(f"where {name} has its keys is not known, which {__name__} would put a prefix before")


class _Prefixing:
    """What client and pipeline have in common."""

    key_prefix: str

    def execute_command(self, *args: Any, **options: Any) -> Any:
        words = list(args)
        for at in _key_positions(args):
            words[at] = self._prefixed(args[at])
        if args[0].upper() == "SCAN":
            words = self._scan(words)
        return super().execute_command(*words, **options)  # type: ignore[misc]

    def _prefixed(self, key: Any) -> bytes:
        # The client's own encoder refuses what is no key.
        return self.key_prefix.encode() + bytes(self.get_encoder().encode(key))  # type: ignore[attr-defined]

    def _scan(self, words: list[Any]) -> list[Any]:
        """Prefixes have no character that means something in a pattern."""
        for at, word in enumerate(words[:-1]):
            if at > 1 and word in ("MATCH", b"MATCH"):
                return [*words[: at + 1], self._prefixed(words[at + 1]), *words[at + 2 :]]
        return [*words, b"MATCH", self._prefixed("*")]


class _PrefixedPipeline(_Prefixing, Pipeline):
    def __init__(self, key_prefix: str, *args: Any) -> None:
        self.key_prefix = key_prefix
        super().__init__(*args)


class _PrefixedRedis(_Prefixing, redis.Redis):
    """Its class, not its instance, has the prefix: redis-py makes further clients of it, and asks for their class."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        callbacks: dict[str, Callable[..., Any]] = self.response_callbacks
        for command, strip in _STRIP.items():
            callbacks[command] = self._stripping(strip, callbacks.get(command))

    def _stripping(self, strip: "_Strip", then: Callable[..., Any] | None) -> Callable[..., Any]:
        """Callbacks serve client and pipelines alike."""

        def callback(answer: Any, **options: Any) -> Any:
            stripped = answer and strip(answer, len(self.key_prefix))
            return then(stripped, **options) if then else stripped

        return callback

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        return _PrefixedPipeline(
            self.key_prefix, self.connection_pool, self.response_callbacks, transaction, shard_hint
        )

    def pubsub(self, **_: Any) -> NoReturn:
        raise NotImplementedError("channels have no prefix")


_Strip = Callable[[Any, int], Any]
"""Takes an answer's keys and the length of the prefix."""


def _strip_streams(answer: Any, size: int) -> Any:
    if isinstance(answer, dict):  # RESP3
        return {name[size:]: entries for name, entries in answer.items()}
    return [[name[size:], entries] for name, entries in answer]


def _strip_first(answer: Any, size: int) -> Any:
    return [answer[0][size:], *answer[1:]]


_STRIP: dict[str, _Strip] = {
    "KEYS": lambda answer, size: [key[size:] for key in answer],
    "SCAN": lambda answer, size: [answer[0], [key[size:] for key in answer[1]]],
    "XREAD": _strip_streams,
    "XREADGROUP": _strip_streams,
    "BLPOP": _strip_first,
    "BRPOP": _strip_first,
    "BZPOPMAX": _strip_first,
    "BZPOPMIN": _strip_first,
}
