"""Wakes a worker that waits when a message comes.

Finding: nothing in Redis waits for several lists without taking from them, so that waiting for two lanes meant asking
ten times a second; and a wait that leaves the message where it is wakes every waiting worker for each one. So each
lane has a bell: a thread that waits in a blocking move from the queue to the list of its arrivals, which Redis does
for one waiter at a time. Every claim looks at arrivals first: a worker that dies after it was woken leaves nothing
behind.
"""

import random
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

from arno_shared.delivery.hands import Hands
from arno_shared.errors import ArnoError
from arno_shared.logs import get_logger
from arno_shared.names import arrivals
from arno_shared.redis_client import redis_away

log = get_logger(__name__)

WAIT_S = 5.0
"""How long a bell waits at a time, and how long an arrival is overlooked at most when the worker that it woke has
died."""

_PAUSE_S = 1.0


class Bell:
    """Rings when a message comes to `queue` while it is armed. Then it is to be armed again, or muffled."""

    def __init__(self, hands: Hands, queue: str, ring: Callable[[], None]) -> None:
        self._hands, self._queue, self._ring = hands, queue, ring
        self._pool = hands.redis.connection_pool
        # A server that lets us wait for longer than the socket does would look as if it were away.
        socket_timeout_s = self._pool.connection_kwargs.get("socket_timeout") or 2 * WAIT_S
        self._wait_s = min(WAIT_S, socket_timeout_s / 2)
        self._connection: Any = None
        self._armed = Event()
        self._rang = False
        self._closed = False
        Thread(target=self._listen, name=f"bell-{queue}", daemon=True).start()

    def arm(self) -> None:
        """The worker has looked everywhere, has found nothing, and waits."""
        self._rang = False
        self._armed.set()

    def muffle(self) -> None:
        """The worker has no room for more."""
        self._armed.clear()
        if self._rang:
            self._rang = False
            self._give_away()

    def close(self) -> None:
        """Nothing that comes from now on is moved."""
        self._closed = True
        self._armed.set()
        if (connection := self._connection) is not None:
            connection.disconnect()

    def _listen(self) -> None:
        while True:
            self._armed.wait()
            if self._closed:
                return
            try:
                came = self._wait()
            except Exception:
                # Redis is away, or `close` cut the connection, or the server answered with any error. Whoever claims
                # says so in the log; a bell that ended would be missed by nobody, and its worker be late for ever.
                Event().wait(_PAUSE_S * random.uniform(0.5, 1.5))
                continue
            if not came:
                continue
            if self._armed.is_set() and not self._closed:
                self._armed.clear()
                self._rang = True
                self._ring()
            else:
                self._give_away()

    def _wait(self) -> bool:
        lists = (f"{self._hands.key_prefix}{name}" for name in (self._queue, arrivals(self._queue)))
        with redis_away():
            # A connection of its own, so that it can be cut while it waits.
            self._connection = self._pool.get_connection()
            try:
                self._connection.send_command("BLMOVE", *lists, "RIGHT", "LEFT", self._wait_s)
                return self._connection.read_response() is not None
            except BaseException:
                self._connection.disconnect()
                raise
            finally:
                connection, self._connection = self._connection, None
                self._pool.release(connection)

    def _give_away(self) -> None:
        try:
            self._hands.pass_on(self._queue)
        except ArnoError:
            log.warning("waiting", what="Redis, to pass a message on")
