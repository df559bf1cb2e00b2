"""Images from http(s): guarded, bounded, and on time."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urljoin

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, PoolManager, make_headers
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationValueError, ReadTimeoutError, SSLError
from urllib3.util import Timeout as Budget
from urllib3.util import Url, parse_url

from arno_shared import __version__
from arno_shared.errors import (
    AccessDenied,
    ConnectionFailed,
    HttpError,
    InvalidUri,
    NotFound,
    SchemeNotAllowed,
    Throttled,
    Timeout,
    TooManyBytes,
    TooManyRedirects,
    Unavailable,
)
from arno_shared.settings import LimitSettings
from arno_shared.uris import redact
from arno_workers.fetch.addresses import Resolver, lookup
from arno_workers.fetch.schemes import check_scheme
from arno_workers.fetch.sockets import Connector, tls_context

_REDIRECTS = {301, 302, 303, 307, 308}
_READ_BYTES = 64 * 1024

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BACKSLASH_IN_HOST = re.compile(r"[^/?#]*//[^/?#]*\\")
"""To some the host ends there, to others what went before is user info."""


class HttpFetcher:
    """Gets images over http(s) within `limits`. Thread-safe; connections are kept and shared."""

    def __init__(self, limits: LimitSettings, resolve: Resolver = lookup) -> None:
        self._limits = limits
        self._pools = PoolManager(num_pools=64, maxsize=64, ssl_context=tls_context())
        self._pools.pool_classes_by_scheme = _guarded_pools(Connector(limits.private_addresses, resolve))

    def get(self, uri: str) -> bytes:
        """The body behind `uri`, redirects followed. User info in `uri` goes to its own host only.

        Raises NotFound, AccessDenied, HttpError, Throttled, Unavailable, TooManyBytes, TooManyRedirects,
        SchemeNotAllowed, ForbiddenAddress, InvalidUri, Timeout, ConnectionFailed.
        """
        ends_at = time.monotonic() + self._limits.timeout_s
        start = self._allowed(uri)
        hop = start
        for _ in range(self._limits.max_redirects + 1):
            auth = start.auth if _origin(hop) == _origin(start) else None
            with _told_plainly(hop), self._answer(hop, auth, ends_at) as answer:
                if answer.status not in _REDIRECTS:
                    _check_status(hop, answer.status)
                    return self._body(hop, answer)
                target = answer.headers.get("Location")
            if target is None:
                raise HttpError(f"{_show(hop)} redirects to nowhere")
            hop = self._allowed(target, base=hop)
        raise TooManyRedirects(f"{_show(start)} redirects more than {self._limits.max_redirects} times")

    def _allowed(self, uri: str, base: Url | None = None) -> Url:
        try:
            whole = urljoin(base.url, uri) if base else uri
            if _CONTROL.search(uri) or _BACKSLASH_IN_HOST.match(whole):
                raise ValueError
            parts = parse_url(whole)
        except (HTTPError, ValueError):
            raise InvalidUri(f"not a URL: {redact(uri)[:200]!r}") from None
        if parts.scheme not in ("http", "https"):
            scheme = str(parts.scheme)[:50]
            raise SchemeNotAllowed(f"a redirect to {scheme}:// is not followed, only to http:// and https://")
        check_scheme(parts.scheme, self._limits)
        if not parts.host:
            raise InvalidUri(f"no host in {redact(uri)[:200]!r}")
        return parts

    @contextmanager
    def _answer(self, hop: Url, auth: str | None, ends_at: float) -> Iterator[BaseHTTPResponse]:
        remaining_s = ends_at - time.monotonic()
        if remaining_s <= 0:
            raise Timeout(f"{_show(hop)} was not reached within {self._limits.timeout_s:g} s")
        headers = {"User-Agent": f"arno/{__version__}", "Accept-Encoding": "identity"}
        if auth is not None:
            headers |= make_headers(basic_auth=unquote(auth))
        answer = self._pools.request(
            "GET",
            hop._replace(auth=None).url,
            headers=headers,
            timeout=Budget(connect=min(self._limits.connect_timeout_s, remaining_s), total=remaining_s),
            redirect=False,
            retries=False,
            preload_content=False,
        )
        try:
            yield answer
        finally:
            # A body that was read to its end has already given its connection back; any other is cut off here.
            answer.close()

    def _body(self, hop: Url, answer: BaseHTTPResponse) -> bytes:
        limit = self._limits.max_bytes
        too_many = TooManyBytes(f"{_show(hop)} has more than {limit} bytes")
        if (answer.length_remaining or 0) > limit:
            raise too_many
        body = bytearray()
        for part in answer.stream(_READ_BYTES):
            body += part
            if len(body) > limit:
                raise too_many
        return bytes(body)


def _guarded_pools(connector: Connector) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's own pools and TLS, but for the one step that opens a socket."""

    def open_socket(connection: HTTPConnection) -> socket.socket:
        assert connection.timeout is not None
        return connector.connect(connection._dns_host, connection.port, connection.timeout)

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return open_socket(self)

    class Tls(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return open_socket(self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


@contextmanager
def _told_plainly(hop: Url) -> Iterator[None]:
    try:
        yield
    except (ConnectTimeoutError, ReadTimeoutError) as error:
        raise Timeout(f"{_show(hop)} took too long") from error
    except SSLError as error:
        raise ConnectionFailed(f"no secure connection to {_show(hop)}: {str(error)[:200]}") from error
    except (LocationValueError, UnicodeError) as error:
        raise InvalidUri(f"not a URL: {_show(hop)}") from error
    except (HTTPError, OSError) as error:
        raise ConnectionFailed(f"the connection to {_show(hop)} failed ({type(error).__name__})") from error


def _check_status(hop: Url, status: int) -> None:
    if status < 300:
        return
    told = f"{_show(hop)} answers {status}"
    if status in (404, 410):
        raise NotFound(told)
    if status in (401, 403):
        raise AccessDenied(told)
    if status == 429:
        raise Throttled(told)
    if status == 408 or status >= 500:
        raise Unavailable(told)
    raise HttpError(told)


def _origin(url: Url) -> tuple[str | None, str | None, int | None]:
    return url.scheme, url.host, url.port


def _show(url: Url) -> str:
    return redact(url._replace(auth=None).url)[:500]
