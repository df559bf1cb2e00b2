"""A message in this worker's hands, from its delivery until it is acknowledged or given back."""

from dataclasses import dataclass

from arno_shared.delivery.hands import Hands
from arno_shared.errors import ArnoError
from arno_shared.logs import get_logger
from arno_shared.names import Lane
from arno_workers.health.vitals import Vitals

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    message_id: str
    lane: Lane
    tag: str
    hands: Hands | None
    """None with the stock transport, which keeps messages its own way."""
    vitals: Vitals

    def begin(self) -> bool:
        """False when it was given back before its turn came: the worker stops."""
        return self.hands is None or self.hands.begin(self.tag)

    def heard(self) -> None:
        """There is a sign of life of its work, or a reason to wait."""
        self.vitals.progressed()
        if self.hands is not None:
            self.hands.heard_of(self.tag)

    def waits(self) -> None:
        """It waits for its turn: its lease is kept, which is no sign that anything moves."""
        if self.hands is not None:
            self.hands.heard_of(self.tag)

    @property
    def let_go(self) -> bool:
        """Nothing was heard of its work for so long that others may have it: whatever comes of it here is late."""
        return self.hands is not None and not self.hands.holds(self.tag)

    def ack(self) -> None:
        """It is done with. From this thread, and not from Celery's event loop, which may be waiting for the broker.
        Raises nothing: where it fails, the lease runs out, and whoever gets the message finds it done."""
        if self.hands is not None:
            try:
                self.hands.ack(self.tag)
            except BaseException as error:
                log.warning("a message was not acknowledged: it comes again, and is dropped", error=_words(error))

    def give_back(self, *, last: bool = False) -> bool:
        """It is not done: it is claimed next again, or, with `last`, after all others. Raises nothing: where it fails,
        the lease runs out, which nobody renews any more.

        False with the stock transport, to which only Celery can give it back.
        """
        if self.hands is None:
            return False
        try:
            self.hands.give_back([self.tag], last=last)
        except BaseException as error:
            log.warning("a message was not given back: it comes again when its lease is over", error=_words(error))
        return True

    def forward(self, queue: str) -> bool:
        """Moves it to another queue; whether that can be done. Raises HouseError."""
        if self.hands is None:
            return False
        self.hands.give_back([self.tag], queue=queue)
        return True


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, ArnoError) else repr(error)
