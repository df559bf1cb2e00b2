"""JSON in the body of a request: read in one way, and where it is none, refused in words that say where."""

import json
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

from arno_producer.http.problems import Problem


class JsonRoute(APIRoute):
    """A route whose body, where it takes one, is read by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return read


class _JsonRequest(Request):
    async def body(self) -> bytes:
        data = await super().body()
        if data and not is_json(content_type_of(self)):
            words = "the body must be JSON, and say so: Content-Type: application/json"
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", words)
        return data

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = read_json(await self.body())
        return self._json


def content_type_of(request: Request) -> str:
    """Without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    return content_type == "application/json" or (
        content_type.startswith("application/") and content_type.endswith("+json")
    )


def read_json(data: bytes) -> Any:
    """Raises Problem, which says where it is no JSON (RFC 8259)."""
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        what = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
        raise _no_json(f"{what} (line {error.lineno}, column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise _no_json(f"byte {error.start + 1} is not UTF-8") from None
    except RecursionError:
        raise _no_json("it is nested too deeply to be read") from None
    except ValueError:
        raise _no_json("a number in it has too many digits") from None


def _refuse_constant(name: str) -> NoReturn:
    raise _no_json(f"it has no {name}")


def _no_json(why: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, "bad_request", f"the body is not JSON that can be read: {why}")
