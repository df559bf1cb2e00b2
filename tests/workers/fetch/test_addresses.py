"""A stranger's tries to reach what is not his: other hosts, this machine, its files. None may even be knocked at."""

import os
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from itertools import chain, repeat
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from arno_producer import Producer
from arno_shared import errors
from arno_shared.ledger import JobState
from arno_shared.messages import ImageRef
from arno_shared.settings import LimitSettings, Settings
from arno_shared.storage import ObjectStore, files
from arno_shared.topic import TopicReader
from arno_shared.uris import file_uri
from arno_workers.fetch import ImageReader, sockets
from arno_workers.fetch.addresses import Address, lookup
from arno_workers.fetch.http import HttpFetcher
from tests.acceptance.arno_worker import arno_worker

GUARDED = LimitSettings(timeout_s=2)
"""As by default, but that a test that fails need not wait long."""
PUBLIC = ip_address("93.184.216.34")
LOOPBACK = ip_address("127.0.0.1")


class Canary:
    """Listens on all addresses of this machine, at one port, and never accepts."""

    def __init__(self, stack: ExitStack) -> None:
        four = stack.enter_context(socket.socket(socket.AF_INET))
        four.bind(("0.0.0.0", 0))
        self.port = four.getsockname()[1]
        self._sockets = [four]
        if os.path.exists("/proc/net/if_inet6"):
            six = stack.enter_context(socket.socket(socket.AF_INET6))
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            six.bind(("::", self.port))
            self._sockets.append(six)
        for each in self._sockets:
            each.listen()

    @property
    def heard(self) -> bool:
        """Whether anybody has connected: the system completes connections before they are accepted."""
        return bool(select.select(self._sockets, [], [], 0)[0])


@pytest.fixture
def canary() -> Iterator[Canary]:
    with ExitStack() as stack:
        yield Canary(stack)


class Site:
    """A stranger's web server: at PUBLIC, under every name and port that leads there. It keeps no connection."""

    def __init__(self) -> None:
        self.redirects: dict[str, tuple[int, str]] = {}
        self.hosts: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.hosts.append(self.headers["Host"])
                status, target = site.redirects.get(self.path, (200, ""))
                self.send_response(status)
                if target:
                    self.send_header("Location", target)
                self.end_headers()
                self.wfile.write(b"picture")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The only one that the network knows at a public address; this machine's own addresses are as they are."""
    site, connect = Site(), sockets._open

    def route(address: Address, port: int, timeout_s: float) -> socket.socket:
        return connect(LOOPBACK, site.port, timeout_s) if address == PUBLIC else connect(address, port, timeout_s)

    monkeypatch.setattr(sockets, "_open", route)
    yield site
    site.close()


def _fetcher(limits: LimitSettings = GUARDED, **names: str) -> HttpFetcher:
    """Knows the name `public.example`, and those given (with _ for their dots)."""
    known = {"public.example": [PUBLIC]}
    known |= {name.replace("_", "."): [ip_address(each) for each in found.split()] for name, found in names.items()}
    return HttpFetcher(limits, resolve=lambda host: known.get(host) or lookup(host))


@cache
def _reader() -> ImageReader:
    return ImageReader(ObjectStore(), GUARDED)


def _code(read: Callable[[], bytes]) -> str:
    with pytest.raises(errors.ItemError) as caught:
        read()
    assert not caught.value.retryable
    return caught.value.code


# -- hosts -------------------------------------------------------------------------------------------------------------

LOCAL_HOSTS = [
    "127.0.0.1.",
    "127.1.",
    "2130706433.",
    "0.0",
    "127.255.255.254",
    "127.000.000.001",
    "00000000177.0.0.1",
    "017700000001",
    "0x7F.0X0.0.1",
    "127.0.0x0.1",
    "localhost.",
    "LocalHost.",
    "x.localhost",
    "a.b.LOCALHOST.",
    "loc%61lhost",
    "%31%32%37.0.0.1",
    "127.0.0.1%2e",
    "127%2E0.0.1",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[0:0:0:0:0:0:0:1]",
    "[::1%lo]",
    "[::1%25lo]",
    "[::1%251]",
    "[fe80::1%lo]",
    "[fe80::1%25lo]",
    "[fe80::1%251]",
    "[::ffff:127.0.0.1%25lo]",
    "[2606:4700::1111%25lo]",
]
METADATA_HOSTS = [
    "169.254.43518",
    "169.254.169.254.",
    "2852039166",
    "0251.0376.0251.0376",
    "0xa9.0xfe.0xa9.0xfe",
    "[::ffff:a9fe:a9fe]",
    "[::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "metadata.google.internal",
    "METADATA.google.internal.",
    "instance-data.ec2.internal",
    "printer.local",
    "router.home.arpa",
]


@pytest.mark.parametrize("host", LOCAL_HOSTS + METADATA_HOSTS)
def test_a_host_that_is_not_of_the_internet_is_forbidden(host: str, canary: Canary) -> None:
    assert _code(lambda: _reader().read(ImageRef(uri=f"http://{host}:{canary.port}/a.png"))) == "forbidden_address"
    assert not canary.heard


@pytest.mark.parametrize("host", ["127.0.0.1.", "127.1", "0x7f000001", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
def test_the_canary_hears_what_is_let_through(host: str, canary: Canary) -> None:
    """Without this the other tests would say nothing."""
    if "::" in host and len(canary._sockets) == 1:
        pytest.skip("no IPv6 here")
    limits = LimitSettings(private_addresses=True, timeout_s=0.2)
    with pytest.raises(errors.Timeout):
        HttpFetcher(limits).get(f"http://{host}:{canary.port}/")
    assert canary.heard


@pytest.mark.parametrize(
    "host",
    [
        "①②⑦.0.0.1",
        "⑫7.0.0.1",
        "１２７.0.0.1",
        "127。0。0。1",
        "127．0．0．1",
        "127｡0｡0｡1",
        "ⓛocalhost",
        "localhoﬆ",
        "loc\u00adalhost",
        "\u202e127.0.0.1",
        "127.0.0.1\u200b",
        "127.0.0.1%00",
        "127.0.0.1%00.public.example",
        "127.0.0.1%0a",
        "127.0.0.1\t",
        "127.0.\n0.1",
        "127.0.0.1\r",
        "127.0.0.1\0",
        "127.0.0.1\x7f",
        "127.0.0.1 ",
        "127.0.0.1\u3000",
        "[::1",
        "::1",
        "[127.0.0.1]",
        "[localhost]",
        "[::1]public.example",
    ],
)
def test_a_host_in_disguise_is_no_host(host: str, canary: Canary) -> None:
    assert _code(lambda: _reader().read(ImageRef(uri=f"http://{host}:{canary.port}/a.png"))) == "invalid_uri"
    assert not canary.heard


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("http://user:hunter2@127.0.0.1:{}/", "forbidden_address"),
        ("http://user:hunter2@x.localhost:{}/", "forbidden_address"),
        ("http://user:hun@ter2@127.0.0.1:{}/", "forbidden_address"),
        ("http://public.example:80@127.0.0.1:{}/", "forbidden_address"),
        ("http://public.example%2f@127.0.0.1:{}/", "forbidden_address"),
        ("http://public.example%00@127.0.0.1:{}/", "forbidden_address"),
        ("http://@127.0.0.1:{}/", "forbidden_address"),
        ("http://[::2]@[::1]:{}/", "forbidden_address"),
        ("http://127.0.0.1:{}#@public.example/", "forbidden_address"),
        ("http://127.0.0.1:{}?@public.example/", "forbidden_address"),
        ("http://127.0.0.1:{}/@public.example/", "forbidden_address"),
        (r"http://127.0.0.1:{}\@public.example/", "invalid_uri"),
        (r"http://public.example\@127.0.0.1:{}/", "invalid_uri"),
        (r"http://public.example:80\@127.0.0.1:{}/", "invalid_uri"),
        (r"http://127.0.0.1:{}\.public.example/", "invalid_uri"),
        (r"http:\\127.0.0.1:{}/", "invalid_uri"),
        (r"http://\127.0.0.1:{}/", "invalid_uri"),
        ("http:127.0.0.1:{}/", "invalid_uri"),
        ("http:/127.0.0.1:{}/", "invalid_uri"),
        ("http:///127.0.0.1:{}/", "invalid_uri"),
        (" http://127.0.0.1:{}/", "invalid_uri"),
        ("ht\ttp://127.0.0.1:{}/", "invalid_uri"),
        ("\0http://127.0.0.1:{}/", "invalid_uri"),
        ("http://user:hun\tter2@127.0.0.1:{}/", "invalid_uri"),
        ("http://user:hunter2@127.0.0.1:{}/a\r\nHost: public.example", "invalid_uri"),
        ("http://user:hun/ter2@127.0.0.1:{}/", "invalid_uri"),
        ("http://user:hun?ter2@127.0.0.1:{}/", "invalid_uri"),
        ("http://user:hun#ter2@127.0.0.1:{}/", "invalid_uri"),
        ("http://127.0.0.1:{}:80/", "invalid_uri"),
        ("http://127.0.0.1:+{}/", "invalid_uri"),
        ("http://127.0.0.1:１{}/", "invalid_uri"),
        ("http://127.0.0.1:9{}9/", "invalid_uri"),
        ("http://127.0.0.1:0/", "forbidden_address"),
        ("http://127.0.0.1:/", "forbidden_address"),
        ("url:http://127.0.0.1:{}/", "invalid_uri"),
        ("gopher://127.0.0.1:{}/_GET", "scheme_not_allowed"),
        ("dict://127.0.0.1:{}/info", "scheme_not_allowed"),
        ("redis://127.0.0.1:{}/0", "scheme_not_allowed"),
        ("s3://user:hunter2@127.0.0.1:{}/a.png", "invalid_uri"),
    ],
)
def test_a_url_in_disguise_is_refused_and_its_password_told_to_nobody(uri: str, code: str, canary: Canary) -> None:
    with pytest.raises(errors.ItemError) as caught:
        _reader().read(ImageRef(uri=uri.replace("{}", str(canary.port))))
    assert caught.value.code == code
    assert "hunter2" not in str(caught.value)
    assert "ter2" not in str(caught.value) or "\t" in uri
    assert not canary.heard


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:{}%23@public.example/",
        "http://127.0.0.1;{}@public.example/",
        "http://[::1]:{}@public.example/",
        "http://public.example#@127.0.0.1:{}/",
        "http://public.example?@127.0.0.1:{}/",
        r"http://public.example/\@127.0.0.1:{}/",
        "http://public.example:{}/http://127.0.0.1/",
    ],
)
def test_a_public_host_beside_a_private_one_is_the_only_one_that_is_reached(
    uri: str, site: Site, canary: Canary
) -> None:
    assert _fetcher().get(uri.replace("{}", str(canary.port))) == b"picture"
    assert {host.partition(":")[0] for host in site.hosts} == {"public.example"}
    assert not canary.heard


def test_a_reserved_name_is_not_even_looked_up() -> None:
    asked: list[str] = []

    def resolve(host: str) -> list[Address]:
        asked.append(host)
        return [PUBLIC]

    for host in ("payroll.internal", "x.localhost", "nas.local"):
        assert _code(lambda host=host: HttpFetcher(GUARDED, resolve).get(f"http://{host}/")) == "forbidden_address"
    assert asked == []


# -- names that lead elsewhere -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "found",
    [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "fe80::1",
        f"{PUBLIC} 127.0.0.1",
        f"127.0.0.1 {PUBLIC}",
        f"{PUBLIC} ::1",
        f"{PUBLIC} ::ffff:7f00:1",
        f"{PUBLIC} 169.254.169.254",
        f"{PUBLIC} {PUBLIC} 0.0.0.0",
    ],
)
def test_a_name_that_leads_to_this_machine_as_well_leads_nowhere(found: str, site: Site, canary: Canary) -> None:
    fetcher = _fetcher(rebound_example=found)
    assert _code(lambda: fetcher.get(f"http://rebound.example:{canary.port}/")) == "forbidden_address"
    assert not canary.heard
    assert site.hosts == []


def _names(monkeypatch: pytest.MonkeyPatch, *answers: Address) -> list[str]:
    """The system's resolver gives these answers one after the other, the last one for ever; who was asked for."""
    asked: list[str] = []
    following = chain(answers, repeat(answers[-1]))

    def getaddrinfo(host: str, port: object, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (str(next(following)), port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    site: Site, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _names(monkeypatch, PUBLIC, LOOPBACK)
    assert HttpFetcher(GUARDED).get(f"http://rebinding.example:{canary.port}/") == b"picture"
    assert asked == ["rebinding.example"]
    assert not canary.heard


def test_a_name_that_changes_between_two_hops_is_checked_again(
    site: Site, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    _names(monkeypatch, PUBLIC, PUBLIC, LOOPBACK)
    site.redirects |= {"/a": (302, "/b"), "/b": (302, "/c")}
    url = f"http://rebinding.example:{canary.port}/a"
    assert _code(lambda: HttpFetcher(GUARDED).get(url)) == "forbidden_address"
    assert len(site.hosts) == 2
    assert not canary.heard


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_is_no_way_around(
    name: str, site: Site, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
    assert _fetcher().get("http://public.example/") == b"picture"
    for url in ("http://169.254.169.254/", "https://metadata.google.internal/", "https://10.0.0.1/"):
        assert _code(lambda url=url: _fetcher().get(url)) == "forbidden_address"
    assert not canary.heard


# -- redirects ---------------------------------------------------------------------------------------------------------

ANY_SCHEME = GUARDED.model_copy(
    update={"schemes": ("http", "https", "file", "s3", "gopher", "ftp", "data"), "file_roots": (Path("/"),)}
)


def _redirected(site: Site, canary: Canary, target: str, status: int = 302) -> Callable[[], bytes]:
    site.redirects["/start"] = (status, target.replace("{}", str(canary.port)))
    return lambda: _fetcher(ANY_SCHEME).get("http://public.example/start")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:{}/", "//localhost:{}/", "https://[::1]:{}/"],
)
def test_no_status_redirects_to_what_is_forbidden(status: int, target: str, site: Site, canary: Canary) -> None:
    assert _code(_redirected(site, canary, target, status)) == "forbidden_address"
    assert site.hosts == ["public.example"]
    assert not canary.heard


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("http://[fd00:ec2::254]/latest/meta-data/", "forbidden_address"),
        ("http://100.100.100.200/latest/meta-data/", "forbidden_address"),
        ("http://168.63.129.16/machine", "forbidden_address"),
        ("http://metadata.google.internal/computeMetadata/v1/", "forbidden_address"),
        ("http://public.example@127.0.0.1:{}/", "forbidden_address"),
        ("HTTPS://LOCALHOST.:{}/", "forbidden_address"),
        ("//0x7f.1:{}", "forbidden_address"),
        ("http://①②⑦.0.0.1:{}/".encode().decode("latin-1"), "invalid_uri"),
        (r"http://public.example\@127.0.0.1:{}/", "invalid_uri"),
        (r"//public.example\@127.0.0.1:{}/", "invalid_uri"),
        ("http://127.0.0.1\t:{}/", "invalid_uri"),
        ("http://127.0.0.1\x01:{}/", "invalid_uri"),
        ("http://[::1:{}/", "invalid_uri"),
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("FILE://localhost/etc/passwd", "scheme_not_allowed"),
        ("file:/etc/passwd", "scheme_not_allowed"),
        ("gopher://127.0.0.1:{}/_GET", "scheme_not_allowed"),
        ("ftp://127.0.0.1:{}/a.png", "scheme_not_allowed"),
        ("s3://bucket/key", "scheme_not_allowed"),
        ("data:image/png;base64,AAAA", "scheme_not_allowed"),
        ("x" * 60_000 + "://127.0.0.1:{}/", "scheme_not_allowed"),
    ],
)
def test_no_target_redirects_to_what_is_forbidden(target: str, code: str, site: Site, canary: Canary) -> None:
    read = _redirected(site, canary, target)
    with pytest.raises(errors.ItemError) as caught:
        read()
    assert caught.value.code == code
    assert len(str(caught.value)) < 500
    assert site.hosts == ["public.example"]
    assert not canary.heard


@pytest.mark.parametrize(
    "target",
    ["/127.0.0.1:{}/", r"/\127.0.0.1:{}/", r"\\127.0.0.1:{}\a", "@127.0.0.1:{}", "?@127.0.0.1:{}/", "../..//x"],
)
def test_a_relative_redirect_stays_on_its_site(target: str, site: Site, canary: Canary) -> None:
    assert _redirected(site, canary, target)() == b"picture"
    assert site.hosts == ["public.example"] * 2
    assert not canary.heard


def test_the_last_hop_of_a_chain_is_checked_as_the_first_is(site: Site, canary: Canary) -> None:
    site.redirects |= {
        "/1": (301, "2"),
        "/2": (302, "//other.example/3"),
        "/3": (303, "http://public.example:8080/4"),
        "/4": (307, "?5"),
        "/4?5": (308, f"http://inside.example:{canary.port}/"),
    }
    fetcher = _fetcher(other_example=str(PUBLIC), inside_example="127.0.0.1")
    assert _code(lambda: fetcher.get("http://public.example/1")) == "forbidden_address"
    assert site.hosts == ["public.example", "public.example", "other.example", *["public.example:8080"] * 2]
    assert not canary.heard


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`root`, below which files may be read, with `in`; beside it `root.secret` and `secret`."""
    (tmp_path / "root" / "deep").mkdir(parents=True)
    (tmp_path / "root" / "in").write_bytes(b"in")
    (tmp_path / "root.secret").write_bytes(b"secret")
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path


def _reads_files(folders: Path, root: str = "root") -> Callable[[str], bytes]:
    reader = ImageReader(ObjectStore(), LimitSettings(schemes=("file",), file_roots=(folders / root,)))
    return lambda uri: reader.read(ImageRef(uri=uri))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/self/cwd/pyproject.toml",
        "/proc/self/root/etc/passwd",
        "/proc/self/fd/0",
        "/dev/stdin",
        "/dev/zero",
        "//etc/passwd",
        "/./etc/passwd",
        "{}/root/../secret",
        "{}/root/deep/../../secret",
        "{}/root/%2e%2e/secret",
        "{}/root/.%2e/secret",
        "{}/root%2f..%2fsecret",
        "{}/root/deep%2F..%2F..%2Fsecret",
        "{}/root.secret",
        "{}/root/../root.secret",
        "{}/root/file",
        "{}/root/folder/secret",
        "{}/root/deep/up/secret",
        "{}/root/environ",
        "{}/root/zero",
        "{}/root/pipe",
        "{}/root/twice",
    ],
)
def test_a_file_elsewhere_is_forbidden(path: str, folders: Path) -> None:
    os.mkfifo(folders / "pipe")
    targets = {"file": folders / "secret", "folder": folders, "deep/up": "../..", "environ": "/proc/self/environ"}
    targets |= {"zero": "/dev/zero", "pipe": folders / "pipe", "twice": "file"}
    for name, target in targets.items():
        (folders / "root" / name).symlink_to(target)
    read = _reads_files(folders)
    assert read(file_uri(folders / "root" / "in")) == b"in"
    assert _code(lambda: read(f"file://{path.replace('{}', str(folders))}")) == "forbidden_path"


@pytest.mark.parametrize("path", ["root/%252e%252e/secret", "root/..%5csecret", r"root/..\secret", "root/..;/secret"])
def test_what_only_looks_like_the_folder_above_is_a_name_like_any_other(path: str, folders: Path) -> None:
    assert _code(lambda: _reads_files(folders)(f"file://{folders}/{path}")) == "not_found"


@pytest.mark.parametrize(
    "uri",
    [
        "file://169.254.169.254/{}/root/in",
        "file://127.0.0.1:{}/root/in",
        "file://user:hunter2@localhost{}/root/in",
        "file://localhost:80{}/root/in",
        "file://%6cocalhost{}/root/in",
        "file://.{}/root/in",
        r"file://\\host\share{}/root/in",
        "file://{}/root/in%00.png",
        "file:{}/root/in",
    ],
)
def test_a_file_uri_that_is_none_reads_nothing(uri: str, folders: Path) -> None:
    with pytest.raises(errors.InvalidUri) as caught:
        _reads_files(folders)(uri.replace("{}", str(folders)))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("swapped", ["root/in", "root/deep"])
def test_a_link_that_is_put_there_between_check_and_opening_reads_nothing(
    swapped: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders / "root" / "deep" / "secret").write_bytes(b"harmless")
    read, opened = _reads_files(folders), os.open

    def swap_and_open(path: str, *args: Any, **kwargs: Any) -> int:
        (folders / swapped).rename(folders / "moved")
        (folders / swapped).symlink_to(folders / "secret" if swapped == "root/in" else folders)
        return opened(path, *args, **kwargs)

    path = folders / swapped if swapped == "root/in" else folders / swapped / "secret"
    monkeypatch.setattr(files.os, "open", swap_and_open)
    assert _code(lambda: read(file_uri(path))) == "forbidden_path"


def test_a_root_that_is_a_link_is_what_it_was_when_the_worker_started(folders: Path) -> None:
    (folders / "alias").symlink_to("root")
    read = _reads_files(folders, "alias")
    assert read(file_uri(folders / "alias" / "in")) == b"in"
    assert read(file_uri(folders / "root" / "in")) == b"in"
    (folders / "alias").unlink()
    (folders / "alias").symlink_to(folders)
    assert _code(lambda: read(file_uri(folders / "alias" / "secret"))) == "forbidden_path"


@pytest.mark.parametrize("name", ["ring/a", "ring/b", "self"])
def test_links_that_go_round_end(name: str, folders: Path) -> None:
    (folders / "root" / "ring").mkdir()
    (folders / "root" / "ring" / "a").symlink_to("b")
    (folders / "root" / "ring" / "b").symlink_to("a")
    (folders / "root" / "self").symlink_to("self/x")
    assert _code(lambda: _reads_files(folders)(file_uri(folders / "root" / name))) == "invalid_uri"


# -- a worker ----------------------------------------------------------------------------------------------------------


def _hostile(folder: Path, port: int) -> Mapping[str, str]:
    """URI → the code of its row."""
    codes = {f"http://{host}:{port}/a.png": "forbidden_address" for host in LOCAL_HOSTS + METADATA_HOSTS}
    return codes | {
        f"http://user:hunter2@127.0.0.1:{port}/a.png": "forbidden_address",
        f"https://user:hunter2@localhost:{port}/a.png?X-Amz-Signature=hunter2": "forbidden_address",
        f"http://user:hun@hunter2@[::1]:{port}/": "forbidden_address",
        f"http://user:a/hunter2@127.0.0.1:{port}/": "invalid_uri",
        f"http://user:hunter2\\@127.0.0.1:{port}/": "invalid_uri",
        f"http://①②⑦.0.0.1:{port}/": "invalid_uri",
        f"gopher://user:hunter2@127.0.0.1:{port}/": "scheme_not_allowed",
        f"s3://user:hunter2@127.0.0.1:{port}/a.png": "invalid_uri",
        "file:///etc/passwd": "forbidden_path",
        "file:///proc/self/environ": "forbidden_path",
        f"{file_uri(folder)}/%2e%2e/%2e%2e/etc/passwd": "forbidden_path",
        file_uri(folder / "link.png"): "forbidden_path",
        f"file://user:hunter2@127.0.0.1:{port}/a.png": "invalid_uri",
    }


def test_a_worker_with_its_default_limits_knocks_nowhere_and_goes_on(
    valkey_url: str, tmp_path: Path, canary: Canary
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (16, 16), "red").save(folder / "good.png")
    (folder / "link.png").symlink_to("/etc/hostname")
    settings = Settings(redis_url=valkey_url, output_prefix=file_uri(tmp_path / "results"))
    producer, hostile, good = Producer(settings), _hostile(folder, canary.port), file_uri(folder / "good.png")
    env = {
        "ARNO_WORKER__ENGINE": "null",
        "ARNO_LOG_LEVEL": "debug",
        "ARNO_LIMITS__SCHEMES": '["s3", "https", "http", "file"]',
        "ARNO_LIMITS__FILE_ROOTS": f'["{folder}"]',
        "HTTP_PROXY": f"http://127.0.0.1:{canary.port}",
        "ALL_PROXY": f"http://127.0.0.1:{canary.port}",
        # Looking for AWS's credentials, boto3 would ask the cloud for them, and through the proxy.
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with arno_worker(settings, tmp_path, "guarded", env) as worker:
        job = producer.submit([*hostile, good], "<OD>", job_id="hostile")
        status = job.wait(60)
        assert worker.process.poll() is None
    assert (status.state, status.ok, status.failed, status.put_off) == (JobState.DONE, 1, len(hostile), 0)
    rows = {row.image.uri: row for row in job.results()}
    assert {uri: row.error and row.error.code for uri, row in rows.items()} == {**hostile, good: None}
    assert not canary.heard
    told = [row.error.message for row in rows.values() if row.error]
    told += [event.model_dump_json() for _, event in TopicReader(producer.redis, "g", "c").read()]
    told += [worker.log.read_text()]
    assert not [text for text in told if "hunter2" in text]
    assert not list(producer.dead_letters.list())
