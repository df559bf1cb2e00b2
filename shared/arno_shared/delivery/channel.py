"""A kombu channel over Redis that takes messages by one atomic claim.

Finding: kombu's own takes a message with BRPOP and records it in a second call. A worker killed in between has lost it:
three idle ones that are frozen while a message comes for each, and killed, lose three (`tests/faults`).
"""

import json
import random
from time import monotonic
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps
from redis.exceptions import ResponseError

from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.delivery.bell import WAIT_S, Bell
from arno_shared.delivery.hands import Claimed, Hands
from arno_shared.delivery.qos import HandsQoS
from arno_shared.errors import ArnoError, Undecodable
from arno_shared.logs import get_logger
from arno_shared.names import Lane, lane_of_queue
from arno_shared.redis_answers import arno_error
from arno_shared.uris import redact

log = get_logger(__name__)

_LONGEST_PAUSE_S = 5.0
_LANES = frozenset(lane.queue for lane in Lane)


class _Claiming:
    """What both channels below do in another way than kombu."""

    QoS = HandsQoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._no_ack_queues: set[str] = set()
        self._bells: dict[str, Bell] = {}
        self._look_again_at_s = 0.0
        self._pause_s = 0.0
        super().__init__(*args, **kwargs)

    @property
    def hands(self) -> Hands:
        """Only a worker has any, and only a worker takes messages that are to be acknowledged."""
        hands: Hands = self.connection.client.transport_options["hands"]  # type: ignore[attr-defined]
        return hands

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        (self._no_ack_queues.add if no_ack else self._no_ack_queues.discard)(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)  # type: ignore[misc]

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Called at each turn of the event loop while there is credit and nothing is asked for."""
        if self._no_ack_queues.intersection(self.active_queues):  # type: ignore[attr-defined]
            # Answers to remote control: nobody minds when one is lost.
            super()._brpop_start(timeout)  # type: ignore[misc]
        elif monotonic() >= self._look_again_at_s:
            self._claim_all()

    def _claim_all(self) -> None:
        """Claims while there is credit; then waits for a bell, and a little longer than it does for none."""
        queues = self._queue_cycle.consume(len(self.active_queues))  # type: ignore[attr-defined]
        while queues and self.qos.can_consume():  # type: ignore[attr-defined]
            try:
                claimed = self.hands.claim(queues)
            except ArnoError as error:
                self._pause_s = min(max(2 * self._pause_s, 0.2), _LONGEST_PAUSE_S)
                log.warning("waiting", what="messages", error=str(error), pause_s=round(self._pause_s, 1))
                self._look_again_at_s = monotonic() + self._pause_s * random.uniform(0.7, 1.3)
                return
            self._pause_s = 0.0
            if claimed is None:
                self._look_again_at_s = monotonic() + WAIT_S * random.uniform(1, 1.5)
                self._arm(queues)
                return
            self._hand_over(claimed)
        for bell in self._bells.values():
            bell.muffle()

    def _hand_over(self, claimed: Claimed) -> None:
        """To Celery's consumer. What cannot even be taken apart would end the worker: that is a dead letter."""
        try:
            payload = json.loads(claimed.raw)
            # Where it lay, whatever its sender says: that is its lane.
            delivery_info = {"exchange": "", "routing_key": claimed.queue}
            payload["properties"] |= {"delivery_tag": claimed.tag, "delivery_info": delivery_info}
            self.Message(payload, channel=self)  # type: ignore[attr-defined]
        except Exception as error:
            self._bury(claimed, error)
            return
        try:
            self.connection._deliver(payload, claimed.queue)  # type: ignore[attr-defined]
        except BaseException:
            # It may not have been begun; where it was, it is committed once all the same.
            self.qos.reject(claimed.tag, requeue=True)  # type: ignore[attr-defined]
            raise

    def _bury(self, claimed: Claimed, error: Exception) -> None:
        # Not its `repr`, in which an error of decoding holds the whole message.
        reason = redact(f"the message cannot be taken apart: {type(error).__name__}: {error}")
        log.error("message given up", code=Undecodable.code, error=reason)
        letter = DeadLetter(
            kind=LetterKind.MESSAGE,
            code=Undecodable.code,
            reason=reason,
            raw=claimed.raw.decode("utf-8", "backslashreplace"),
            lane=lane_of_queue(claimed.queue),
            worker=self.hands.worker,
        )
        try:
            self.hands.bury(claimed.tag, letter)
        except ArnoError as waiting:
            log.warning("waiting", what="the dead letters", error=str(waiting))

    def _arm(self, queues: list[str]) -> None:
        loop = self.connection.loop  # type: ignore[attr-defined]
        if loop is None:
            return

        def ring() -> None:
            self._look_again_at_s = 0.0
            loop.call_soon(lambda: None)

        for queue in queues:
            if queue not in self._bells:
                self._bells[queue] = Bell(self.hands, queue, ring)
            self._bells[queue].arm()

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[misc]
        except ResponseError as error:
            # A full server must not keep workers from emptying it, nor one that refuses to write keep them from hearing
            # when it no longer does; and what they take comes without any binding.
            log.warning("a queue is not bound", queue=queue, error=str(arno_error(error)))

    def _size(self, queue: str) -> int:
        """kombu's own asks in a transaction, which Redis 7 and older refuse when memory is full, whatever is in it: no
        queue could be declared then."""
        with self.conn_or_acquire() as client:  # type: ignore[attr-defined]
            return int(client.llen(queue))

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Finding: where memory is full and all that is left was put off, nothing moves any more, for a full server
        takes no message. What a worker sends it takes all the same; what a producer sends it refuses."""
        if self.hands is not None and queue in _LANES:
            self.hands.put(queue, dumps(message))  # type: ignore[no-untyped-call]
        else:
            super()._put(queue, message, **kwargs)  # type: ignore[misc]

    def _basic_cancel(self, consumer_tag: str) -> Any:
        cancelled = super()._basic_cancel(consumer_tag)  # type: ignore[misc]
        if not self.active_queues:  # type: ignore[attr-defined]
            self._close_bells()
        return cancelled

    def close(self) -> None:
        self._close_bells()
        super().close()  # type: ignore[misc]

    def _close_bells(self) -> None:
        while self._bells:
            self._bells.popitem()[1].close()


class Channel(_Claiming, kombu_redis.Channel):  # type: ignore[misc]
    """Over one server."""


class SentinelChannel(_Claiming, kombu_redis.SentinelChannel):  # type: ignore[misc]
    """Over whichever server the sentinels call the master."""
