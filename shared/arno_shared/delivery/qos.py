"""Credit and acknowledgements of a channel, kept by what this process holds.

Finding: kombu counts credit by channel, and loses it when an acknowledgement fails; and when a connection is lost it
gives all messages back that its threads go on working on.
"""

from typing import Any

from kombu.transport import virtual

from arno_shared.errors import ArnoError
from arno_shared.logs import get_logger

log = get_logger(__name__)


class HandsQoS(virtual.QoS):
    """`prefetch_count` is how many messages the process may hold, over however many channels it has had."""

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)  # type: ignore[no-untyped-call]
        # Kept: an acknowledgement may come after its channel was closed. None in a producer, which takes nothing.
        self._hands: Any = channel.hands
        # Nothing is left to give back when it is collected.
        self._on_collect.cancel()

    def can_consume(self) -> bool:
        return not self.prefetch_count or len(self._hands) < self.prefetch_count

    def append(self, message: Any, delivery_tag: str) -> None:
        """The claim has recorded it."""

    def ack(self, delivery_tag: str) -> None:
        """Never the end of a message: whoever is done with one takes it out of hand itself, and Celery acknowledges
        whatever a task was. What is still in hand then is not done."""
        if self._hands.holds(delivery_tag):
            log.error("a message was acknowledged that is not done: it goes back")
            self.reject(delivery_tag, requeue=True)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not requeue:
            return self.ack(delivery_tag)
        try:
            # Behind all others: what fails at once must not be what is tried again at once.
            self._hands.give_back([delivery_tag], last=not self._hands.stopping)
        except Exception as error:
            log.warning("a message was not given back: it will come again when its lease is over", error=str(error))

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Called when the channel closes, which it also does when the connection is lost."""
        if self._hands is None or not self._hands.stopping:
            return
        try:
            if given := self._hands.give_back(self._hands.not_begun):
                log.info("messages given back", messages=given)
        except ArnoError as error:
            log.warning("messages were not given back: they will come again when their lease is over", error=str(error))

    def restore_visible(self, *_: Any, **__: Any) -> None:
        if self._hands is None:
            return
        try:
            if swept := self._hands.sweep():
                log.warning("leases ran out", messages=swept)
            self._hands.forget_the_killed()
        except ArnoError as error:
            log.warning("waiting", what="Redis, to look for leases that have run out", error=str(error))
