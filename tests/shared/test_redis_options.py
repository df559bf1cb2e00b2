"""An option of a Redis URL is given to Arno's client and to Celery's alike, or refused in one sentence."""

import re
from pathlib import Path

import pytest
from redis.connection import URL_QUERY_ARGUMENT_PARSERS

from arno_shared.redis_options import CONNECTION, TLS, read_options


def test_options_come_in_the_types_that_clients_take() -> None:
    read = read_options(
        "socket_timeout=2.5&socket_connect_timeout=1&socket_keepalive=No&health_check_interval=0&client_name=a%2Fb",
        tls=False,
    )
    assert read == {
        "socket_timeout": 2.5,
        "socket_connect_timeout": 1.0,
        "socket_keepalive": False,
        "health_check_interval": 0,
        "client_name": "a/b",
    }
    assert read_options("", tls=False) == {}


def test_options_of_tls(tmp_path: Path) -> None:
    file = tmp_path / "a b.pem"
    file.write_text("")
    named = {"ssl_ca_certs": str(file), "ssl_ca_path": str(tmp_path), "ssl_certfile": str(file)}
    query = "&".join(f"{name}={path.replace(' ', '%20')}" for name, path in named.items())
    assert read_options(f"{query}&ssl_cert_reqs=none&ssl_check_hostname=false&socket_timeout=1", tls=True) == {
        **named,
        "ssl_cert_reqs": "none",
        "ssl_check_hostname": False,
        "socket_timeout": 1.0,
    }


@pytest.mark.parametrize(
    ("query", "words"),
    [
        *((f"{name}={value}", f"{name} is a number of seconds above 0")
          for name in ("socket_timeout", "socket_connect_timeout") for value in ("abc", "", "0", "-1", "inf", "nan")),
        *((f"health_check_interval={value}", "health_check_interval is a whole number of seconds")
          for value in ("x", "-1", "1.5", "")),
        *((f"socket_keepalive={value}", "socket_keepalive is true or false") for value in ("maybe", "", "2")),
        *((f"client_name={value}", "client_name is a name without spaces") for value in ("", "a+b", "a%0Ab", "%C3%A4")),
        ("socket_timeout=1&socket_timeout=2", "socket_timeout is given twice"),
        ("db=2", "given as /2"),
        ("db=x", "given as /2"),
        ("sockt_timeout=1", "sockt_timeout is not among those that can be given: socket_timeout, "),
        ("decode_responses=true", "decode_responses is not among"),
        ("max_connections=2", "max_connections is not among"),
        ("retry_on_timeout=true", "retry_on_timeout is not among"),
        ("protocol=2", "protocol is not among"),
        ("username=me&password=hush", "username is not among"),
        ("HUSH=1", "an option is not among"),
        ("ssl_cert_reqs=none", "ssl_cert_reqs is for TLS: the URL starts with rediss://"),
        ("ssl=true", "ssl is not among"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(query: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        read_options(query, tls=False)
    assert "hush" not in str(refused.value).lower()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs is none, optional or required"),
        ("ssl_check_hostname=maybe", "ssl_check_hostname is true or false"),
        ("ssl_ca_certs=/nowhere.pem", "ssl_ca_certs is a file that is there"),
        ("ssl_ca_path=/nowhere", "ssl_ca_path is a folder that is there"),
        ("ssl_keyfile=/dev/null", "ssl_keyfile is a file that is there"),
        ("ssl_password=hush", "go with ssl_certfile"),
        ("ssl_min_version=771", "ssl_min_version is not among"),
    ],
)
def test_what_tls_cannot_honour_is_refused_by_name(query: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        read_options(query, tls=True)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("name", sorted(URL_QUERY_ARGUMENT_PARSERS))
def test_every_option_that_redis_py_reads_in_its_own_way_is_known_or_refused(name: str) -> None:
    if name not in CONNECTION | TLS:
        with pytest.raises(ValueError, match=name if name != "db" else "given as /2"):
            read_options(f"{name}=1", tls=True)
