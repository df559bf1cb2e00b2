"""The body of the task: whatever happens in it, its message is committed, buried or given back.

Finding: Celery acknowledges a message whose task raises anything, and so drops it; told not to, it drops it all the
same, because Redis has no dead-letter exchange. MemoryError and SystemExit cost the worker a thread and its credit. So
nothing is raised; and were it raised all the same, an acknowledgement of Celery's ends no message (`delivery/qos.py`).
"""

from collections.abc import Mapping, Sequence
from threading import Event
from typing import Any

from celery import Celery
from celery.exceptions import Reject
from celery.worker.request import Request

from arno_shared import tracing
from arno_shared.delivery.hands import Hands
from arno_shared.logs import get_logger
from arno_shared.names import TASK_NAME, lane_of_queue
from arno_shared.summary import summary_of
from arno_workers.health.vitals import Vitals
from arno_workers.pipeline.chunk_handler import ChunkHandler
from arno_workers.pipeline.delivery import Delivery
from arno_workers.pipeline.patience import Drained

log = get_logger(__name__)

_LAST_RESORT_PAUSE_S = 1.0
GIVEN_BACK = "given back"


def register(app: Celery, handler: ChunkHandler, hands: Hands | None, vitals: Vitals) -> None:
    """Makes `arno.annotate` known to the worker."""

    # typing=False: any arguments are taken, so that wrong ones reach the dead letters and not the log alone.
    # shared=False: else it is the task of every app in this process.
    @app.task(  # type: ignore[untyped-decorator]
        name=TASK_NAME, bind=True, typing=False, shared=False, Request=AnnotateRequest
    )
    def annotate(self: Any, *args: Any, **kwargs: Any) -> str:
        """What became of it, in a few words: Flower shows them."""
        request = self.request
        queue = str((request.delivery_info or {}).get("routing_key"))
        tag = str((request.properties or {}).get("delivery_tag"))
        delivery = Delivery(request.id, lane_of_queue(queue), tag, hands, vitals)
        outcome = None
        try:
            if not delivery.begin():
                return GIVEN_BACK
            with tracing.span(
                TASK_NAME,
                "consumer",
                parent=request.get("traceparent"),
                messaging__system="redis",
                messaging__operation__type="process",
                messaging__destination__name=queue,
                messaging__message__id=str(request.id),
            ) as span:
                outcome = handled(handler, args, kwargs, delivery)
                span.say(arno__outcome=outcome)
        except Reject:
            raise
        except BaseException as error:
            if outcome is None:
                return _last_resort(delivery, error)
            log.warning("a span was not ended", error=repr(error))
        return outcome


def handled(handler: ChunkHandler, args: Sequence[Any], kwargs: Mapping[str, Any], delivery: Delivery) -> str:
    """Acknowledges the message or gives it back; what became of it. Raises Celery's Reject with the stock transport."""
    try:
        outcome = handler.handle(args, kwargs, delivery)
    except Drained:
        return given_back(delivery)
    except BaseException as error:
        # Not even the dead letters could be written: better done again than acknowledged and lost.
        return _last_resort(delivery, error)
    delivery.ack()
    return outcome


def given_back(delivery: Delivery, *, last: bool = False) -> str:
    if not delivery.give_back(last=last):
        raise Reject("not done", requeue=True)
    return GIVEN_BACK


def _last_resort(delivery: Delivery, error: BaseException) -> str:
    log.error("a message goes back to the queue", message_id=delivery.message_id, exc_info=error)
    Event().wait(_LAST_RESORT_PAUSE_S)
    return given_back(delivery, last=True)


class AnnotateRequest(Request):  # type: ignore[misc]
    """Says in task events what a message asks, and not what its sender says of it, which may hold secrets."""

    @property
    def argsrepr(self) -> str:
        return ""

    @property
    def kwargsrepr(self) -> str:
        return str(summary_of(self.args or (), self.kwargs or {}))

    def revoked(self) -> bool:
        """Never: Celery drops what has expired, or was revoked, in silence. A job is stopped by `arno cancel`."""
        return False
