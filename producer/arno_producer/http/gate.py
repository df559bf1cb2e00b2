"""Who may come in: a bearer token, or, on loopback without any, whoever asks for this machine by name."""

import hmac
from http import HTTPStatus
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from arno_producer.http import docs
from arno_producer.http.problems import problem
from arno_shared.errors import InvalidRequest
from arno_shared.settings import HttpSettings

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"}) | docs.PATHS
"""For probes, Prometheus, generators of clients, and the page on which a token is typed: they have none."""


class Gate:
    """ASGI middleware; a request that may not come in is answered before its body is read."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        """Raises InvalidRequest when others than this machine could come in without a token."""
        if not settings.tokens and not is_loopback(settings.host):
            raise InvalidRequest(
                f"without ARNO_HTTP__TOKENS, everybody who reaches {settings.host} could submit work: set tokens, as "
                """ARNO_HTTP__TOKENS='["…"]', or listen on 127.0.0.1"""
            )
        if any(not token.get_secret_value().strip() for token in settings.tokens):
            raise InvalidRequest("ARNO_HTTP__TOKENS holds an empty token")
        self._app = app
        self._tokens = [token.get_secret_value().encode() for token in settings.tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # HEAD says no more than that there is a door: MinIO looks for it before it sends.
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or scope["method"] in ("OPTIONS", "HEAD"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._tokens:
            if not self._knows(headers.get("authorization", "")):
                words = "a bearer token is needed: Authorization: Bearer …"
                refusal = problem(HTTPStatus.UNAUTHORIZED, "unauthorized", words, {"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, send)
                return
        elif not is_loopback(_host(headers.get("host", ""))):
            # A page in a browser that was led here by a name of its own.
            words = "without tokens, this door is open to requests for localhost alone"
            await problem(HTTPStatus.FORBIDDEN, "forbidden", words)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return False
        secret = given.strip().encode("latin-1", "replace")
        # All are compared, and each in constant time.
        return sum(hmac.compare_digest(secret, token) for token in self._tokens) > 0


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _host(header: str) -> str:
    """A Host header without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
