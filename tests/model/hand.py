"""A worker that has one message in hand: Arno's own handler, hands and writer, and images that fare as they are told.

It stops where its images are, and goes on when it is told how they fare: others may have come in between, its lease may
have run out, its Redis may have lost everything. It may die at any step, and then does nothing any more.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Thread
from typing import Any, Literal, NamedTuple, TypeAlias

from arno_shared.dead_letters import DeadLetters
from arno_shared.delivery.hands import Hands
from arno_shared.errors import HouseError, NotFound, Timeout
from arno_shared.ledger import Ledger
from arno_shared.names import UNACKED, lane_of_queue, queues
from arno_shared.redis_client import RedisClient
from arno_shared.settings import Settings
from arno_shared.storage import ObjectStore
from arno_workers.engine import Answer, Answered
from arno_workers.engine.null import NullReplica
from arno_workers.health.vitals import Vitals
from arno_workers.pipeline.chunk_handler import ChunkHandler
from arno_workers.pipeline.chunk_run import ChunkRun
from arno_workers.pipeline.delivery import Delivery
from arno_workers.pipeline.metrics import WorkerMetrics
from arno_workers.pipeline.patience import Drain, Drained
from arno_workers.pipeline.result_writer import ResultWriter

Fate: TypeAlias = Literal["ok", "failed", "later", "broken"]
"""Of an image: answered, failed for good, failed for now, or such that its whole chunk is given up."""

_PATIENCE_S = 30
_ANSWER = Answered((Answer(ids=(), logprobs=(), forced=0, truncated=False),), wait_ms=0.0, model_ms=0.0)
_QUEUES = queues(1)


class Died(BaseException):
    """The process is gone."""


class Asked(NamedTuple):
    """What the message in hand says."""

    job_id: str
    attempt: int
    uris: tuple[str, ...]


class _Impatient(Drain):
    def pause(self, seconds: float) -> None:
        self.check()


class _Life:
    """Of one worker. `ends_after`, `answer_lost`: the step after which it dies, or whose answer it does not hear."""

    def __init__(self) -> None:
        self.over = False
        self.ends_after = self.answer_lost = ""

    def step(self, name: str, call: Callable[[], Any]) -> Any:
        if self.over:
            raise Died
        answer = call()
        if name == self.ends_after:
            self.over = True
            raise Died
        if name == self.answer_lost:
            self.answer_lost = ""
            raise HouseError("the answer was lost")
        return answer


class _Mortal:
    """Something that a worker calls, while it lives."""

    def __init__(self, part: object, life: _Life) -> None:
        self._part, self._life = part, life

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._life.step(name, lambda: getattr(self._part, name)(*args, **kwargs))


class _Images:
    """In place of an intake: images wait to be told how they fare, each in its turn."""

    def __init__(self, life: _Life) -> None:
        self.arrived, self.told = Event(), Event()
        self.wait = False
        self.fates: Sequence[Fate] = ()
        self.handed_back = False
        self._life, self._settled = life, 0

    def add(self, run: ChunkRun) -> None:
        self.wait = True
        self.arrived.set()
        assert self.told.wait(_PATIENCE_S)
        self.wait = False
        if self._life.over:
            raise Died
        if self.handed_back:
            raise Drained
        for item in run.items:
            fate = self.fates[self._settled % len(self.fates)]
            self._settled += 1
            match fate:
                case "ok":
                    item.settle(_ANSWER)
                case "failed":
                    item.settle(NotFound("there is no such image"))
                case "later":
                    item.settle(Timeout("it took too long"))
                case "broken":
                    raise RuntimeError("this chunk cannot be done")


class Workplace(NamedTuple):
    """What workers share, here."""

    redis: RedisClient
    ledger: Ledger
    store: ObjectStore
    settings: Settings
    metrics: WorkerMetrics
    vitals: Vitals


class Hand:
    """One worker process, which takes one message."""

    def __init__(self, name: str, place: Workplace) -> None:
        self.name = name
        self.asked = Asked("", 1, ())
        self.renewed_s = 0
        """When its lease was renewed last, by the clock of the sequence."""
        self.words = ""
        """What became of the message; empty while it is in hand, and for ever when the worker died of it."""
        self.error: BaseException | None = None
        self._life = _Life()
        self._images = _Images(self._life)
        self._vitals = place.vitals
        settings = place.settings
        self._hands = Hands(
            place.redis,
            worker=name,
            key_prefix=settings.key_prefix,
            lease_s=settings.broker.lease_s,
            lease_max_s=settings.broker.lease_max_s,
            max_letters=settings.dead_letters.max_letters,
        )
        dead_letters = DeadLetters(place.redis, settings.dead_letters.max_letters)
        self._handler = ChunkHandler(
            ledger=_Mortal(place.ledger, self._life),  # type: ignore[arg-type]
            dead_letters=_Mortal(dead_letters, self._life),  # type: ignore[arg-type]
            writer=_Mortal(ResultWriter(place.store, settings.retries.max_attempts), self._life),  # type: ignore[arg-type]
            engine=NullReplica(),  # type: ignore[arg-type]
            intake=self._images,  # type: ignore[arg-type]
            drain=_Impatient(60),
            vitals=place.vitals,
            metrics=place.metrics,
            settings=settings,
            worker=name,
        )

    def take(self, *, ends_after: str = "") -> bool:
        """Takes the next message, and comes as far as its images, or to its end. False when there is none."""
        claimed = self._hands.claim(_QUEUES)
        if claimed is None:
            return False
        self._tag = claimed.tag
        message = json.loads(claimed.raw)
        args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
        message_id = message["headers"]["id"]
        uris = tuple(image if isinstance(image, str) else image["uri"] for image in kwargs["images"])
        self.asked = Asked(kwargs.get("job_id") or message_id, kwargs.get("attempt", 1), uris)
        self._life.ends_after = ends_after
        delivery = Delivery(message_id, lane_of_queue(claimed.queue), claimed.tag, self._hands, self._vitals)
        self._thread = Thread(target=self._work, args=(args, kwargs, delivery), daemon=True)
        self._thread.start()
        self._images.arrived.wait(_PATIENCE_S)
        if not self.in_hand:
            self._join()
        return True

    @property
    def in_hand(self) -> bool:
        """Its images wait."""
        return self._images.wait

    def finish(self, fates: Sequence[Fate], *, ends_after: str = "", answer_lost: str = "") -> None:
        self._images.fates = fates
        self._life.ends_after, self._life.answer_lost = ends_after, answer_lost
        self._go_on()

    def hand_back(self) -> None:
        self._images.handed_back = True
        self._go_on()

    def die(self) -> None:
        self._life.over = True
        self._go_on()

    @property
    def holds(self) -> bool:
        """Whether its message is still its own."""
        return bool(self._hands.redis.hexists(UNACKED, self._tag))

    def renew(self) -> None:
        """Its lease thread does, while it lives."""
        self._hands.renew()

    def sweep(self) -> None:
        """Gives back what others held whose leases have run out, as each worker does now and then."""
        self._hands.sweep()

    def _go_on(self) -> None:
        self._images.told.set()
        self._join()

    def _join(self) -> None:
        self._thread.join(_PATIENCE_S)
        assert not self._thread.is_alive(), "a worker hangs"
        if self.error is not None:
            raise self.error

    def _work(self, args: Sequence[Any], kwargs: Mapping[str, Any], delivery: Delivery) -> None:
        """As the body of the task does."""
        delivery.begin()
        try:
            words = self._handler.handle(args, kwargs, delivery)
            self._life.step("ack", delivery.ack)
            self.words = words
        except Drained:
            delivery.give_back()
            self.words = "given back"
        except Died:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self._images.arrived.set()
