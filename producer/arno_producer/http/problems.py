"""Problem documents: what an error looks like over HTTP (RFC 9457)."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from arno_shared.errors import (
    ArnoError,
    CursorStale,
    HouseError,
    InternalError,
    InvalidRequest,
    ItemError,
    JobConflict,
    JobNotFound,
    LaneFull,
    OutputRefused,
    StorageRefused,
)
from arno_shared.findings import findings_of
from arno_shared.logs import get_logger
from arno_shared.uris import redact

log = get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

_STATUS: tuple[tuple[type[ArnoError], HTTPStatus], ...] = (
    (JobNotFound, HTTPStatus.NOT_FOUND),
    (JobConflict, HTTPStatus.CONFLICT),
    (CursorStale, HTTPStatus.GONE),
    (InvalidRequest, HTTPStatus.UNPROCESSABLE_ENTITY),
    (LaneFull, HTTPStatus.TOO_MANY_REQUESTS),
    (HouseError, HTTPStatus.SERVICE_UNAVAILABLE),
    # Of storage, where nobody but the house chose the place.
    (StorageRefused, HTTPStatus.BAD_GATEWAY),
    (ItemError, HTTPStatus.BAD_GATEWAY),
)
_HOUSE_RETRY_AFTER_S = 5
_MOST_FINDINGS = 20
_MOST_IN_DETAIL = 5
_MOST_NAME_CHARS = 80


class Finding(BaseModel):
    pointer: str
    """A JSON Pointer (RFC 6901) into the body, of which an empty one is the whole; or the name of a parameter."""
    detail: str


class ProblemDocument(BaseModel):
    """RFC 9457. `code` is stable, and `type` is made of it; `detail` is for people."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[Finding] | None = None
    job_id: str | None = None


class Problem(HTTPException):
    """Raised where no error of Arno's own says it."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.code, self.more = code, more


def responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: the problems that it may answer with, besides those that every route may."""
    return {
        int(status): {
            "description": status.phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
        for status in (*statuses, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE)
    }


def problem(
    status: HTTPStatus, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    document = {
        "type": f"urn:arno:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": int(status),
        "detail": redact(detail),
        "code": code,
        **more,
    }
    return JSONResponse(document, int(status), dict(headers or {}), MEDIA_TYPE)


def of_error(error: ArnoError) -> JSONResponse:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = {}
    if isinstance(error, LaneFull):
        headers["Retry-After"] = str(error.retry_after_s)
    elif error.retryable:
        status = HTTPStatus.SERVICE_UNAVAILABLE
        headers["Retry-After"] = str(_HOUSE_RETRY_AFTER_S)
    words = str(error)
    return problem(
        status,
        error.code,
        words,
        headers,
        **{"errors": at("/output", words)} if isinstance(error, OutputRefused) else {},
    )


def at(pointer: str, words: str) -> list[dict[str, str]]:
    """The `errors` of a problem that is one finding."""
    return [{"pointer": pointer, "detail": redact(words)}]


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem document."""

    async def arno_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ArnoError)
        return of_error(error)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        status = HTTPStatus(error.status_code)
        if isinstance(error, Problem):
            return problem(status, error.code, error.detail, error.headers, **error.more)
        headers = dict(error.headers or {})
        words = str(error.detail)
        if status is HTTPStatus.NOT_FOUND:
            words = "there is nothing at this path: /openapi.json lists what there is"
        elif status is HTTPStatus.METHOD_NOT_ALLOWED:
            # Each route knows its own method alone.
            headers["Allow"] = ", ".join(sorted(_methods_of(app, request.url.path)))
            words = f"{request.method[:20]} is not allowed at this path; allowed is {headers['Allow'] or 'nothing'}"
        elif status is HTTPStatus.BAD_REQUEST:
            # Starlette's, of a form: too many files, no boundary.
            words = f"the form cannot be read: it holds one file, `image`, and texts ({words.rstrip('.')})"
        return problem(status, status.name.lower(), words, headers)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found: dict[str, str] = {}
        for place, words in findings_of(error.errors()):
            found.setdefault(_pointer(place, error.body), words)
        findings = [at(pointer, words)[0] for pointer, words in found.items()][:_MOST_FINDINGS]
        detail = "; ".join(_sentence(**finding) for finding in findings[:_MOST_IN_DETAIL])
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, InvalidRequest.code, detail, errors=findings)

    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("a request failed in a way that nothing foresaw", path=request.url.path, exc_info=error)
        words = "something that nothing foresaw; the door's log has more"
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, InternalError.code, words)

    app.add_exception_handler(ArnoError, arno_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unforeseen)


def _methods_of(app: FastAPI, path: str) -> set[str]:
    """All that some route allows there."""
    return {
        method
        for template, operations in app.openapi()["paths"].items()
        if re.fullmatch(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(template)), path)
        for method in map(str.upper, operations)
    }


def _pointer(place: tuple[str | int, ...], body: Any) -> str:
    """Where in what the caller wrote: `("body", "images", 0, "uri")` → `/images/0`, where a string stands for the
    image. Of a parameter, its name."""
    where, *path = place or ("body",)
    if where != "body":
        return ".".join(map(str, path))
    pointer = ""
    for step in path:
        if not isinstance(body, Mapping | Sequence) or isinstance(body, str):
            break
        name = str(step)[:_MOST_NAME_CHARS].replace("~", "~0").replace("/", "~1")
        # Half of a surrogate pair is no text that can be sent.
        pointer += "/" + name.encode("utf-8", "backslashreplace").decode()
        body = _within(body, step)
    return pointer


def _within(body: Mapping[str, Any] | Sequence[Any], step: str | int) -> Any:
    try:
        return body[step]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):  # what is missing
        return None


def _sentence(pointer: str, detail: str) -> str:
    return f"{pointer}: {detail}" if pointer else f"the body {detail}"
