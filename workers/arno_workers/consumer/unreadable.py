"""Messages that are none, or not for Arno: filed with the dead letters, never dropped.

Finding: Celery drops what it cannot decode, tasks that it does not know, and bodies of a wrong shape; some of them end
the worker first. A message with an ETA it keeps in memory until then, and on Redis begins it again and again.
"""

from collections.abc import Callable
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu.message import Message

from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.errors import InvalidMessage, Undecodable, UnknownMessage, UnknownTask
from arno_shared.logs import get_logger
from arno_shared.names import TASK_NAME, job_of_task_id, lane_of_queue
from arno_shared.uris import redact

log = get_logger(__name__)

FileLetter = Callable[[str, DeadLetter], bool | None]
"""Files the letter of the message with this delivery tag, and is done with the message. False when it stays in hand, to
be filed later."""


def consumer_class(file_letter: FileLetter, worker: str) -> type[Consumer]:
    """A Celery consumer that files what it cannot read, and comes back soon when the broker does."""

    class ArnoConsumer(Consumer):  # type: ignore[misc]
        def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Message], Any]:
            receive = super().create_task_handler(*args, **kwargs)

            def check_and_receive(message: Message) -> Any:
                try:
                    _check(message)
                except InvalidTaskError as error:
                    return self.on_invalid_task(None, message, error)
                except Exception as error:
                    return self.on_decode_error(message, error)
                try:
                    return receive(message)
                except self.connection_errors:
                    raise
                except Exception as error:
                    # It would end the worker, go back to the queue, and end the next one.
                    return self.on_invalid_task(None, message, error)

            return check_and_receive

        def on_unknown_message(self, body: Any, message: Message) -> None:
            self._file(message, UnknownMessage, "not a Celery message (protocol v1 or v2)")

        def on_unknown_task(self, body: Any, message: Message, exc: Exception) -> None:
            self._file(message, UnknownTask, f"the task is {exc}; this worker knows {TASK_NAME!r}")

        def on_invalid_task(self, body: Any, message: Message, exc: Exception) -> None:
            self._file(message, InvalidMessage, str(exc))

        def on_decode_error(self, message: Message, exc: Exception) -> None:
            self._file(message, Undecodable, f"the body cannot be decoded: {exc}")

        def _file(self, message: Message, error: type[InvalidMessage], reason: str) -> None:
            log.error("message given up", code=error.code, error=redact(reason))
            said = (message.headers or {}).get("id")
            message_id = said if isinstance(said, str) else None
            letter = DeadLetter(
                kind=LetterKind.MESSAGE,
                code=error.code,
                reason=redact(reason),
                raw=_raw_body(message),
                task=str((message.headers or {}).get("task", TASK_NAME)),
                lane=lane_of_queue(str((message.delivery_info or {}).get("routing_key"))),
                message_id=message_id,
                job_id=job_of_task_id(message_id or ""),
                worker=worker,
            )
            try:
                if file_letter(message.delivery_tag, letter) is False:
                    return
            except Exception as error:
                # The worker stops, or the letter cannot be written.
                log.exception("a message that is none goes back to the queue", exc_info=error)
                message.reject_log_error(log, self.connection_errors, requeue=True)  # type: ignore[no-untyped-call]
                return
            # Known to be done with already, but for the stock transport.
            message.ack_log_error(log, self.connection_errors)  # type: ignore[no-untyped-call]

        def ensure_connected(self, connection: Any) -> Any:
            """Celery's own waits for up to half a minute between two tries; work waits as long."""

            def away(error: Exception, interval_s: float) -> None:
                log.warning("waiting", what="the broker", error=redact(str(error)), pause_s=round(interval_s, 1))

            return connection.ensure_connection(
                away, max_retries=None, interval_start=0.5, interval_step=0.5, interval_max=3, callback=maybe_shutdown
            )

    return ArnoConsumer


def _check(message: Message) -> None:
    """Raises InvalidTaskError, or what decoding raises.

    Celery looks at it later, in the pool, where a wrong shape is an exception that is acknowledged, or in its event
    loop, where it ends the worker.
    """
    headers = message.headers or {}
    if "task" in headers:
        fields, (args, kwargs) = headers, _arguments_v2(message.payload)
    elif isinstance(message.payload, dict):
        fields = message.payload
        args, kwargs = fields.get("args", []), fields.get("kwargs", {})
    else:
        return
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise InvalidTaskError("args is not a list or kwargs is not an object")
    if not isinstance(fields.get("id"), str):
        raise InvalidTaskError("its id is not a text")
    if not isinstance(fields.get("shadow"), str | None):
        raise InvalidTaskError("its shadow is not a text")
    if fields.get("eta"):
        raise InvalidTaskError("it has an ETA, until which nobody would keep it: send it when it is due")


def _arguments_v2(body: Any) -> tuple[Any, Any]:
    if not isinstance(body, list) or len(body) != 3:
        raise InvalidTaskError("the body is not [args, kwargs, embed], as Celery's protocol v2 has it")
    return body[0], body[1]


def _raw_body(message: Message) -> str:
    body = message.body
    return body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
