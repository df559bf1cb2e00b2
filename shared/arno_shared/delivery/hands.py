"""The messages in this process's hands: claimed and held under a lease, until they are acknowledged or given back.

Finding: kombu acknowledges through the channel that a message came by. When that is gone, the acknowledgement fails,
the credit for the next message never returns, and the worker is alive and takes nothing any more. So what is in hand,
and all that happens to it, stands here: on a connection of its own, which any thread may use at any time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple

from arno_shared.dead_letters import DeadLetter
from arno_shared.errors import ArnoError
from arno_shared.names import (
    DEAD_LETTERS,
    REMOTE_CONTROL,
    REMOTE_CONTROL_ANSWERS,
    UNACKED,
    UNACKED_INDEX,
    WORKERS,
    arrivals,
    lane_of_queue,
    lists,
)
from arno_shared.redis_client import RedisClient, redis_away

_SWEEP_MESSAGES = 100
_FORGET_EVERY_S = 300.0
_KEEP_ANSWERS_S = 3600


def sweep_every_s(lease_s: float) -> float:
    """How often each worker looks for leases that have run out: that much later than it could be work is resumed."""
    return min(5.0, lease_s / 4)


class Claimed(NamedTuple):
    queue: str
    tag: str
    raw: bytes


@dataclass(slots=True)
class _Held:
    begun: bool = False
    heard_s: float = field(default_factory=monotonic)


class Hands:
    """Thread-safe. Each method is one atomic step in Redis, and raises HouseError when Redis is away."""

    def __init__(
        self, redis: RedisClient, *, worker: str, key_prefix: str, lease_s: int, lease_max_s: float, max_letters: int
    ) -> None:
        self.redis, self.worker, self.key_prefix = redis, worker, key_prefix
        self._lease_s, self._lease_max_s, self._max_letters = lease_s, lease_max_s, max_letters
        self._claim, self._renew, self._put, self._forget = (
            redis.register_script(_script(name)) for name in ("claim", "renew", "put", "forget")
        )
        self._give_back, self._sweep, self._bury = (
            redis.register_script(_script("hands") + _script(name)) for name in ("give_back", "sweep", "bury")
        )
        self._held: dict[str, _Held] = {}
        self._forget_at_s = 0.0
        self._lock = Lock()
        self.stopping = False
        """The worker stops: what it has not begun goes back when its channel closes."""
        self.on_answer: Callable[[], None] = lambda: None
        """Called whenever Redis has answered a claim, be it that there is nothing."""
        self.on_refusal: Callable[[str], None] = lambda why: None
        """Called whenever a claim has failed."""
        self.swept_messages = 0
        """Whose leases had run out, and which this worker gave back for others."""
        self.claims = 0
        """Messages claimed so far."""

    def claim(self, queues: Sequence[str]) -> Claimed | None:
        """The next message of the first queue that has any; it is held from now on. None when all are empty.

        What is no message at all is filed with the dead letters on the way.
        """
        keys = [UNACKED, UNACKED_INDEX, DEAD_LETTERS, *(name for queue in queues for name in lists(queue))]
        whose = [word for queue in queues for _ in lists(queue) for word in (lane_of_queue(queue).value, queue)]
        answer: Any = []
        while answer == []:
            try:
                with redis_away():
                    answer = self._claim(keys=keys, args=[self.worker, self._max_letters, *whose])
            except ArnoError as error:
                self.on_refusal(str(error))
                raise
            self.on_answer()
        if answer is None:
            return None
        queue, tag, raw = answer
        claimed = Claimed(queue.decode(), tag.decode(), raw)
        with self._lock:
            self._held[claimed.tag] = _Held()
            self.claims += 1
        return claimed

    def begin(self, tag: str) -> bool:
        """A thread works on it from now on. False when it is no longer held: it was given back, or let go."""
        with self._lock:
            held = self._held.get(tag)
            if held is not None:
                held.begun = True
                held.heard_s = monotonic()
            return held is not None

    def heard_of(self, tag: str) -> None:
        """There is a sign of life of this message's work."""
        if held := self._held.get(tag):
            held.heard_s = monotonic()

    def ack(self, tag: str) -> None:
        """It is done. Where this fails, its lease runs out, and whoever gets it then finds it committed."""
        self._let_go(tag)
        with redis_away():
            # Each by itself: a transaction is refused when memory is full. In this order: what dies in between leaves
            # an entry of the index without a message, which is swept.
            self.redis.hdel(UNACKED, tag)
            self.redis.zrem(UNACKED_INDEX, tag)

    def give_back(self, tags: Iterable[str], *, last: bool = False, queue: str = "") -> int:
        """They are not done: they are claimed next again, or, with `last`, after all others; with `queue`, from there.
        How many there were."""
        tags = list(tags)
        for tag in tags:
            self._let_go(tag)
        if not tags:
            return 0
        with redis_away():
            given = self._give_back(
                keys=[UNACKED, UNACKED_INDEX], args=[self.key_prefix, "last" if last else "next", queue, *tags]
            )
        return int(given)

    def bury(self, tag: str, letter: DeadLetter) -> None:
        """It can never be done: filed with the dead letters and taken out of hand, in one step."""
        with redis_away():
            self._bury(
                keys=[UNACKED, UNACKED_INDEX, DEAD_LETTERS], args=[tag, letter.model_dump_json(), self._max_letters]
            )
        self._let_go(tag)

    def renew(self) -> int:
        """Renews the leases of all that is held, but for what nothing was heard of for too long, which is let go:
        others may have it. How many leases were there to renew."""
        tags = self._living()
        if not tags:
            return 0
        with redis_away():
            lost = self._renew(keys=[UNACKED_INDEX], args=tags)
        return len(tags) - len(lost)

    def sweep(self) -> int:
        """Gives back what any worker held whose lease has run out; how many messages."""
        swept = 0
        while True:
            with redis_away():
                given = self._sweep(
                    keys=[UNACKED, UNACKED_INDEX], args=[self.key_prefix, self._lease_s, _SWEEP_MESSAGES]
                )
            swept += int(given)
            self.swept_messages += int(given)
            if given < _SWEEP_MESSAGES:
                return swept

    def forget_the_killed(self) -> None:
        """What kombu keeps for ever of workers that are no longer heard of. Every few minutes; else it does nothing."""
        if monotonic() < self._forget_at_s:
            return
        self._forget_at_s = monotonic() + _FORGET_EVERY_S
        with redis_away():
            self._forget(keys=[REMOTE_CONTROL, REMOTE_CONTROL_ANSWERS, WORKERS], args=[_KEEP_ANSWERS_S])

    def put(self, list_name: str, raw: str) -> None:
        """A message of this worker's own, at the far end of a list. When memory is full as well: what a worker sends it
        has put off before, and finishing work is what frees memory."""
        with redis_away():
            self._put(keys=[UNACKED_INDEX, list_name], args=[raw])

    def pass_on(self, queue: str) -> None:
        """A message woke this worker, which has no room after all: another is woken."""
        with redis_away():
            self.redis.lmove(arrivals(queue), queue, "RIGHT", "RIGHT")

    def holds(self, tag: str) -> bool:
        """False once it is acknowledged, given back, buried, or let go because nothing was heard of it for too long."""
        return tag in self._held

    @property
    def held(self) -> list[str]:
        with self._lock:
            return list(self._held)

    @property
    def not_begun(self) -> list[str]:
        with self._lock:
            return [tag for tag, held in self._held.items() if not held.begun]

    def __json__(self) -> str:
        """What kombu writes of it among a worker's transport options, when Flower asks for them."""
        return self.worker

    def __len__(self) -> int:
        return len(self._held)

    def _living(self) -> list[str]:
        silent_before_s = monotonic() - self._lease_max_s
        with self._lock:
            for tag in [tag for tag, held in self._held.items() if held.heard_s < silent_before_s]:
                del self._held[tag]
            return list(self._held)

    def _let_go(self, tag: str) -> None:
        with self._lock:
            self._held.pop(tag, None)


@cache
def _script(name: str) -> str:
    return (files("arno_shared.delivery") / "scripts" / f"{name}.lua").read_text()
