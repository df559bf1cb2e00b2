"""Image URIs from strangers: what they may reach, and what they may cost."""

import gzip
import http.server
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from arno_shared import __version__, errors
from arno_shared.messages import ImageRef
from arno_shared.settings import LimitSettings
from arno_shared.storage import ObjectStore
from arno_shared.uris import file_uri
from arno_workers.fetch import ImageReader, sockets
from arno_workers.fetch.addresses import Address, is_public
from arno_workers.fetch.http import HttpFetcher

OPEN = LimitSettings(private_addresses=True, max_bytes=100_000, max_redirects=3)
GUARDED = LimitSettings()


class _Site(http.server.BaseHTTPRequestHandler):
    """One behaviour for each path. Requests and connections are kept for the tests to look at."""

    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, dict[str, str]]]
    connections: list[Any]
    gone: threading.Event

    def setup(self) -> None:
        super().setup()
        self.connections.append(self.client_address)

    def do_GET(self) -> None:
        self.requests.append((self.path, {name.title(): value for name, value in self.headers.items()}))
        path, _, argument = self.path.lstrip("/").partition("/")
        getattr(self, f"_{path.partition('?')[0]}")(argument)

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _picture(self, argument: str) -> None:
        self._answer(200, b"picture")

    def _empty(self, argument: str) -> None:
        self._answer(200)

    def _status(self, argument: str) -> None:
        self._answer(int(argument), b"no")

    def _go(self, argument: str) -> None:
        """`/go/302/TARGET`"""
        status, _, target = argument.partition("/")
        self._answer(int(status), b"elsewhere", Location=target)

    def _nowhere(self, argument: str) -> None:
        self._answer(302)

    def _bytes(self, argument: str) -> None:
        self._answer(200, b"x" * int(argument))

    def _promise(self, argument: str) -> None:
        """Says that many bytes will come, and sends none until the client has gone."""
        self.send_response(200)
        self.send_header("Content-Length", argument)
        self.end_headers()
        self.gone.wait(30)
        self.close_connection = True

    def _endless(self, argument: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self._pour(b"x" * 10_000, pause_s=0)

    def _drip(self, argument: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self._pour(b"x", pause_s=0.05)

    def _drip_headers(self, argument: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self._pour(b"x", pause_s=0.05)

    def _pour(self, part: bytes, pause_s: float) -> None:
        self.close_connection = True
        try:
            while not self.gone.wait(pause_s):
                self.wfile.write(part)
        except OSError:
            pass

    def _gzip(self, argument: str) -> None:
        self._answer(200, gzip.compress(b"\0" * int(argument)), Content_Encoding="gzip")

    def _short(self, argument: str) -> None:
        self._answer(200, b"only this", Content_Length="1000")
        self.close_connection = True

    def _garbage(self, argument: str) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n")
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


class Site:
    def __init__(self, host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections: list[Any] = []
        self.gone = threading.Event()
        handler = type("Handler", (_Site,), vars(self).copy())
        self._server = http.server.ThreadingHTTPServer((host, 0), handler)
        self._server.daemon_threads = True
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *args: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.port = self._server.server_port
        self.url = f"http://{host}:{self.port}"

    def close(self) -> None:
        self.gone.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def new_site() -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def new(*args: Any, **kwargs: Any) -> Site:
        sites.append(Site(*args, **kwargs))
        return sites[-1]

    yield new
    for site in sites:
        site.close()


@pytest.fixture
def site(new_site: Callable[..., Site]) -> Site:
    return new_site()


@cache
def _reader(limits: LimitSettings = OPEN) -> ImageReader:
    """One reader for many tests: the system's certificates take long to load."""
    return ImageReader(ObjectStore(), limits)


def _read(uri: str, limits: LimitSettings = OPEN) -> bytes:
    return _reader(limits).read(ImageRef(uri=uri))


def _limits(**changes: Any) -> LimitSettings:
    return OPEN.model_copy(update=changes)


# -- http: what is read ------------------------------------------------------------------------------------------------


def test_a_picture(site: Site) -> None:
    assert _read(f"{site.url}/picture") == b"picture"
    ((_, headers),) = site.requests
    assert headers["User-Agent"] == f"arno/{__version__}"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Host"] == f"127.0.0.1:{site.port}"


def test_connections_are_kept(site: Site) -> None:
    reader = _reader()
    for _ in range(3):
        assert reader.read(ImageRef(uri=f"{site.url}/picture")) == b"picture"
    assert len(site.connections) == 1


def test_a_kept_connection_has_its_time_anew(site: Site) -> None:
    reader = _reader(_limits(timeout_s=0.5))
    ends_at = time.monotonic() + 1
    while time.monotonic() < ends_at:
        assert reader.read(ImageRef(uri=f"{site.url}/picture")) == b"picture"
    assert len(site.connections) == 1


def test_a_proxy_of_the_environment_is_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert _read(f"{site.url}/picture") == b"picture"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, errors.HttpError),
        (401, errors.AccessDenied),
        (403, errors.AccessDenied),
        (404, errors.NotFound),
        (408, errors.Unavailable),
        (410, errors.NotFound),
        (418, errors.HttpError),
        (429, errors.Throttled),
        (500, errors.Unavailable),
        (503, errors.Unavailable),
        (304, errors.HttpError),
    ],
)
def test_statuses(site: Site, status: int, error: type[Exception]) -> None:
    with pytest.raises(errors.ItemError, match=str(status)) as caught:
        _read(f"{site.url}/status/{status}")
    assert type(caught.value) is error


def test_an_empty_body(site: Site) -> None:
    with pytest.raises(errors.NotAnImage, match="empty"):
        _read(f"{site.url}/empty")


@pytest.mark.parametrize("path", ["short", "garbage"])
def test_a_broken_answer(site: Site, path: str) -> None:
    with pytest.raises(errors.ConnectionFailed):
        _read(f"{site.url}/{path}")


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(errors.ConnectionFailed):
            _read(f"http://127.0.0.1:{taken.getsockname()[1]}/picture")
    with pytest.raises(errors.ConnectionFailed, match="cannot be found"):
        _read("http://arno.invalid/picture")


@pytest.mark.parametrize(
    "uri",
    ["http://", "http:///x", "http://[::1", "http://a:99999/", "http://a b/", "http://x..y/", "http://" + "a" * 70],
)
def test_urls_that_are_none(uri: str) -> None:
    with pytest.raises(errors.InvalidUri):
        _read(uri)


# -- http: redirects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(site: Site, status: int) -> None:
    assert _read(f"{site.url}/go/{status}//picture") == b"picture"


def test_redirects_up_to_the_limit(site: Site) -> None:
    third = f"{site.url}/go/302//go/302//go/302//picture"
    assert _read(third) == b"picture"
    with pytest.raises(errors.TooManyRedirects):
        _read(third, _limits(max_redirects=2))
    assert len(site.requests) == 4 + 3


def test_a_redirect_to_nowhere(site: Site) -> None:
    with pytest.raises(errors.HttpError, match="nowhere"):
        _read(f"{site.url}/nowhere")


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "s3://bucket/key", "gopher://127.0.0.1/"]
)
def test_a_redirect_to_another_scheme(site: Site, target: str) -> None:
    limits = _limits(schemes=("http", "file", "s3", "ftp"), file_roots=(Path("/"),))
    with pytest.raises(errors.SchemeNotAllowed):
        _read(f"{site.url}/go/302/{target}", limits)


def test_a_redirect_to_a_scheme_that_is_not_allowed(site: Site) -> None:
    with pytest.raises(errors.SchemeNotAllowed, match="ARNO_LIMITS__SCHEMES"):
        _read(f"{site.url}/go/302/https://127.0.0.1/x", _limits(schemes=("http",)))


def test_user_info_goes_to_its_own_host_only(new_site: Callable[..., Site]) -> None:
    first, second = new_site(), new_site()
    uri = f"http://user:p%40ss@127.0.0.1:{first.port}/go/302//go/302/{second.url}/picture"
    assert _read(uri) == b"picture"
    sent = [headers.get("Authorization") for _, headers in first.requests]
    assert sent == ["Basic dXNlcjpwQHNz"] * 2
    assert [headers.get("Authorization") for _, headers in second.requests] == [None]


@pytest.mark.parametrize("path", ["status/404", "short", "bytes/200000", "nowhere", "go/302/ftp://x/"])
def test_errors_keep_secrets(site: Site, path: str) -> None:
    with pytest.raises(errors.ItemError) as caught:
        _read(f"http://user:password@127.0.0.1:{site.port}/{path}?X-Amz-Signature=signature")
    assert "password" not in str(caught.value)
    assert "signature" not in str(caught.value)


# -- http: limits ------------------------------------------------------------------------------------------------------


def test_as_many_bytes_as_allowed(site: Site) -> None:
    assert len(_read(f"{site.url}/bytes/100000")) == 100_000


@pytest.mark.parametrize("path", ["bytes/100001", "promise/100001", "endless", "gzip/100001", "gzip/10000000"])
def test_too_many_bytes(site: Site, path: str) -> None:
    """`promise` never sends a byte: only the header can tell."""
    with pytest.raises(errors.TooManyBytes):
        _read(f"{site.url}/{path}", _limits(timeout_s=10))


def test_a_body_that_is_compressed_unasked(site: Site) -> None:
    assert _read(f"{site.url}/gzip/5000") == b"\0" * 5000


@pytest.mark.parametrize("path", ["drip", "drip_headers", "promise/10", "go/302//drip"])
def test_a_slow_server_is_cut_off(site: Site, path: str) -> None:
    """Each would go on for half a minute or longer."""
    started = time.monotonic()
    with pytest.raises(errors.Timeout):
        _read(f"{site.url}/{path}", _limits(timeout_s=0.4))
    assert time.monotonic() - started < 15


def test_redirects_share_one_time_limit(site: Site) -> None:
    fetcher = HttpFetcher(_limits(timeout_s=0.5), resolve=_slowly)
    with pytest.raises(errors.Timeout):
        fetcher.get(
            f"http://a.test:{site.port}/go/302/http://b.test:{site.port}/go/302/http://c.test:{site.port}/picture"
        )
    assert 1 <= len(site.requests) <= 2


def _slowly(host: str) -> list[Address]:
    time.sleep(0.3)
    return [ip_address("127.0.0.1")]


def test_a_server_that_never_shakes_hands() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(errors.Timeout):
            _read(f"https://127.0.0.1:{silent.getsockname()[1]}/", _limits(connect_timeout_s=0.3))


# -- http: TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for `pictures.test`, with its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "pictures.pem"
    subject = ("-subj", "/CN=pictures.test", "-addext", "subjectAltName=DNS:pictures.test")
    command = (
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        *subject,
    )
    subprocess.run(
        [*command, "-days", "2", "-keyout", path, "-out", path.with_suffix(".crt")], check=True, capture_output=True
    )
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


@pytest.fixture
def tls_site(certificate: Path, new_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    site = new_site(context=context)
    context.sni_callback = lambda sock, name, _: site.connections.append(name)
    return site


def _loopback(host: str) -> list[Address]:
    return [ip_address("127.0.0.1")]


def test_tls_names_and_checks_the_host_of_the_url(tls_site: Site) -> None:
    fetcher = HttpFetcher(OPEN, resolve=_loopback)
    assert fetcher.get(f"https://pictures.test:{tls_site.port}/picture") == b"picture"
    assert "pictures.test" in tls_site.connections
    assert tls_site.requests[0][1]["Host"] == f"pictures.test:{tls_site.port}"
    with pytest.raises(errors.ConnectionFailed, match="Hostname mismatch"):
        fetcher.get(f"https://other.test:{tls_site.port}/picture")
    assert len(tls_site.requests) == 1


def test_tls_refuses_an_unknown_certificate(tls_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(errors.ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"):
        HttpFetcher(OPEN, resolve=_loopback).get(f"https://pictures.test:{tls_site.port}/picture")


def test_tls_is_cut_off_too(tls_site: Site) -> None:
    fetcher = HttpFetcher(_limits(timeout_s=0.6), resolve=_loopback)
    with pytest.raises(errors.Timeout):
        fetcher.get(f"https://pictures.test:{tls_site.port}/drip")


# -- http: addresses ---------------------------------------------------------------------------------------------------

PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "100.64.0.1",
    "100.100.100.200",
    "198.18.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:808:808::f5ff:fffe",
    "2001:db8::1",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.fixture
def no_connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses that something tried to connect to; none is let through."""
    tried: list[Any] = []

    def connect(address: Address, port: int, timeout_s: float) -> socket.socket:
        tried.append(str(address))
        raise ConnectionRefusedError(111, "refused by the test")

    monkeypatch.setattr(sockets, "_open", connect)
    return tried


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0x7f.1",
        "0",
        "localhost",
        "LOCALHOST",
        "169.254.169.254",
        "0xa9fea9fe",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]",
        "user@127.0.0.1",
        "8.8.8.8@127.0.0.1",
        "127.0.0.1:80",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_way_in(scheme: str, host: str, no_connections: list[Any]) -> None:
    with pytest.raises(errors.ItemError) as caught:
        _read(f"{scheme}://{host}/latest/meta-data/", GUARDED)
    assert isinstance(caught.value, errors.ForbiddenAddress)
    assert no_connections == []


@pytest.mark.parametrize(
    "answers", [["10.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::1", "2606:4700::1111"], ["fe80::1"]]
)
def test_a_name_that_leads_to_a_private_address(answers: list[str], no_connections: list[Any]) -> None:
    fetcher = HttpFetcher(GUARDED, resolve=lambda host: [ip_address(answer) for answer in answers])
    with pytest.raises(errors.ForbiddenAddress, match=r"pictures\.test"):
        fetcher.get("http://pictures.test/a.jpg")
    assert no_connections == []


def test_the_addresses_of_a_name_are_tried_in_turn(no_connections: list[Any]) -> None:
    answers = ["93.184.216.34", "2606:4700::1111"]
    fetcher = HttpFetcher(GUARDED, resolve=lambda host: [ip_address(answer) for answer in answers])
    with pytest.raises(errors.ConnectionFailed, match="refused by the test"):
        fetcher.get("https://pictures.test/a.jpg")
    assert no_connections == answers


@pytest.fixture
def loopback_one_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 alone counts as public, so that a real server can stand for the one of a stranger."""
    monkeypatch.setattr(sockets, "is_public", lambda address: str(address) == "127.0.0.1" or is_public(address))


@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:{}/picture", "http://six.test:{}/", "http://localhost.test:{}/picture"]
)
def test_every_hop_is_checked(new_site: Callable[..., Site], loopback_one_is_public: None, target: str) -> None:
    site, inside = new_site(), new_site("127.0.0.2")
    names = {"localhost.test": "127.0.0.2", "six.test": "::1"}
    fetcher = HttpFetcher(GUARDED, resolve=lambda host: [ip_address(names.get(host, host))])
    assert fetcher.get(f"{site.url}/go/302//picture") == b"picture"
    with pytest.raises(errors.ForbiddenAddress):
        fetcher.get(f"{site.url}/go/302//go/302/{target.format(inside.port)}")
    assert inside.connections == []


def test_a_name_is_resolved_once_for_each_connection(
    new_site: Callable[..., Site], loopback_one_is_public: None
) -> None:
    """A name that changes between check and connect finds no second look-up to answer."""
    site, asked = new_site(), []

    def rebinding(host: str) -> list[Address]:
        asked.append(host)
        return [ip_address("127.0.0.1" if len(asked) == 1 else "127.0.0.2")]

    fetcher = HttpFetcher(GUARDED, resolve=rebinding)
    assert fetcher.get(f"http://pictures.test:{site.port}/picture") == b"picture"
    assert asked == ["pictures.test"]
    with pytest.raises(errors.ForbiddenAddress):
        HttpFetcher(GUARDED, resolve=rebinding).get(f"http://pictures.test:{site.port}/picture")
    assert len(site.connections) == 1


# -- schemes, files and s3 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "ftp://example.com/a.jpg", "data://x", "javascript://x"])
def test_schemes_that_are_not_allowed(uri: str) -> None:
    with pytest.raises(errors.SchemeNotAllowed, match=r"s3, https, http.*ARNO_LIMITS__SCHEMES") as caught:
        _read(uri, GUARDED)
    assert uri.partition(":")[0] in str(caught.value)


def test_a_scheme_that_is_allowed_but_unknown() -> None:
    with pytest.raises(errors.SchemeNotAllowed, match="ftp"):
        _read("ftp://example.com/a.jpg", _limits(schemes=("ftp",)))


def test_schemes_have_no_case(site: Site) -> None:
    assert _read(f"HTTP://127.0.0.1:{site.port}/picture") == b"picture"


def test_no_uri() -> None:
    with pytest.raises(errors.InvalidUri):
        _read("a.jpg")


@pytest.fixture
def files(tmp_path: Path) -> LimitSettings:
    """`root/in` may be read; `out` lies beside the root."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "in").write_bytes(b"in")
    (tmp_path / "out").write_bytes(b"out")
    return LimitSettings(schemes=("file",), file_roots=(tmp_path / "root",), max_bytes=100)


def test_a_file_below_a_root(files: LimitSettings, tmp_path: Path) -> None:
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root" / "in")
    assert _read(file_uri(tmp_path / "root" / "in"), files) == b"in"
    assert _read(f"file://{tmp_path}/root/link", files) == b"in"
    assert _read(f"file://localhost{tmp_path}/root/nothing/../%69n", files) == b"in"


def test_a_root_may_be_a_link(files: LimitSettings, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tmp_path / "root")
    limits = files.model_copy(update={"file_roots": (tmp_path / "alias",)})
    assert _read(file_uri(tmp_path / "alias" / "in"), limits) == b"in"


@pytest.mark.parametrize(
    "path", ["out", "root/../out", "root/%2e%2e/out", "root/link", "root/folder/out", "root", "root-2/x", "missing"]
)
def test_a_file_that_is_not_below_a_root(files: LimitSettings, tmp_path: Path, path: str) -> None:
    (tmp_path / "root" / "link").symlink_to(tmp_path / "out")
    (tmp_path / "root" / "folder").symlink_to(tmp_path)
    with pytest.raises(errors.ForbiddenPath):
        _read(f"file://{tmp_path}/{path}", files)


def test_without_roots_no_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with pytest.raises(errors.ForbiddenPath, match="ARNO_LIMITS__FILE_ROOTS"):
        _read(file_uri(tmp_path / "a"), LimitSettings(schemes=("file",)))


def test_what_is_not_a_plain_file(files: LimitSettings, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root" / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "root" / "socket"))
    for name in ("pipe", "socket"):
        with pytest.raises(errors.ItemError, match=r"not a file|cannot be a file"):
            _read(file_uri(tmp_path / "root" / name), files)
    with pytest.raises(errors.NotFound, match="not a file"):
        _read("file:///dev/zero", files.model_copy(update={"file_roots": (Path("/dev"),)}))


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("missing", errors.NotFound),
        ("in/below", errors.NotFound),
        ("loop", errors.ItemError),
        ("x" * 300, errors.ItemError),
        ("%00", errors.InvalidUri),
        ("empty", errors.NotAnImage),
        ("large", errors.TooManyBytes),
    ],
)
def test_a_file_that_cannot_be_read(files: LimitSettings, tmp_path: Path, path: str, error: type[Exception]) -> None:
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root" / "loop")
    (tmp_path / "root" / "empty").write_bytes(b"")
    (tmp_path / "root" / "large").write_bytes(b"x" * 101)
    with pytest.raises(error):
        _read(f"file://{tmp_path}/root/{path}", files)


@pytest.mark.parametrize(
    "uri", ["file://host/etc/passwd", "file://", "file://etc/passwd", "file://127.0.0.1/etc/passwd"]
)
def test_file_uris_that_are_none(files: LimitSettings, uri: str) -> None:
    with pytest.raises(errors.InvalidUri):
        _read(uri, files)


def test_an_object_of_s3(moto_s3: str) -> None:
    import boto3

    client = boto3.session.Session().client("s3", endpoint_url=moto_s3)
    client.create_bucket(Bucket="pictures")
    client.put_bucket_versioning(Bucket="pictures", VersioningConfiguration={"Status": "Enabled"})
    old = client.put_object(Bucket="pictures", Key="a b.jpg", Body=b"old")
    client.put_object(Bucket="pictures", Key="a b.jpg", Body=b"new")
    client.put_object(Bucket="pictures", Key="large.jpg", Body=b"x" * 100_001)
    client.put_object(Bucket="pictures", Key="empty.jpg", Body=b"")
    # Not the shared one: its client keeps the credentials that it found first.
    reader, uri = ImageReader(ObjectStore(), _limits(schemes=("s3",))), "s3://pictures/a b.jpg"
    assert reader.read(ImageRef(uri=uri)) == b"new"
    assert reader.read(ImageRef(uri=uri, version_id=old["VersionId"])) == b"old"
    with pytest.raises(errors.Changed):
        reader.read(ImageRef(uri=uri, etag=old["ETag"]))
    with pytest.raises(errors.TooManyBytes):
        reader.read(ImageRef(uri="s3://pictures/large.jpg"))
    with pytest.raises(errors.NotAnImage, match="empty"):
        reader.read(ImageRef(uri="s3://pictures/empty.jpg"))


def test_missing_credentials_fail_no_image(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(errors.HouseError, match="AWS_ACCESS_KEY_ID"):
        ImageReader(ObjectStore(), GUARDED).read(ImageRef(uri="s3://pictures/a.jpg"))
