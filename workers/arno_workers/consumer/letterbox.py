"""Where letters go of messages that are none.

Finding: Celery reads messages in its event loop. A letter that Redis does not take, waited for there, keeps the worker
from taking anything, from renewing its heartbeat, and from noticing that Redis lets it again.
"""

from collections.abc import Callable
from contextlib import suppress
from threading import Thread

from arno_shared.dead_letters import DeadLetter
from arno_shared.delivery.hands import Hands
from arno_shared.errors import ArnoError, HouseError
from arno_workers.pipeline.patience import Drain, Drained, until_back


class Letterbox:
    def __init__(self, hands: Hands, drain: Drain, filed: Callable[[], None]) -> None:
        """`filed` is called for each letter that lies in the dead letters."""
        self._hands, self._drain, self._filed = hands, drain, filed

    def __call__(self, tag: str, letter: DeadLetter) -> bool:
        """Files the letter of the message that is in hand under this tag. False when that has to wait: the message
        stays in hand, and is filed as soon as may be, or goes back when the worker stops."""
        try:
            self._file(tag, letter)
        except HouseError:
            Thread(target=self._file_later, args=(tag, letter), name="letter", daemon=True).start()
            return False
        return True

    def _file(self, tag: str, letter: DeadLetter) -> None:
        try:
            self._hands.bury(tag, letter)
        except HouseError as error:
            self._hands.heard_of(tag)
            self._hands.on_refusal(str(error))
            raise
        self._filed()

    def _file_later(self, tag: str, letter: DeadLetter) -> None:
        try:
            until_back(lambda: self._file(tag, letter), "the dead letters", self._drain)
        except (Drained, ArnoError):
            # Where this fails as well, it comes again when its lease is over.
            with suppress(ArnoError):
                self._hands.give_back([tag])
