"""Problem documents: what an error looks like over HTTP (RFC 9457)."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from arno_shared.errors import (
    ArnoError,
    HouseError,
    InternalError,
    InvalidRequest,
    ItemError,
    JobConflict,
    JobNotFound,
    LaneFull,
    StorageRefused,
)
from arno_shared.logs import get_logger
from arno_shared.uris import redact

log = get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

_STATUS: tuple[tuple[type[ArnoError], HTTPStatus], ...] = (
    (JobNotFound, HTTPStatus.NOT_FOUND),
    (JobConflict, HTTPStatus.CONFLICT),
    (InvalidRequest, HTTPStatus.UNPROCESSABLE_ENTITY),
    (LaneFull, HTTPStatus.TOO_MANY_REQUESTS),
    (HouseError, HTTPStatus.SERVICE_UNAVAILABLE),
    (StorageRefused, HTTPStatus.BAD_GATEWAY),
    (ItemError, HTTPStatus.UNPROCESSABLE_ENTITY),
)
_HOUSE_RETRY_AFTER_S = 5
_MOST_FINDINGS = 20


class Finding(BaseModel):
    pointer: str
    """A JSON Pointer (RFC 6901) into the body, or the name of a parameter."""
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


def of_error(error: ArnoError, **more: Any) -> JSONResponse:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = {}
    if isinstance(error, LaneFull):
        headers["Retry-After"] = str(error.retry_after_s)
    elif isinstance(error, HouseError):
        headers["Retry-After"] = str(_HOUSE_RETRY_AFTER_S)
    return problem(status, error.code, str(error), headers, **more)


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
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            # Each route knows its own method alone.
            headers["Allow"] = ", ".join(sorted(_methods_of(app, request.url.path)))
        return problem(status, status.name.lower(), str(error.detail), headers)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = error.errors()
        if any(finding["type"] == "json_invalid" for finding in found):
            return problem(HTTPStatus.BAD_REQUEST, "bad_request", "the body is not JSON")
        findings = [{"pointer": _pointer(one["loc"]), "detail": _words(one["msg"])} for one in found[:_MOST_FINDINGS]]
        detail = "; ".join(f"{one['pointer']}: {one['detail']}" for one in findings[:5])
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


def _pointer(place: tuple[str | int, ...]) -> str:
    """`("body", "images", 0)` → `/images/0`; of a parameter, its name."""
    where, *path = place or ("body",)
    if where != "body":
        return ".".join(map(str, path))
    return "".join(f"/{str(step)[:80].replace('~', '~0').replace('/', '~1')}" for step in path) or "/"


def _words(said: str) -> str:
    return said.removeprefix("Value error, ")[:1000]
