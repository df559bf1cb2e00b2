"""What a trigger waits for: room in its lanes, and the house. It gives nothing up, and it stops when it is told to."""

from collections.abc import Callable, Sequence
from threading import Event

from arno_producer.client import Producer
from arno_shared.errors import HouseError, LaneFull
from arno_shared.logs import get_logger
from arno_shared.names import Lane

log = get_logger(__name__)

_ROOM_PAUSE_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0


class Pauses:
    """While something is away: each is longer than the one before, until it is `over`."""

    def __init__(self, stopping: Event) -> None:
        self._stopping = stopping
        self._pause_s = _FIRST_PAUSE_S

    def pause(self, why: str) -> None:
        log.warning("waiting", error=why, pause_s=round(self._pause_s, 1))
        self._stopping.wait(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)

    def over(self) -> None:
        self._pause_s = _FIRST_PAUSE_S


class Waiting:
    def __init__(self, producer: Producer, lanes: Sequence[Lane], stopping: Event) -> None:
        self._producer, self._lanes, self._stopping = producer, lanes, stopping
        self._house = Pauses(stopping)

    def for_room(self) -> bool:
        """Returns once no lane is at its high-water mark; False when it is to stop."""

        def look() -> None:
            for lane in self._lanes:
                self._producer.check_room(lane)

        return self.until_taken(look)

    def until_taken(self, call: Callable[[], object], given_up: Callable[[], bool] = lambda: False) -> bool:
        """Calls until neither the house is away nor a lane full; False when it is to stop, or what was to be taken is
        given up, before that."""
        while not (self._stopping.is_set() or given_up()):
            try:
                call()
            except LaneFull:
                self._stopping.wait(_ROOM_PAUSE_S)
            except HouseError as error:
                self._house.pause(str(error))
            else:
                self._house.over()
                return True
        return False
