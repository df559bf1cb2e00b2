"""`/healthz`, `/readyz` and `/metrics`: for whoever watches the door."""

from contextlib import suppress
from http import HTTPStatus

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from arno_producer.client import Producer
from arno_producer.http.metrics import DoorMetrics
from arno_shared.errors import AccessDenied, ArnoError, NotFound
from arno_shared.names import job_record_uri
from arno_shared.redis_client import redis_away
from arno_shared.uris import redact


def probes(producer: Producer, metrics: DoorMetrics) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    def redis() -> None:
        with redis_away():
            producer.redis.ping()

    def storage() -> None:
        with suppress(NotFound, AccessDenied):
            producer.store.get(job_record_uri(producer.settings.output_prefix), max_bytes=2**20)

    @router.get("/healthz")
    async def healthz() -> JSONResponse:
        # Needs no thread: all may be waiting for the house.
        return JSONResponse({"status": "alive"})

    @router.get("/readyz")
    def readyz() -> JSONResponse:
        checks = {}
        for check in (redis, storage):
            try:
                check()
            except ArnoError as error:
                checks[check.__name__] = {"ok": False, "reason": redact(str(error))}
            else:
                checks[check.__name__] = {"ok": True, "reason": ""}
        ready = all(found["ok"] for found in checks.values())
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": "ready" if ready else "unready", "checks": checks}, status)

    @router.get("/metrics")
    def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
