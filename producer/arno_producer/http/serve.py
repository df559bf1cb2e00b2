"""Serves the HTTP door until it is told to stop."""

import logging
import signal
import socket
from collections.abc import Sequence

import uvicorn

from arno_producer.client import Producer
from arno_producer.http.app import door
from arno_shared import tracing
from arno_shared.errors import InvalidRequest
from arno_shared.logs import get_logger

log = get_logger(__name__)

_GRACE_S = 30
"""For requests in flight, once it is to stop."""


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for bound in sockets or ():
            log.info("the door is open", address=_url(bound))


def serve(producer: Producer) -> None:
    """Until SIGTERM or SIGINT; requests in flight are answered. Raises InvalidRequest when it cannot be opened."""
    settings = producer.settings.http
    server: _Server

    app = door(producer, lambda: server.should_exit)
    config = uvicorn.Config(
        app,
        log_config=None,
        # Prometheus counts requests; a line for each would be most of the log.
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = _Server(config)
    # Its lines on starting and stopping say less than ours.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # uvicorn sends itself the signal again once it has ended, which is no reason to end otherwise than well.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    tracing.configure("arno-serve")
    with _bound(settings.host, settings.port) as listener:
        server.run([listener])
    tracing.stop()
    log.info("the door is closed")


def _bound(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=_family(host))
    except OSError as error:
        raise InvalidRequest(
            f"the door cannot be opened on port {port} of {host} ({error.strerror}): set ARNO_HTTP__PORT to a free "
            "one, or to 0 for any, and ARNO_HTTP__HOST to this machine"
        ) from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _url(bound: socket.socket) -> str:
    address: Sequence[object] = bound.getsockname()
    host, port = str(address[0]), address[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
