"""The options that a URL of Redis may carry: those of redis-py's that Celery can be given too.

The others are refused: one of the two would not heed them, or fail of them, or Arno could not work with them
(`decode_responses`, `max_connections`).
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

_Reader: TypeAlias = tuple[Callable[[str], Any], str]
"""Raises ValueError where the text is not what the words say."""


def _seconds(text: str) -> float:
    if not (0 < (seconds := float(text)) < math.inf):
        raise ValueError
    return seconds


def _whole_seconds(text: str) -> int:
    return int(_matched(text, r"\d{1,9}"))


def _truth(text: str) -> bool:
    return _matched(text.lower(), "true|yes|1|false|no|0") in ("true", "yes", "1")


def _name(text: str) -> str:
    return _matched(text, "[!-~]+")


def _verification(text: str) -> str:
    return _matched(text, "none|optional|required")


def _matched(text: str, pattern: str) -> str:
    if not re.fullmatch(pattern, text, re.ASCII):
        raise ValueError
    return text


def _file(path: str) -> str:
    if not Path(path).is_file():
        raise ValueError
    return path


def _folder(path: str) -> str:
    if not Path(path).is_dir():
        raise ValueError
    return path


_SECONDS: _Reader = (_seconds, "a number of seconds above 0")
_TRUTH: _Reader = (_truth, "true or false")
_FILE: _Reader = (_file, "a file that is there")

CONNECTION: dict[str, _Reader] = {
    "socket_timeout": _SECONDS,
    "socket_connect_timeout": _SECONDS,
    "socket_keepalive": _TRUTH,
    "health_check_interval": (_whole_seconds, "a whole number of seconds, 0 for never"),
    "client_name": (_name, "a name without spaces"),
}
TLS: dict[str, _Reader] = {
    "ssl_cert_reqs": (_verification, "none, optional or required"),
    "ssl_check_hostname": _TRUTH,
    "ssl_ca_certs": _FILE,
    "ssl_ca_path": (_folder, "a folder that is there"),
    "ssl_certfile": _FILE,
    "ssl_keyfile": _FILE,
    "ssl_password": (str, "the password of ssl_keyfile"),
}


def read_options(query: str, *, tls: bool) -> dict[str, Any]:
    """The options in a URL's query, in the types that redis-py and kombu take.

    Raises ValueError, which names the option and shows no value.
    """
    known = CONNECTION | TLS if tls else CONNECTION
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name == "db":
            raise ValueError("the number of the database is given as /2, not as ?db=2")
        if name in TLS and not tls:
            raise ValueError(f"the option {name} is for TLS: the URL starts with rediss://")
        if name not in known:
            # A name of redis-py's holds no secret; anything else may.
            shown = f"the option {name}" if re.fullmatch(r"[a-z_]{1,40}", name) else "an option"
            raise ValueError(f"{shown} is not among those that can be given: {', '.join(known)}")
        if name in options:
            raise ValueError(f"the option {name} is given twice")
        read, words = known[name]
        try:
            options[name] = read(text)
        except ValueError:
            raise ValueError(f"the option {name} is {words}") from None
    if {"ssl_keyfile", "ssl_password"} & set(options) and "ssl_certfile" not in options:
        raise ValueError("the options ssl_keyfile and ssl_password go with ssl_certfile")
    return options
