"""A URL of Redis says one thing to the client and to the broker; what it cannot say is refused without its secrets."""

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from arno_producer import Producer
from arno_producer.cli.doctor.findings import Verdict
from arno_producer.cli.doctor.redis import check_redis
from arno_shared.broker import check_broker, queue_length
from arno_shared.delivery.hands import Hands
from arno_shared.errors import HouseError
from arno_shared.names import Lane
from arno_shared.redis_client import connect
from arno_shared.redis_url import parse_redis_url
from arno_shared.settings import Settings
from arno_shared.uris import file_uri, redact
from tests.servers import Valkey
from tests.shared.tls_door import tls_door

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
        ("redis://cache/0?socket_timeout=abc", "socket_timeout is a number"),
        ("redis://cache/0?ssl_cert_reqs=none", "starts with rediss://"),
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


# Over a real server, by all who use it


def works(url: str, folder: Path) -> None:
    """Doctor, submitting through Celery, and taking what was sent."""
    producer = Producer(Settings(redis_url=url, output_prefix=file_uri(folder)))
    assert next(check_redis(producer)).verdict is Verdict.OK
    job = producer.submit(["s3://b/a.jpg"], "<OD>")
    assert job.status().images == 1
    hands = Hands(producer.redis, worker="w", key_prefix="", lease_s=9, lease_max_s=9, max_letters=9)
    claimed = hands.claim([Lane.BULK.queue])
    assert claimed is not None
    hands.ack(claimed.tag)
    assert queue_length(producer.redis, Lane.BULK) == 0


def is_refused(url: str, folder: Path) -> str:
    """What the doctor says. Submitting says the same, and leaves no job behind that runs for ever."""
    producer = Producer(Settings(redis_url=url, output_prefix=file_uri(folder)))
    found = next(check_redis(producer))
    assert found.verdict is Verdict.FAILED
    with pytest.raises(HouseError, match="Redis cannot be used"):
        producer.submit(["s3://b/a.jpg"], "<OD>")
    with pytest.raises(HouseError, match="Redis cannot be used"):
        check_broker(producer.app)
    return found.says


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?",
        "?health_check_interval=30",
        "?socket_timeout=5&socket_connect_timeout=2.5&socket_keepalive=false",
        "?client_name=one",
    ],
)
def test_options_work_for_all(query: str, valkey_url: str, tmp_path: Path) -> None:
    works(valkey_url + query, tmp_path)


def test_both_connections_are_told_the_options(valkey_url: str) -> None:
    producer = Producer(Settings(redis_url=f"{valkey_url}?client_name=told"))

    def told() -> int:
        return sum(client["name"] == "told" for client in producer.redis.client_list())

    by_arno = told()
    assert by_arno == 1
    with producer.app.connection_for_write() as connection:
        connection.connect()
        assert told() > by_arno


@pytest.mark.parametrize("path", ["", "/", "/3"])
def test_databases_work_for_all(path: str, valkey_url: str, tmp_path: Path) -> None:
    works(valkey_url.removesuffix("/0") + path, tmp_path)


def test_a_database_that_is_not_there_is_said_to_be_so(valkey_url: str, tmp_path: Path) -> None:
    assert "DB index is out of range" in is_refused(valkey_url.removesuffix("/0") + "/999", tmp_path)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Valkey]:
    """Has the user `m@e` of the password `p/s s:@`, and one who may only look."""
    with Valkey() as valkey:
        with connect(Settings(redis_url=valkey.url)) as redis:
            redis.acl_setuser(
                "m@e", enabled=True, passwords=["+p/s s:@"], keys=["*"], channels=["*"], commands=["+@all"]
            )
            redis.acl_setuser(
                "guest", enabled=True, passwords=["+guest"], keys=["*"], channels=["*"], commands=["+info", "+client"]
            )
        yield valkey


def test_users_and_passwords_work_for_all(guarded: Valkey, tmp_path: Path) -> None:
    works(f"redis://m%40e:{quote('p/s s:@', '')}@127.0.0.1:{guarded.port}/0", tmp_path)
    works(f"redis://m%40e:p%2Fs%20s:@@127.0.0.1:{guarded.port}/0?client_name=x", tmp_path / "again")


@pytest.mark.parametrize("login", ["m%40e:HUSH", "nobody:HUSH", "guest:guest"])
def test_who_may_not_in_is_told_so_without_the_password(login: str, guarded: Valkey, tmp_path: Path) -> None:
    says = is_refused(f"redis://{login}@127.0.0.1:{guarded.port}/0", tmp_path)
    assert re.search("invalid username-password pair|no permissions", says)
    assert "HUSH" not in redact(says)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of a Valkey behind TLS, which asks for no certificate, and the file of who signed its own."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    with Valkey() as valkey, tls_door(valkey.port, context) as port:
        yield port, file


@pytest.mark.parametrize(
    ("host", "query"),
    [
        ("127.0.0.1", "?ssl_ca_certs={file}"),
        ("127.0.0.1", "?ssl_ca_certs={file}&ssl_cert_reqs=required&socket_timeout=5"),
        ("localhost", "?ssl_ca_certs={file}&ssl_check_hostname=false"),
        ("127.0.0.1", "?ssl_cert_reqs=none"),
    ],
)
def test_tls_works_for_all(host: str, query: str, authority: tuple[int, Path], tmp_path: Path) -> None:
    port, file = authority
    works(f"rediss://{host}:{port}/0{query.format(file=file)}", tmp_path)


@pytest.mark.parametrize(("host", "query"), [("127.0.0.1", ""), ("localhost", "?ssl_ca_certs={file}")])
def test_a_certificate_that_does_not_fit_is_refused_by_all(
    host: str, query: str, authority: tuple[int, Path], tmp_path: Path
) -> None:
    port, file = authority
    assert "certificate verify failed" in is_refused(f"rediss://{host}:{port}/0{query.format(file=file)}", tmp_path)


def test_what_is_no_certificate_is_refused_by_all(authority: tuple[int, Path], tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    is_refused(f"rediss://127.0.0.1:{authority[0]}/0?ssl_ca_certs={tmp_path}/empty.pem", tmp_path)


def test_one_who_does_not_listen_is_refused_by_all(tmp_path: Path, free_tcp_port: int) -> None:
    assert "refused" in is_refused(f"redis://127.0.0.1:{free_tcp_port}/0?socket_timeout=1", tmp_path)
