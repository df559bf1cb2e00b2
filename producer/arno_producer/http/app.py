"""The HTTP door, put together."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPBearer
from starlette.middleware import Middleware

from arno_producer.client import Producer
from arno_producer.http import annotate as annotate_module
from arno_producer.http.annotate import annotate
from arno_producer.http.body_limit import BodyLimit
from arno_producer.http.docs import docs
from arno_producer.http.events import events
from arno_producer.http.gate import Gate
from arno_producer.http.jobs import jobs
from arno_producer.http.metrics import DoorMetrics, Measured
from arno_producer.http.probes import probes
from arno_producer.http.problems import ProblemDocument, install, responses
from arno_producer.http.tasks import tasks
from arno_producer.http.traced import Traced
from arno_producer.triggers.rules import load_rules
from arno_shared import __version__
from arno_shared.house_metrics import HouseCollector

_EVERYWHERE = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

_WHAT = (
    "Florence-2 over very large numbers of images: captions, boxes, text, masks. Submit a job and read its results, or "
    "ask about one picture and wait for the answer."
)
_FORM_BYTES = 64 * 1024
"""What a form says beside the picture."""


def door(producer: Producer, stopping: Callable[[], bool] = lambda: False) -> FastAPI:
    """The application. `stopping`: whether the server wants to end, so that streams end too.

    Raises InvalidRequest when the settings would leave it open to everybody, or name rules that are none.
    """
    settings = producer.settings.http
    metrics = DoorMetrics()
    metrics.registry.register(HouseCollector(producer.settings))
    rules = load_rules(settings.rules) if settings.rules else ()

    def max_bytes(path: str) -> int:
        uploads = path == annotate_module.PATH
        return settings.max_upload_bytes + _FORM_BYTES if uploads else settings.max_body_bytes

    middleware = [Middleware(Measured, metrics=metrics), Middleware(Traced)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
                expose_headers=["Location", "Link", "Arno-Next-Cursor", "Retry-After"],
            )
        )
    # Made here once, so that it refuses at the start and not with the first request.
    Gate(_nobody, settings)
    middleware += [Middleware(Gate, settings=settings), Middleware(BodyLimit, max_bytes=max_bytes)]
    app = FastAPI(
        title="Arno", description=_WHAT, version=__version__, middleware=middleware, docs_url=None, redoc_url=None
    )
    install(app)
    known = [Depends(HTTPBearer(auto_error=False))] if settings.tokens else []
    app.include_router(jobs(producer, metrics, stopping), dependencies=known)
    app.include_router(annotate(producer, metrics), dependencies=known)
    app.include_router(tasks(), dependencies=known)
    app.include_router(events(producer, rules, metrics), dependencies=known)
    app.include_router(probes(producer, metrics))
    app.include_router(docs())
    _describe_problems(app)
    return app


async def _nobody(*_: Any) -> None:
    """An app that is never called."""


def _describe_problems(app: FastAPI) -> None:
    """Puts the problem document in the place of FastAPI's own descriptions of errors."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = described()
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            own = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(own.pop("$defs", {}), ProblemDocument=own)
            for path in schema["paths"].values():
                for operation in path.values():
                    for status, response in _EVERYWHERE.items():
                        operation["responses"].setdefault(str(status), response)
        assert app.openapi_schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
