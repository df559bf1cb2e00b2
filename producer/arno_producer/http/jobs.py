"""`/v1/jobs`: submit, follow, read, stop."""

import hashlib
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from arno_producer.client import Producer
from arno_producer.http.metrics import DoorMetrics
from arno_producer.http.problems import Problem, responses
from arno_producer.http.requests import JOB_ID_PATTERN, JobRequest
from arno_producer.http.sse import job_events
from arno_producer.http.views import JobList, JobView, Views
from arno_producer.job import Job
from arno_producer.results_page import CURSOR_PATTERN, FIRST_PAGE, results_page
from arno_shared.errors import JobConflict, JobNotFound
from arno_shared.ledger import JobState
from arno_shared.messages import Output
from arno_shared.uris import file_uri, path_of, scheme_of

JobId = Annotated[str, Path(pattern=JOB_ID_PATTERN)]

_NOT_FOUND = responses(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY)
_MOVES = responses(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)
NDJSON = "application/x-ndjson"


def jobs(producer: Producer, metrics: DoorMetrics, stopping: Callable[[], bool]) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    views = Views()

    @router.post(
        "",
        status_code=HTTPStatus.CREATED,
        responses={
            200: {"model": JobView, "description": "The job was there already"},
            **responses(
                HTTPStatus.BAD_REQUEST,
                HTTPStatus.FORBIDDEN,
                HTTPStatus.CONFLICT,
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                HTTPStatus.UNPROCESSABLE_ENTITY,
                HTTPStatus.TOO_MANY_REQUESTS,
                HTTPStatus.BAD_GATEWAY,
            ),
        },
    )
    def submit(
        wanted: JobRequest,
        response: Response,
        idempotency_key: Annotated[str, Header(min_length=1, max_length=255, pattern=r"^[!-~]+$")] = "",
    ) -> JobView:
        """Takes a job in. It is answered once everything is enqueued, and its manifest stored: nothing can be lost.

        With an `Idempotency-Key`, the same request made again finds the job that it made before.
        """
        job_id = wanted.job_id or (_job_id_of(idempotency_key) if idempotency_key else None)
        _check_output(wanted.output, producer)
        stood = job_id is not None and _stands(producer, job_id)
        try:
            job = producer.submit(
                wanted.images,
                wanted.prompts,
                output=wanted.output,
                generation=wanted.generation,
                job_id=job_id,
                lane=wanted.lane,
                wait_for_room=False,
            )
        except JobConflict as error:
            if wanted.job_id or not idempotency_key:
                raise
            words = f"this Idempotency-Key was used for another request: {error}"
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency_key_reused", words) from None
        status = job.status()
        if stood:
            response.status_code = HTTPStatus.OK
        else:
            metrics.submitted(wanted.lane, status.images)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return views.of(status)

    @router.get("", responses=responses(HTTPStatus.UNPROCESSABLE_ENTITY))
    def latest(limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> JobList:
        """The latest jobs, newest first."""
        found = []
        for job_id in producer.ledger.jobs(limit):
            try:
                found.append(views.of(producer.ledger.status(job_id)))
            except JobNotFound:  # its time in the ledger is over
                continue
        return JobList(jobs=found)

    @router.get("/{job_id}", responses=_NOT_FOUND)
    def one(job_id: JobId) -> JobView:
        """How far a job is."""
        return views.of(producer.ledger.status(job_id))

    @router.get(
        "/{job_id}/results",
        response_class=Response,
        responses={
            200: {"content": {NDJSON: {"schema": {"type": "string"}}}, "description": "Result rows, one a line"},
            **responses(
                HTTPStatus.NOT_FOUND,
                HTTPStatus.UNPROCESSABLE_ENTITY,
                HTTPStatus.BAD_GATEWAY,
            ),
        },
    )
    def results(
        job_id: JobId,
        cursor: Annotated[str, Query(pattern=CURSOR_PATTERN)] = FIRST_PAGE,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> Response:
        """A page of result rows, in the order of submission, as JSON lines.

        The `Link` header leads to the next page, as long as there may be one: follow it until it is missing, and each
        image has come once. A page that is empty says that the next chunk is not done yet: ask again after a while.
        """
        page = results_page(producer.job(job_id), cursor, limit)
        headers = {}
        if page.next_cursor is not None:
            headers["Arno-Next-Cursor"] = page.next_cursor
            headers["Link"] = f'</v1/jobs/{job_id}/results?cursor={page.next_cursor}&limit={limit}>; rel="next"'
        return Response("".join(row.model_dump_json() + "\n" for row in page.rows), headers=headers, media_type=NDJSON)

    @router.get(
        "/{job_id}/events",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"text/event-stream": {}}, "description": "As they come"},
            **_NOT_FOUND,
        },
    )
    async def events(
        request: Request,
        job_id: JobId,
        last_event_id: Annotated[str, Header()] = "",
    ) -> StreamingResponse:
        """Server-sent events: `progress` when the job's status changes, `chunk` for each chunk that is committed from
        now on (or since `Last-Event-ID`), `done` at the end."""
        stream = await job_events(producer, job_id, last_event_id, stopping)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @router.post("/{job_id}/cancel", responses=_MOVES)
    def cancel(job_id: JobId) -> JobView:
        """Stops a job: chunks that no worker has begun are dropped. 409 when it is done."""
        job = producer.job(job_id)
        if job.cancel() is JobState.DONE:
            raise JobConflict(f"job {job_id!r} is done, and cannot be cancelled")
        return views.of(job.status())

    @router.post("/{job_id}/pause", responses=_MOVES)
    def pause(job_id: JobId) -> JobView:
        """Lets a job stand still. 409 when it has ended."""
        return _moved(Job.pause, job_id)

    @router.post("/{job_id}/resume", responses=_MOVES)
    def resume(job_id: JobId) -> JobView:
        """Lets a paused job go on. 409 when it has ended; `arno resume` brings a cancelled one back."""
        return _moved(Job.unpause, job_id)

    def _moved(move: Callable[[Job], JobState], job_id: str) -> JobView:
        job = producer.job(job_id)
        move(job)
        return views.of(job.status())

    return router


def _job_id_of(idempotency_key: str) -> str:
    return f"key-{hashlib.sha256(idempotency_key.encode()).hexdigest()[:32]}"


def _stands(producer: Producer, job_id: str) -> bool:
    try:
        producer.ledger.status(job_id)
    except JobNotFound:
        return False
    return True


def _check_output(output: Output | str | None, producer: Producer) -> None:
    """Raises Problem when results may not go there."""
    if output is None:
        return
    settings = producer.settings
    prefix = output if isinstance(output, str) else output.prefix
    allowed = settings.http.output_prefixes or ("s3://", settings.output_prefix)
    if not any(_lies_below(prefix, place) for place in allowed):
        words = "results may not go there: ARNO_HTTP__OUTPUT_PREFIXES lists where they may"
        raise Problem(HTTPStatus.FORBIDDEN, "output_not_allowed", words)


def _lies_below(prefix: str, place: str) -> bool:
    if scheme_of(prefix) == "file" and place.startswith("file:"):
        # Written in different ways, they may be one path.
        prefix, place = (file_uri(path_of(uri)) + "/" for uri in (prefix.rstrip("/"), place.rstrip("/")))
    return prefix.startswith(place)
