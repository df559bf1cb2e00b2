"""The Celery side of a message: from its delivery to its acknowledgement."""

from collections.abc import Callable
from time import sleep
from typing import Any

from celery import Celery
from celery.exceptions import InvalidTaskError, Reject
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu.message import Message

from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.logs import get_logger
from arno_shared.names import TASK_NAME, Lane
from arno_shared.uris import redact
from arno_workers.patience import Drained
from arno_workers.pipeline import Pipeline

log = get_logger(__name__)

_LAST_RESORT_PAUSE_S = 1.0


def register(app: Celery, pipeline: Pipeline) -> None:
    """Makes `arno.annotate` known to the worker."""

    # typing=False: any arguments are taken, so that wrong ones reach the dead letters and not the log alone.
    @app.task(name=TASK_NAME, bind=True, typing=False, Request=AnnotateRequest)  # type: ignore[untyped-decorator]
    def annotate(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            pipeline.handle(args, kwargs, self.request.id, lane_of(self.request.delivery_info))
        except Drained:
            raise Reject("the worker is stopping", requeue=True) from None
        except BaseException as error:
            # Not even the dead letters could be written: better done again than acknowledged and lost.
            log.exception("a message goes back to the queue", message_id=self.request.id)
            sleep(_LAST_RESORT_PAUSE_S)
            raise Reject(repr(error), requeue=True) from None


class AnnotateRequest(Request):  # type: ignore[misc]
    """Shows no secrets in task events: what a sender says of its arguments may hold presigned URLs."""

    @property
    def argsrepr(self) -> str:
        return redact(str(super().argsrepr or ""))

    @property
    def kwargsrepr(self) -> str:
        return redact(str(super().kwargsrepr or ""))


def consumer_class(file_letter: Callable[[DeadLetter], None], worker: str) -> type[Consumer]:
    """A consumer that files what it cannot read with the dead letters, where Celery's own drops it.

    Filed first and acknowledged after: a crash in between files it twice.
    """

    class FilingConsumer(Consumer):  # type: ignore[misc]
        def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Message], Any]:
            receive = super().create_task_handler(*args, **kwargs)

            def check_and_receive(message: Message) -> Any:
                try:
                    _check_body(message)
                except InvalidTaskError as error:
                    return self.on_invalid_task(None, message, error)
                except Exception as error:
                    return self.on_decode_error(message, error)
                return receive(message)

            return check_and_receive

        def on_unknown_message(self, body: Any, message: Message) -> None:
            self._file(message, "unknown_message", "not a Celery message (protocol v1 or v2)")

        def on_unknown_task(self, body: Any, message: Message, exc: Exception) -> None:
            self._file(message, "unknown_task", f"the task is {exc}; this worker knows {TASK_NAME!r}")

        def on_invalid_task(self, body: Any, message: Message, exc: Exception) -> None:
            self._file(message, "invalid_message", str(exc))

        def on_decode_error(self, message: Message, exc: Exception) -> None:
            self._file(message, "undecodable", f"the body cannot be decoded: {exc}")

        def _file(self, message: Message, code: str, reason: str) -> None:
            log.error("message given up", code=code, error=redact(reason))
            file_letter(
                DeadLetter(
                    kind=LetterKind.MESSAGE,
                    code=code,
                    reason=redact(reason),
                    raw=_raw_body(message),
                    task=str((message.headers or {}).get("task", TASK_NAME)),
                    lane=lane_of(message.delivery_info),
                    worker=worker,
                )
            )
            message.ack_log_error(log, self.connection_errors)  # type: ignore[no-untyped-call]

    return FilingConsumer


def lane_of(delivery_info: dict[str, Any] | None) -> Lane:
    queue = (delivery_info or {}).get("routing_key")
    return next((lane for lane in Lane if lane.queue == queue), Lane.BULK)


def _check_body(message: Message) -> None:
    """Protocol v2's body is `[args, kwargs, embed]`. Raises InvalidTaskError, or what decoding raises.

    Celery looks at it later, in the pool, where a wrong shape is an exception that is acknowledged, or in its event
    loop, where it ends the worker.
    """
    if "task" not in (message.headers or {}):
        return
    payload = message.payload
    if not isinstance(payload, list) or len(payload) != 3:
        raise InvalidTaskError("the body is not [args, kwargs, embed], as Celery's protocol v2 has it")
    args, kwargs, _ = payload
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise InvalidTaskError("args is not a list or kwargs is not an object")


def _raw_body(message: Message) -> str:
    body = message.body
    return body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
