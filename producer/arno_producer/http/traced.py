"""Each request is a span, which continues the trace that its caller is in."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arno_producer.http.gate import OPEN_PATHS
from arno_shared import tracing


class Traced:
    """ASGI middleware; probes are left out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not tracing.is_on() or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        parent = Headers(scope=scope).get("traceparent")
        with tracing.span(scope["method"], "server", parent=parent, http__request__method=scope["method"]) as span:

            async def noting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.say(http__response__status_code=message["status"])
                await send(message)

            try:
                await self._app(scope, receive, noting)
            finally:
                if route := getattr(scope.get("route"), "path", ""):
                    span.rename(f"{scope['method']} {route}")
                    span.say(http__route=route)
