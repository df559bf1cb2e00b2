"""Ends a worker that is stuck, so that whatever supervises it starts another.

Finding: a hung device, a dead-locked thread, or a consumer that fell silent when the broker came back look like a
worker at work: the process lives, its heartbeats go on, and its leases are renewed. So somebody must look whether
anything moves. A stuck worker is first reported unhealthy, and then ended; what it held goes back.
"""

import faulthandler
import os
import sys
from collections.abc import Callable
from threading import Event, Thread
from time import monotonic

from arno_shared.delivery.hands import Hands
from arno_shared.errors import ArnoError, HouseError
from arno_shared.logs import get_logger
from arno_workers.health.vitals import Phase, Vitals

log = get_logger(__name__)

EXIT_STUCK = 75
"""EX_TEMPFAIL of sysexits.h: another try may succeed."""

_LONGEST_SILENCE_S = 60.0
_HAND_BACK_S = 5.0


class Watchdog:
    """`busy_s`: seconds that the device has worked so far. `waiting`: how many messages wait in the queues, which takes
    `answer_s` at most to be told."""

    def __init__(
        self,
        vitals: Vitals,
        hands: Hands | None,
        *,
        stuck_s: float,
        answer_s: float,
        room_chunks: int,
        busy_s: Callable[[], float],
        waiting: Callable[[], int],
    ) -> None:
        self._vitals, self._hands, self._stuck_s, self._room_chunks = vitals, hands, stuck_s, room_chunks
        self._answer_s = answer_s
        self._busy_s, self._waiting = busy_s, waiting
        self._every_s = min(1.0, stuck_s / 10)
        self._silence_s = min(_LONGEST_SILENCE_S, stuck_s)
        self._last_busy_s = 0.0
        self._last_claims = -1
        self._silent_since_s: float | None = None

    def start(self) -> None:
        self._set_alarm()
        Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        pause = Event()
        while not pause.wait(self._every_s):
            self._set_alarm()
            try:
                self._look()
            except Exception:
                log.exception("the watchdog could not look")

    def _set_alarm(self) -> None:
        """For what no Python thread can notice: native code that hangs and lets no other thread in."""
        faulthandler.dump_traceback_later(self._stuck_s + 2 * self._every_s + self._answer_s, exit=True)

    def _look(self) -> None:
        stuck_for_s, what = max(self._motionless(), self._silent())
        share = stuck_for_s / self._stuck_s
        self._vitals.ailment = what if share > 0.5 else ""
        if share > 1:
            self._end(what)

    def _motionless(self) -> tuple[float, str]:
        """How long there has been work in hand, and nothing moved."""
        if (busy_s := self._busy_s()) != self._last_busy_s:
            self._last_busy_s = busy_s
            self._vitals.progressed()
        if not self._vitals.chunks_in_flight:
            self._vitals.progressed()
        age_s = self._vitals.progress_age_s
        return age_s, f"nothing has moved for {age_s:.0f} s, with {self._vitals.chunks_in_flight} chunks in hand"

    def _silent(self) -> tuple[float, str]:
        """How long there have been messages, and room for them, and none was taken; scaled to `stuck_s`."""
        claims = self._hands.claims if self._hands is not None else 0
        may_take = self._vitals.phase is Phase.WORKING and self._vitals.chunks_in_flight < self._room_chunks
        # Messages may be counted where none may be taken: by a server that refuses to write, or to run scripts.
        refused = bool(self._vitals.refusal)
        if self._hands is None or not may_take or refused or claims != self._last_claims or not self._messages_wait():
            self._last_claims, self._silent_since_s = claims, None
            return 0.0, ""
        if self._silent_since_s is None:
            self._silent_since_s = monotonic()
        age_s = monotonic() - self._silent_since_s
        return age_s * self._stuck_s / self._silence_s, f"messages wait, and none was taken for {age_s:.0f} s"

    def _messages_wait(self) -> bool:
        try:
            return self._waiting() > 0
        except HouseError:
            # Nobody can take any.
            return False

    def _end(self, what: str) -> None:
        log.critical("the worker is stuck: it ends, for its supervisor to start another", what=what)
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        if self._hands is not None:
            # Not waited for longer than this: whatever is stuck may be what this needs.
            given = Thread(target=self._give_back, args=(self._hands,), daemon=True)
            given.start()
            given.join(_HAND_BACK_S)
        sys.stderr.flush()
        os._exit(EXIT_STUCK)

    def _give_back(self, hands: Hands) -> None:
        try:
            hands.give_back(hands.held)
        except ArnoError as error:
            log.warning("messages come again when their lease is over", error=str(error))
