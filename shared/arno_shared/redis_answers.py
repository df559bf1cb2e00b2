"""What each error of Redis means, in one table: it may pass, somebody set something up wrongly, or Arno asked wrongly.

redis-py makes classes of some codes, and takes the code from their text; others stand at the start of the text. Redis
6.2 hides those of a script's commands in the middle of it. Where there is no code but ERR, words tell.
"""

import re
from enum import Enum
from typing import NamedTuple, TypeAlias

import redis
from redis import exceptions

from arno_shared.errors import ArnoError, HouseError, InternalError, RedisRefused
from arno_shared.uris import redact


class Meaning(Enum):
    HOUSE = HouseError
    """It may pass: wait."""
    MISTAKE = RedisRefused
    """It stays until somebody mends it."""
    BUG = InternalError
    """Arno asked for something that cannot be."""


Sign: TypeAlias = type[redis.RedisError] | str
"""A class of redis-py's, a code in capitals, or words in small letters of an error that has no code but ERR."""


class Answer(NamedTuple):
    meaning: Meaning
    signs: tuple[Sign, ...]
    what_to_do: str = ""


ONE_SERVER = (
    "it is a Redis Cluster, which spreads keys over servers, and Arno changes several keys in one step: use one "
    "server, or Sentinel"
)
NEWER = "use Redis 6.2, Valkey or newer"
_LOGIN = "ARNO_REDIS_URL gives user and password: redis://user:password@host"
_RIGHTS = "allow its user all commands, and all keys that begin with ARNO_KEY_PREFIX: ACL SETUSER name on +@all ~*"

ANSWERS = (
    Answer(
        Meaning.MISTAKE,
        (
            exceptions.AuthenticationError,
            exceptions.AuthenticationWrongNumberOfArgsError,
            "NOAUTH",
            "WRONGPASS",
        ),
        _LOGIN,
    ),
    Answer(
        Meaning.MISTAKE,
        (
            exceptions.AuthorizationError,
            exceptions.NoPermissionError,
            "NOPERM",
            "acl failure in script",
            "the user executing the script can't",
        ),
        _RIGHTS,
    ),
    # MOVED is a kind of ASK.
    Answer(
        Meaning.MISTAKE,
        (
            exceptions.AskError,
            exceptions.ClusterCrossSlotError,
            "ASK",
            "CROSSSLOT",
            "MOVED",
            "select is not allowed in cluster mode",
        ),
        ONE_SERVER,
    ),
    Answer(
        Meaning.MISTAKE,
        ("db index is out of range",),
        "ARNO_REDIS_URL ends with the number of the database, which is below Redis's setting `databases`",
    ),
    Answer(
        Meaning.MISTAKE,
        ("WRONGTYPE", "wrongtype"),
        "others write to a key of Arno's: delete it, and give Arno a database or an ARNO_KEY_PREFIX of its own",
    ),
    Answer(Meaning.MISTAKE, ("DENIED",), "set a password in Redis, or let it listen to Arno's machines alone"),
    # The one in a script is the script's fault.
    Answer(Meaning.BUG, ("called from script", "called from lua script")),
    Answer(
        Meaning.MISTAKE,
        ("NOPROTO", "unknown command"),
        f"it is too old, or a command was renamed or taken away: {NEWER}",
    ),
    # Those of a login are connection errors as well, and stand above.
    Answer(Meaning.HOUSE, (exceptions.ConnectionError, exceptions.TimeoutError, "max number of clients")),
    # Half of an answer.
    Answer(Meaning.HOUSE, (exceptions.InvalidResponse,)),
    Answer(Meaning.HOUSE, ("BUSY", "script killed by user")),
    Answer(Meaning.HOUSE, (exceptions.OutOfMemoryError, "OOM", "MISCONF")),
    Answer(Meaning.HOUSE, (exceptions.ReadOnlyError, "READONLY", "NOREPLICAS", "UNBLOCKED")),
    # MASTERDOWN is a kind of CLUSTERDOWN.
    Answer(Meaning.HOUSE, (exceptions.ClusterDownError, "CLUSTERDOWN", "MASTERDOWN", "LOADING")),
    Answer(Meaning.HOUSE, (exceptions.TryAgainError, exceptions.WatchError, "TRYAGAIN")),
    # What aborted it was answered before; a script that a server forgot is loaded by the next try.
    Answer(Meaning.HOUSE, (exceptions.ExecAbortError, exceptions.NoScriptError, "EXECABORT", "NOSCRIPT")),
)
"""The first that has a sign of the error; what is in none is a bug."""

# What was asked for stands before it, or after it, and may hold secrets.
_PIPELINE = re.compile(r"Command # \d+ .* of pipeline caused error: ", re.DOTALL)
_ARGUMENTS = re.compile(r", with args beginning with:.*", re.DOTALL)
_CODE = re.compile(r"-?([A-Z]{2,})\b")
_CODE_IN_SCRIPT = re.compile(r"Error running script .*?: -?([A-Z]{2,})\b", re.DOTALL)


def arno_error(error: redis.RedisError) -> ArnoError:
    """HouseError, RedisRefused or InternalError: the error of Redis in Arno's terms, without secrets."""
    words = _ARGUMENTS.sub("", _PIPELINE.sub("", str(error)))
    meaning, _, what_to_do = _answer(error, words)
    text = f"Redis cannot be used: {redact(words)}"
    kind: type[ArnoError] = meaning.value
    return kind(f"{text.rstrip('.')}; {what_to_do}" if what_to_do else text)


def _answer(error: redis.RedisError, words: str) -> Answer:
    code, told = _code(words), words.lower()

    def has(sign: Sign) -> bool:
        if isinstance(sign, str):
            return sign == code if sign.isupper() else sign in told
        return isinstance(error, sign)

    return next((answer for answer in ANSWERS if any(map(has, answer.signs))), Answer(Meaning.BUG, ()))


def _code(words: str) -> str:
    found = _CODE_IN_SCRIPT.match(words) or _CODE.match(words)
    return found[1] if found else ""
