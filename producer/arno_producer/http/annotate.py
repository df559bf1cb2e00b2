"""`/v1/annotate`: one picture, and its answer in the response."""

import asyncio
import json
import secrets
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import Any, NamedTuple

from anyio import CancelScope
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from arno_producer.client import Producer, new_job_id
from arno_producer.http.json_body import content_type_of, is_json, read_json
from arno_producer.http.metrics import DoorMetrics
from arno_producer.http.problems import Problem, problem, responses
from arno_producer.http.requests import AnnotateRequest
from arno_producer.job import Job
from arno_shared.errors import ArnoError
from arno_shared.logs import get_logger
from arno_shared.messages import MAX_PROMPTS
from arno_shared.names import Lane, annotations_prefix, uploads_prefix
from arno_shared.results import ResultRow, Status
from arno_shared.shorthands import PROMPT

log = get_logger(__name__)

PATH = "/v1/annotate"

_MOST_FIELDS = 200
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.01, 0.1
_JSON_SCHEMA = AnnotateRequest.model_json_schema(ref_template="#/components/schemas/{model}")
# They stand among the components, for jobs.
del _JSON_SCHEMA["$defs"]
_FORM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["image", "prompts"],
    "properties": {
        "image": {"type": "string", "format": "binary", "minLength": 1},
        "prompts": {"type": "array", "items": PROMPT, "minItems": 1, "maxItems": MAX_PROMPTS},
        "timeout_s": {"type": "number", "exclusiveMinimum": 0, "maximum": 600},
    },
    "additionalProperties": False,
}


class _Asked(NamedTuple):
    wanted: AnnotateRequest
    upload: str | None
    """The URI of the picture, where it was sent along: it is removed afterwards."""


def annotate(producer: Producer, metrics: DoorMetrics) -> APIRouter:
    router = APIRouter(tags=["annotate"])
    settings = producer.settings

    @router.post(
        PATH,
        summary="Ask about one picture, and get the answer",
        response_model=ResultRow,
        responses=responses(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.TOO_MANY_REQUESTS,
            HTTPStatus.BAD_GATEWAY,
            HTTPStatus.GATEWAY_TIMEOUT,
        ),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": _JSON_SCHEMA},
                    "multipart/form-data": {"schema": _FORM_SCHEMA},
                },
            }
        },
    )
    async def answer(request: Request) -> Response:
        """Asks about one picture, by URI or uploaded, before all that waits in bulk; the answer is its result row.

        A picture that cannot be done is a problem with its error's `code`. What is not answered in time is cancelled.
        """
        await run_sync(producer.check_room, Lane.INTERACTIVE)
        asked = await _read(request, producer)
        job_id = f"annotate-{new_job_id()}"
        try:
            sent = await run_sync(
                partial(
                    producer.send,
                    [asked.wanted.image],
                    asked.wanted.prompts,
                    output=f"{annotations_prefix(settings.output_prefix)}{job_id}/",
                    generation=asked.wanted.generation,
                    job_id=job_id,
                )
            )
            metrics.submitted(Lane.INTERACTIVE, 1)
            most_s = settings.http.annotate_timeout_s
            row = await _answer_in_time(request, sent.job, min(asked.wanted.timeout_s or most_s, most_s))
        finally:
            if asked.upload is not None:
                with CancelScope(shield=True):
                    await run_sync(_remove, producer, asked.upload)
        if row is None:
            words = "the picture was not answered in time; it was cancelled"
            return problem(HTTPStatus.GATEWAY_TIMEOUT, "not_in_time", words, job_id=job_id)
        if row.status is Status.FAILED and row.error:
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, row.error.code, row.error.message, job_id=job_id)
        return JSONResponse(row.model_dump(mode="json"))

    return router


async def _answer_in_time(request: Request, job: Job, timeout_s: float) -> ResultRow | None:
    """The picture's row; None when the time is up, or nobody waits any more: then the job is cancelled."""
    give_up_s = monotonic() + timeout_s
    pause_s = _FIRST_LOOK_S
    try:
        while monotonic() < give_up_s and not await request.is_disconnected():
            status = await run_sync(job.status)
            if status.finished:
                row = await run_sync(lambda: next(job.results(), None))
                if row is None:
                    words = "the picture was given up; `arno dead list` says why"
                    raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "given_up", words, job_id=job.id)
                return row
            await asyncio.sleep(min(pause_s, max(0.0, give_up_s - monotonic())))
            pause_s = min(pause_s * 1.5, _LONGEST_LOOK_S)
    except BaseException:
        with CancelScope(shield=True), suppress(ArnoError):
            await run_sync(job.cancel)
        raise
    with suppress(ArnoError):
        await run_sync(job.cancel)
    return None


async def _read(request: Request, producer: Producer) -> _Asked:
    kind = content_type_of(request)
    if kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=_MOST_FIELDS) as form:
            return await _read_form(form, producer)
    if not is_json(kind):
        words = "the body is application/json, or multipart/form-data with the picture in `image`"
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", words)
    data = await request.body()
    return _Asked(_validated(read_json(data) if data else None), None)


async def _read_form(form: FormData, producer: Producer) -> _Asked:
    picture = form.get("image")
    wrong = [_finding("extra_forbidden", name) for name in form if name not in _FORM_SCHEMA["properties"]]
    if not isinstance(picture, UploadFile):
        wrong.append(_finding("value_error", "image", "must be a file: the picture"))
    if wrong or not isinstance(picture, UploadFile):
        raise RequestValidationError(wrong, body=dict(form))
    uri = f"{uploads_prefix(producer.settings.output_prefix)}{secrets.token_hex(16)}"
    said = {**form, "image": uri}
    if "prompts" in form:
        said["prompts"] = _prompts(form.getlist("prompts"))
    # Looked at before anything is stored.
    wanted = _validated(said)
    data = await picture.read()
    if not data:
        raise RequestValidationError([_finding("value_error", "image", "the file is empty")], body=said)
    if len(data) > producer.settings.http.max_upload_bytes:
        words = f"the picture may have at most {producer.settings.http.max_upload_bytes} bytes"
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", words)
    await run_sync(producer.store.put, uri, data, picture.content_type or "application/octet-stream")
    return _Asked(wanted, uri)


def _prompts(said: list[Any]) -> Any:
    prompts = [_prompt(text) if isinstance(text, str) else text for text in said]
    return prompts[0] if len(prompts) == 1 and isinstance(prompts[0], list) else prompts


def _prompt(text: str) -> Any:
    """A prompt, or JSON of one or of several."""
    if text.lstrip().startswith(("{", "[")):
        with suppress(ValueError, RecursionError):
            return json.loads(text)
    return text


def _validated(body: Any) -> AnnotateRequest:
    if body is None:
        raise RequestValidationError([{"type": "missing", "loc": ("body",)}])
    try:
        return AnnotateRequest.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found], body=body) from None


def _finding(kind: str, field: str, words: str = "") -> dict[str, Any]:
    """As Pydantic has it."""
    return {"type": kind, "loc": ("body", field), "msg": words}


def _remove(producer: Producer, uri: str) -> None:
    try:
        producer.store.delete(uri)
    except ArnoError as error:
        log.warning("an upload stays where it is", uri=uri, error=str(error))
