"""The URL of Redis or Valkey, taken apart: one server, or the sentinels that know which server is the master."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

from arno_shared.redis_options import CONNECTION, TLS, read_options

Host: TypeAlias = tuple[str, int]

_URL = re.compile(
    # A password may hold an @ of its own: the user info ends at the last one before the path.
    r"(?P<scheme>redis|rediss|sentinel)://(?:(?P<userinfo>[^/?#]*)@)?(?P<hosts>[^/?#@]*)"
    r"(?:/(?P<path>[^?#@]*))?(?:\?(?P<query>[^#@]*))?"
)
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:,;]+))(?::(?P<port>\d{1,5}))?")

_HINT = "in a password, / ? # are written %2F %3F %23"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    kind: Literal["server", "sentinel"]
    hosts: tuple[Host, ...]
    """The server, or its sentinels."""
    master: str
    """The name under which the sentinels know it; empty for one server."""
    user: str | None
    password: str | None
    """Also that of the sentinels' own default user, who takes any where they have none."""
    db: int
    tls: bool
    options: Mapping[str, Any]
    """Of the connection, by redis-py's names, which are kombu's too; what is not given is not there."""
    tls_options: Mapping[str, Any]


def parse_redis_url(url: str) -> RedisUrl:
    """`redis[s]://[user][:password@]host[:6379][/db][?options]`, the options being those of `redis_options`, or
    `sentinel://[user][:password@]host[:26379],host[:26379]/name-of-the-master[/db]`.

    Raises ValueError, in words that hold nothing of the password.
    """
    if not url.startswith(("redis://", "rediss://", "sentinel://")):
        raise ValueError("it starts with redis://, rediss:// or sentinel://")
    if not (match := _URL.fullmatch(url)):
        raise ValueError(_HINT)
    user, _, password = map(unquote, (match["userinfo"] or "").partition(":"))
    sentinel = match["scheme"] == "sentinel"
    master, db = _master_and_db(match["path"] or "") if sentinel else ("", match["path"] or "")
    tls = match["scheme"] == "rediss"
    query = match["query"] or ""
    if query and sentinel:
        raise ValueError("a URL with sentinels takes no ?options")
    options = read_options(query, tls=tls)
    return RedisUrl(
        kind="sentinel" if sentinel else "server",
        hosts=_sentinels(match["hosts"]) if sentinel else (_host(match["hosts"], 6379),),
        master=master,
        user=user or None,
        password=password or None,
        db=_db(db),
        tls=tls,
        options={name: value for name, value in options.items() if name in CONNECTION},
        tls_options={name: value for name, value in options.items() if name in TLS},
    )


def _sentinels(hosts: str) -> tuple[Host, ...]:
    return tuple(_host(host.strip(), 26379) for host in hosts.split(","))


def _host(host: str, default_port: int) -> Host:
    # What cannot be read is not shown: it may be the beginning of a password.
    match = _HOST.fullmatch(host)
    if not match or not 0 < int(match["port"] or default_port) < 65536:
        raise ValueError(f"a host is written host or host:port; {_HINT}")
    return match["v6"] or match["name"], int(match["port"] or default_port)


def _master_and_db(path: str) -> tuple[str, str]:
    master, _, db = path.partition("/")
    if not master:
        raise ValueError("after the sentinels comes the name of the master: sentinel://host:26379/name/0")
    return unquote(master), db


def _db(path: str) -> int:
    if path and not re.fullmatch(r"\d{1,9}", path):
        raise ValueError(f"the number of the database comes last, as in /0, not /{path}")
    return int(path or 0)
