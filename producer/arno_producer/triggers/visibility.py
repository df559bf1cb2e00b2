"""Messages of SQS that are in hand stay hidden from other receivers, for as long as they have to wait."""

from collections.abc import Iterable, Sequence
from threading import Event, Lock, Thread
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

from botocore.exceptions import BotoCoreError, ClientError

from arno_shared.logs import get_logger
from arno_shared.uris import redact

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

log = get_logger(__name__)

_LONGEST_S = 12 * 3600
"""How long SQS hides a message in all, after each time that it was received."""


class Hold:
    """One batch in hand. SQS counts how often it hands a message out, and its dead-letter policy takes it away after a
    few times: one that waits for room, or for Redis, must not be handed out again and again meanwhile.

    On leaving, what is still held becomes visible at once, for others.
    """

    def __init__(
        self, sqs: "SQSClient", queue_url: str, messages: "Sequence[MessageTypeDef]", visibility_s: int
    ) -> None:
        """`messages`: received just now, to be hidden for `visibility_s`; they are hidden anew in good time, unless it
        is 0."""
        self._sqs, self._url, self._visibility_s = sqs, queue_url, visibility_s
        self._receipts = {message["MessageId"]: message["ReceiptHandle"] for message in messages if visibility_s}
        self._lock = Lock()
        self._over = Event()
        self._hide_until_s = monotonic() + _LONGEST_S - visibility_s
        self._thread = Thread(target=self._keep_hidden, name="visibility", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._hide(0)

    @property
    def over(self) -> bool:
        """SQS hides them no longer, so that there is no use in waiting on."""
        return self._over.is_set()

    def leave(self, messages: "Iterable[MessageTypeDef]") -> None:
        """These are to be deleted, or left to what the queue does with them."""
        with self._lock:
            for message in messages:
                self._receipts.pop(message["MessageId"], None)

    def _keep_hidden(self) -> None:
        # Two calls may fail before it is too late.
        while self._receipts and not self._over.wait(self._visibility_s / 3):
            if monotonic() > self._hide_until_s:
                log.warning("messages have waited for as long as SQS allows: they go back to their queue")
                self._over.set()
            else:
                self._hide(self._visibility_s)

    def _hide(self, seconds: int) -> None:
        with self._lock:
            receipts = list(self._receipts.values())
        if not receipts:
            return
        entries = [
            {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
            for number, receipt in enumerate(receipts)
        ]
        try:
            answer = self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)  # type: ignore[arg-type]
        except (BotoCoreError, ClientError) as error:
            log.warning("SQS does not change how long messages are hidden", seconds=seconds, error=redact(str(error)))
            return
        for failed in answer.get("Failed", ()):
            log.warning(
                "SQS does not change how long a message is hidden", seconds=seconds, error=failed.get("Message")
            )
