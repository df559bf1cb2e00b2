"""`/v1/jobs`: submit, follow, read, stop."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from arno_producer.client import Producer, new_job_id
from arno_producer.http.json_body import JsonRoute
from arno_producer.http.metrics import DoorMetrics
from arno_producer.http.problems import Problem, at, responses
from arno_producer.http.requests import Cursor, IdempotencyKey, JobRequest, LastEventId, PathJobId
from arno_producer.http.sse import job_events
from arno_producer.http.views import JobList, JobView, Views
from arno_producer.job import Job
from arno_producer.results_page import FIRST_PAGE, results_page
from arno_shared.errors import (
    ArnoError,
    InvalidUri,
    ItemError,
    JobConflict,
    JobNotFound,
    NotFound,
    OutputRefused,
    StorageRefused,
)
from arno_shared.ledger import JobState
from arno_shared.settings import HttpSettings
from arno_shared.uris import file_uri, path_of, scheme_of

_NOT_FOUND = responses(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY)
_MOVES = responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)
NDJSON = "application/x-ndjson"


def jobs(producer: Producer, metrics: DoorMetrics, stopping: Callable[[], bool]) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JsonRoute)
    views = Views()

    async def check_output(request: Request) -> None:
        await _check_output(request, producer.settings.http, producer.settings.output_prefix)

    @router.post(
        "",
        summary="Submit a job",
        dependencies=[Depends(check_output)],
        status_code=HTTPStatus.CREATED,
        responses={
            200: {"model": JobView, "description": "The job was there already"},
            **responses(
                HTTPStatus.BAD_REQUEST,
                HTTPStatus.FORBIDDEN,
                HTTPStatus.CONFLICT,
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                HTTPStatus.UNPROCESSABLE_ENTITY,
                HTTPStatus.TOO_MANY_REQUESTS,
                HTTPStatus.BAD_GATEWAY,
            ),
        },
    )
    def submit(
        wanted: JobRequest,
        response: Response,
        idempotency_key: IdempotencyKey = None,
    ) -> JobView:
        """Takes a job in. It is answered once everything is enqueued, and its manifest stored: nothing can be lost.

        With an `Idempotency-Key`, or a `job_id`, the same request made again finds the job that it made before, as it
        is by then: running, paused, cancelled or done.
        """
        is_keyed = idempotency_key is not None and wanted.job_id is None
        job_id = wanted.job_id or (_job_id_of(idempotency_key) if idempotency_key else new_job_id())
        try:
            job = producer.submit(
                wanted.images,
                wanted.prompts,
                output=wanted.output,
                generation=wanted.generation,
                job_id=job_id,
                lane=wanted.lane,
                wait_for_room=False,
                request_sha256=wanted.sha256() if is_keyed else None,
            )
        except JobConflict as error:
            if not (is_keyed and error.asked_otherwise):
                raise
            words = f"this Idempotency-Key was used for another request: {error}"
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency_key_reused", words) from None
        except (OutputRefused, StorageRefused):
            if not (wanted.job_id or is_keyed):
                # The bucket was there at first, and nobody knows the job's id to come again.
                with suppress(ArnoError):
                    producer.job(job_id).cancel()
            raise
        status = job.status()
        if job.created:
            metrics.submitted(wanted.lane, status.images)
        else:
            response.status_code = HTTPStatus.OK
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return views.of(status)

    @router.get("", summary="The latest jobs", responses=responses(HTTPStatus.UNPROCESSABLE_ENTITY))
    def latest(limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> JobList:
        """The latest jobs, newest first."""
        found = []
        for job_id in producer.ledger.jobs(limit):
            try:
                found.append(views.of(producer.ledger.status(job_id)))
            except JobNotFound:  # its time in the ledger is over
                continue
        return JobList(jobs=found)

    @router.get("/{job_id}", summary="How far a job is", responses=_NOT_FOUND)
    def one(job_id: PathJobId) -> JobView:
        """How far a job is."""
        return views.of(producer.ledger.status(job_id))

    @router.get(
        "/{job_id}/results",
        summary="Its result rows, page by page",
        response_class=Response,
        responses={
            200: {"content": {NDJSON: {"schema": {"type": "string"}}}, "description": "Result rows, one a line"},
            **responses(
                HTTPStatus.NOT_FOUND,
                HTTPStatus.GONE,
                HTTPStatus.UNPROCESSABLE_ENTITY,
                HTTPStatus.BAD_GATEWAY,
            ),
        },
    )
    def results(
        job_id: PathJobId,
        cursor: Cursor = FIRST_PAGE,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> Response:
        """A page of result rows as JSON lines: first attempts in the order of submission, later ones after them as they
        were committed; of a job of messages, all as they were committed.

        The `Link` header leads to the next page, as long as there may be one: follow it until it is missing, and each
        image has come once. A page that is empty says that the next chunk is not done yet: ask again after a while. An
        image that was given up and replayed after its row came, comes again: of two rows of the same `index` and
        `position`, the one with more `attempts` counts. 410 `cursor_stale` when the ledger was rebuilt since, and what
        follows is no longer known: begin again without a cursor.
        """
        try:
            page = results_page(producer.job(job_id), cursor, limit)
        except ItemError as error:
            raise _unreadable(error, producer.ledger.status(job_id).output_prefix, producer) from None
        headers = {}
        if page.next_cursor is not None:
            headers["Arno-Next-Cursor"] = page.next_cursor
            headers["Link"] = f'</v1/jobs/{job_id}/results?cursor={page.next_cursor}&limit={limit}>; rel="next"'
        return Response("".join(row.model_dump_json() + "\n" for row in page.rows), headers=headers, media_type=NDJSON)

    @router.get(
        "/{job_id}/events",
        summary="What happens to it, as it happens",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"text/event-stream": {}}, "description": "As they come"},
            **_NOT_FOUND,
        },
    )
    async def events(
        request: Request,
        job_id: PathJobId,
        last_event_id: LastEventId = "",
    ) -> StreamingResponse:
        """Server-sent events: `progress` when the job's status changes, `chunk` for each chunk that is committed from
        now on (or since `Last-Event-ID`), `done` at the end."""
        stream = await job_events(producer, job_id, last_event_id, stopping)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @router.post("/{job_id}/cancel", summary="Stop a job", responses=_MOVES)
    def cancel(job_id: PathJobId) -> JobView:
        """Stops a job: chunks that no worker has begun are dropped. 409 when it is done."""
        job = producer.job(job_id)
        if job.cancel() is JobState.DONE:
            raise JobConflict(f"job {job_id!r} is done, and cannot be cancelled")
        return views.of(job.status())

    @router.post("/{job_id}/pause", summary="Let a job stand still", responses=_MOVES)
    def pause(job_id: PathJobId) -> JobView:
        """Lets a job stand still. 409 when it has ended."""
        return _moved(Job.pause, job_id)

    @router.post("/{job_id}/resume", summary="Let a paused job go on", responses=_MOVES)
    def resume(job_id: PathJobId) -> JobView:
        """Lets a paused job go on. 409 when it has ended; `arno resume` brings a cancelled one back."""
        return _moved(Job.unpause, job_id)

    def _moved(move: Callable[[Job], JobState], job_id: str) -> JobView:
        job = producer.job(job_id)
        move(job)
        return views.of(job.status())

    return router


def _job_id_of(idempotency_key: str) -> str:
    return f"key-{hashlib.sha256(idempotency_key.encode()).hexdigest()[:32]}"


def _unreadable(error: ItemError, prefix: str, producer: Producer) -> ArnoError | Problem:
    """Why a result object cannot be read, laid at the door of whoever chose where it lies."""
    if isinstance(error, NotFound):
        return Problem(HTTPStatus.GONE, "results_gone", f"results of this job are no longer where they were: {error}")
    if error.retryable or prefix.startswith(producer.settings.output_prefix):
        return error
    return Problem(HTTPStatus.FORBIDDEN, error.code, f"results of this job cannot be read where they lie: {error}")


async def _check_output(request: Request, settings: HttpSettings, own_prefix: str) -> None:
    """Raises Problem when results may not go where the request wants them; whatever else is wrong is said later."""
    said = await request.json() if await request.body() else None
    output = said.get("output") if isinstance(said, dict) else None
    prefix = output.get("prefix") if isinstance(output, dict) else output
    if not (isinstance(prefix, str) and prefix.lower().startswith(("s3://", "file://"))):
        return
    with suppress(InvalidUri):
        if any(_lies_below(prefix, place) for place in settings.output_prefixes or ("s3://", own_prefix)):
            return
        words = "results may not go there: ARNO_HTTP__OUTPUT_PREFIXES lists where they may"
        raise Problem(HTTPStatus.FORBIDDEN, "output_not_allowed", words, errors=at("/output", words))


def _lies_below(prefix: str, place: str) -> bool:
    if scheme_of(prefix) == "file" and place.startswith("file:"):
        # Written in different ways, they may be one path.
        prefix, place = (file_uri(path_of(uri)) + "/" for uri in (prefix.rstrip("/"), place.rstrip("/")))
    return (prefix if prefix.endswith("/") else f"{prefix}/").startswith(place)
