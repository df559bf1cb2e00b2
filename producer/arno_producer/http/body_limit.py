"""How large a request's body may be, whatever its headers say."""

from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arno_producer.http.problems import Problem, problem

_CODE = "body_too_large"


class BodyLimit:
    """ASGI middleware: what is announced as larger is refused at once, and what grows larger when it does."""

    def __init__(self, app: ASGIApp, max_bytes: Callable[[str], int]) -> None:
        """`max_bytes`: by path."""
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._max_bytes(scope["path"])
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > most:
            await problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _CODE, _words(most))(scope, receive, send)
            return
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _CODE, _words(most))
            return message

        await self._app(scope, limited, send)


def _words(most: int) -> str:
    return f"the body may have at most {most} bytes"
