"""A few pages over HTTP, for probes and Prometheus: GET and HEAD, nothing else."""

import json
import socket
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, TypeAlias

from prometheus_client import CONTENT_TYPE_LATEST

from arno_shared.logs import get_logger

log = get_logger(__name__)

Page: TypeAlias = tuple[HTTPStatus, Mapping[str, Any] | bytes]
"""The status, and what becomes a JSON object, or what Prometheus reads."""


class PageServer(ThreadingHTTPServer):
    """Listens once it is made; raises OSError when it cannot. Its threads end with the process."""

    # Some versions of Python let several processes listen on one port, where a second worker would go unseen.
    allow_reuse_port = False

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], Page]]) -> None:
        """`pages` by path. Port 0: any that is free."""
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.pages = pages
        super().__init__((host, port), _Request)

    @property
    def address(self) -> str:
        """`host:port`"""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def server_bind(self) -> None:
        # Not HTTPServer's, which looks the host's name up and may wait long for it.
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Whoever goes away before the answer has nobody to blame.
        if not isinstance(sys.exception(), OSError):
            log.exception("a page cannot be made")


class _Request(BaseHTTPRequestHandler):
    server: PageServer
    # For who connects and says nothing.
    timeout = 5.0
    server_version = "arno"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        pages = self.server.pages
        page = pages.get(self.path.partition("?")[0])
        status, content = page() if page else (HTTPStatus.NOT_FOUND, {"status": "not found", "pages": list(pages)})
        kind = "application/json"
        if isinstance(content, bytes):
            body, kind = content, CONTENT_TYPE_LATEST
        else:
            body = json.dumps(content, ensure_ascii=False).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: probes come every few seconds, for ever."""
