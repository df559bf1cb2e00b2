"""S3 events from an SQS queue: AWS S3 itself, SNS (wrapped or raw), EventBridge.

A message is deleted once all of its records are enqueued, and nobody else has it until then. One that cannot be read is
left alone: the queue's own dead-letter policy takes it away after a few deliveries.
"""

import json
from collections.abc import Sequence
from concurrent.futures import Future, wait
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from arno_producer.client import Producer
from arno_producer.triggers.trigger import Trigger
from arno_producer.triggers.visibility import Hold
from arno_producer.triggers.waiting import Pauses, Waiting
from arno_shared import tracing
from arno_shared.errors import AccessDenied, HouseError, InvalidRequest
from arno_shared.logs import get_logger
from arno_shared.names import Lane
from arno_shared.uris import redact

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

log = get_logger(__name__)

_BATCH = 10
_LONG_POLL_S = 20
_LOOK_EVERY_S = 0.2


class SqsTrigger:
    def __init__(
        self, queue: str, trigger: Trigger, producer: Producer, lanes: Sequence[Lane], stopping: Event
    ) -> None:
        """`queue`: its URL or its name. Raises InvalidRequest (no such queue), AccessDenied, HouseError."""
        self._trigger, self._stopping = trigger, stopping
        self._waiting, self._pauses = Waiting(producer, lanes, stopping), Pauses(stopping)
        self._sqs: SQSClient = boto3.client("sqs")
        self._url, self._visibility_s = self._found(queue)

    def run(self) -> None:
        """Until it is to stop, and the messages in hand are enqueued or given back."""
        while self._waiting.for_room():
            messages = self._polled(self._poll())
            with Hold(self._sqs, self._url, messages, self._visibility_s) as hold:
                done = [message for message in messages if self._handle(message, hold)]
                hold.leave(done)
            self._delete(done)

    def _poll(self) -> "Future[list[MessageTypeDef]]":
        """In a thread of its own, which is left to itself when this is to stop: what it still brings comes again."""
        poll: Future[list[MessageTypeDef]] = Future()

        def receive() -> None:
            try:
                poll.set_result(self._receive())
            except BaseException as error:
                poll.set_exception(error)

        Thread(target=receive, name="poll", daemon=True).start()
        return poll

    def _polled(self, poll: "Future[list[MessageTypeDef]]") -> "list[MessageTypeDef]":
        while not wait([poll], _LOOK_EVERY_S).done:
            if self._stopping.is_set():
                return []
        try:
            messages = poll.result()
        except (BotoCoreError, ClientError) as error:
            self._pauses.pause(f"SQS: {redact(str(error))}")
            return []
        self._pauses.over()
        return messages

    def _receive(self) -> "list[MessageTypeDef]":
        answer = self._sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=_BATCH,
            WaitTimeSeconds=_LONG_POLL_S,
            VisibilityTimeout=self._visibility_s,
            MessageAttributeNames=["traceparent"],
            MessageSystemAttributeNames=["AWSTraceHeader"],
        )
        return answer.get("Messages", [])

    def _handle(self, message: "MessageTypeDef", hold: Hold) -> bool:
        """Whether it may be deleted."""
        try:
            with tracing.span("arno.event", "consumer", parent=parent_of(message), messaging__system="aws_sqs"):
                event = _read(message)
                return self._waiting.until_taken(lambda: self._trigger.handle(event), given_up=lambda: hold.over)
        except InvalidRequest as error:
            log.warning("a message is left to its queue", message_id=message["MessageId"], error=str(error))
            hold.leave([message])
            return False

    def _delete(self, messages: "Sequence[MessageTypeDef]") -> None:
        if not messages:
            return
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(messages)
        ]
        try:
            answer = self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)  # type: ignore[arg-type]
        except (BotoCoreError, ClientError) as error:
            log.warning("messages were not deleted: they come again, and are found done", error=redact(str(error)))
            return
        for failed in answer.get("Failed", ()):
            log.warning("a message was not deleted: it comes again, and is found done", error=failed.get("Message"))

    def _found(self, queue: str) -> tuple[str, int]:
        """Its URL, and for how many seconds it hides what it handed out."""
        try:
            url = queue if "://" in queue else self._sqs.get_queue_url(QueueName=queue)["QueueUrl"]
            found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if "NonExistentQueue" in code or code == "QueueDoesNotExist":
                raise InvalidRequest(f"there is no queue {queue!r}; `arno trigger install` makes one") from None
            if "AccessDenied" in code or "InvalidClientTokenId" in code or "SignatureDoesNotMatch" in code:
                raise AccessDenied(f"the queue {queue!r} may not be read with these credentials: {error}") from None
            raise HouseError(f"SQS cannot be used: {error}") from error
        except BotoCoreError as error:
            raise HouseError(f"SQS cannot be used: {error}") from error
        return url, int(found["Attributes"]["VisibilityTimeout"])


def _read(message: "MessageTypeDef") -> Any:
    try:
        return json.loads(message["Body"])
    except (ValueError, RecursionError):
        raise InvalidRequest("its body is not JSON") from None


def parent_of(message: "MessageTypeDef") -> str | None:
    """The trace that a message is in: a sender's own `traceparent`, or what AWS hands on."""
    attributes = message.get("MessageAttributes")
    given = attributes["traceparent"].get("StringValue") if attributes and "traceparent" in attributes else None
    return given or tracing.of_x_ray(message.get("Attributes", {}).get("AWSTraceHeader", ""))
