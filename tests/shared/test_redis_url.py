"""A URL of Redis says one thing to the client and to the broker; what it cannot say is refused without its secrets."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arno_shared.redis_url import parse_redis_url
from arno_shared.uris import redact

SENTINELS = (("a.internal", 26379), ("b.internal", 26380), ("::1", 26379))


@pytest.mark.parametrize(
    ("url", "hosts", "user", "password", "db", "tls"),
    [
        ("redis://cache", (("cache", 6379),), None, None, 0, False),
        ("redis://cache:6380/2", (("cache", 6380),), None, None, 2, False),
        ("redis://:hush@cache/", (("cache", 6379),), None, "hush", 0, False),
        ("rediss://me:hu%2Fsh@[::1]:7/0?ssl_cert_reqs=none", (("::1", 7),), "me", "hu/sh", 0, True),
        ("redis://me:hu@s:h@cache", (("cache", 6379),), "me", "hu@s:h", 0, False),
    ],
)
def test_the_url_of_one_server(
    url: str, hosts: tuple[tuple[str, int], ...], user: str | None, password: str | None, db: int, tls: bool
) -> None:
    parsed = parse_redis_url(url)
    assert (parsed.kind, parsed.master) == ("server", "")
    assert (parsed.hosts, parsed.user, parsed.password, parsed.db, parsed.tls) == (hosts, user, password, db, tls)


@pytest.mark.parametrize(("path", "db"), [("the-master/3", 3), ("the-master/", 0), ("the%2Dmaster", 0)])
@pytest.mark.parametrize(("userinfo", "user", "password"), [("", None, None), ("me:hu%20sh@", "me", "hu sh")])
def test_the_url_of_sentinels(path: str, db: int, userinfo: str, user: str | None, password: str | None) -> None:
    parsed = parse_redis_url(f"sentinel://{userinfo}a.internal:26379,b.internal:26380, [::1]/{path}")
    assert (parsed.kind, parsed.hosts, parsed.master) == ("sentinel", SENTINELS, "the-master")
    assert (parsed.user, parsed.password, parsed.db, parsed.tls) == (user, password, db, False)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("cache:6379", "starts with redis://"),
        ("unix:///run/redis.sock", "starts with redis://"),
        ("sentinels://a/m", "starts with redis://"),
        ("redis://", "host or host:port"),
        ("redis://cache:x", "host or host:port"),
        ("redis://cache:70000", "host or host:port"),
        ("redis://a,b/0", "host or host:port"),
        ("redis://cache/results", "not /results"),
        ("redis://cache?db=2", "given as /2"),
        ("redis://cache/0#x", "%23"),
        ("sentinel://a,,b/m", "host or host:port"),
        ("sentinel://a;b/m", "host or host:port"),
        ("sentinel://a:26379", "name of the master"),
        ("sentinel://a:26379//0", "name of the master"),
        ("sentinel://a/m/x", "not /x"),
        ("sentinel://a/m/0/1", "not /0/1"),
        ("sentinel://a/m?ssl=true", "no ?options"),
    ],
)
def test_what_is_no_url_of_redis_is_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_redis_url(url)


@given(
    st.sampled_from(["redis://", "sentinel://", "sentinel:/", "Redis://", ""]),
    st.sampled_from(["SECRET", "12"]),
    st.sampled_from(["", "/", "?", "#", "@", ":", "%", "[", "\n"]),
    st.sampled_from(["h", "h:x", "h,h", "h/m/x", "", "h/m?x", "h:99999", "[::1"]),
)
def test_no_refusal_shows_a_password(scheme: str, start: str, special: str, rest: str) -> None:
    url = f"{scheme}me:{start}{special}SECRET@{rest}"
    try:
        parse_redis_url(url)
    except ValueError as error:
        assert "SECRET" not in str(error)  # noqa: PT017


def test_a_url_of_sentinels_is_shown_without_its_password() -> None:
    shown = redact("cannot reach sentinel://me:SEC@RET@a:26379,b:26379/arno/0, nor others")
    assert shown == "cannot reach sentinel://***@a:26379,b:26379/arno/0, nor others"
