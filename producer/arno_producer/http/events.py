"""`/v1/events/s3`: object storage tells of new objects."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import Response
from pydantic import BaseModel

from arno_producer.client import Producer
from arno_producer.http.json_body import JsonRoute
from arno_producer.http.metrics import DoorMetrics
from arno_producer.http.problems import Problem, responses
from arno_producer.http.requests import EventBody
from arno_producer.triggers.rules import Rule
from arno_producer.triggers.trigger import Trigger
from arno_shared.errors import InvalidRequest

PATH = "/v1/events/s3"


class Taken(BaseModel):
    """How many records became work, times the rules that each matches; how many were known; how many are no work."""

    enqueued: int
    duplicates: int
    ignored: int


def events(producer: Producer, rules: Sequence[Rule], metrics: DoorMetrics) -> APIRouter:
    router = APIRouter(tags=["events"], route_class=JsonRoute)
    trigger = Trigger(producer, rules, metrics.registry) if rules else None

    @router.post(
        PATH,
        summary="Take an event of object storage",
        responses=responses(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.NOT_FOUND,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.TOO_MANY_REQUESTS,
        ),
    )
    def take(event: Annotated[EventBody, Body()]) -> Taken:
        """Takes an event of AWS S3, MinIO, Ceph or EventBridge, in an envelope of SNS or SQS or not. It is answered
        once everything that it tells of is enqueued; sent again, it enqueues nothing twice.
        """
        if trigger is None:
            words = "there are no rules for events: ARNO_HTTP__RULES names a file of them"
            raise Problem(HTTPStatus.NOT_FOUND, "no_rules", words)
        try:
            handled = trigger.handle(event)
        except InvalidRequest as error:
            raise Problem(HTTPStatus.BAD_REQUEST, "bad_event", str(error)) from None
        return Taken(**handled._asdict())

    @router.head(PATH, include_in_schema=False)
    def probe() -> Response:
        """MinIO looks whether somebody is there."""
        return Response()

    return router
