"""A plain engine: one thread that takes what is ready, up to a batch, and runs the replica on it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Condition, Thread
from time import perf_counter
from typing import Any

from PIL.Image import Image

from arno_shared.errors import ItemError, ModelFailed
from arno_shared.logs import get_logger
from arno_shared.messages import Prompt
from arno_shared.results import Generation, ModelFacts
from arno_workers.engine import Answer, Answered, Ask, Deliver, Pixels
from arno_workers.engine.replica import Replica

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Work:
    pixels: Pixels
    asks: Sequence[Ask]
    deliver: Deliver
    submitted_s: float


class PlainEngine:
    def __init__(self, replica: Replica, max_batch_images: int, max_ready_images: int) -> None:
        self._replica = replica
        self._ready = _ReadyQueue(max_ready_images)
        self._max_batch_images = max_batch_images
        self._thread = Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    @property
    def model(self) -> ModelFacts:
        return self._replica.model

    @property
    def generation(self) -> Generation | None:
        return self._replica.generation

    def prepare(self, image: Image) -> Pixels:
        return self._replica.prepare(image)

    def ask(self, prompt: Prompt, width: int, height: int) -> Ask:
        return self._replica.ask(prompt, width, height)

    def submit(self, pixels: Pixels, asks: Sequence[Ask], deliver: Deliver) -> None:
        self._ready.put(_Work(pixels, asks, deliver, perf_counter()))

    def parse(self, prompt: Prompt, answer: Answer, width: int, height: int) -> Any:
        return self._replica.parse(prompt, answer, width, height)

    def close(self) -> None:
        self._ready.close()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._ready.take(self._max_batch_images):
            self._annotate(batch)

    def _annotate(self, batch: Sequence[_Work]) -> None:
        began_s = perf_counter()
        try:
            answers = self._replica.annotate([work.pixels for work in batch], [work.asks for work in batch])
        except Exception as error:
            self._blame(batch, error)
            return
        model_ms = (perf_counter() - began_s) * 1000
        for work, given in zip(batch, answers, strict=True):
            work.deliver(Answered(given, (began_s - work.submitted_s) * 1000, model_ms))

    def _blame(self, batch: Sequence[_Work], error: Exception) -> None:
        """A batch that fails is halved until the picture that breaks it stands alone."""
        if len(batch) == 1:
            log.error("the model failed on one picture", error=repr(error))
            failure: ItemError = ModelFailed(f"the model failed on this picture: {type(error).__name__}: {error}")
            batch[0].deliver(failure)
            return
        middle = len(batch) // 2
        self._annotate(batch[:middle])
        self._annotate(batch[middle:])


class _ReadyQueue:
    """Pictures that wait for the device: `put` blocks when full, `take` returns all there is, up to a batch.

    A `SimpleQueue` does the handing over: it is written in C, and a picture that costs a millisecond to decode should
    not cost a tenth of one to hand over. Python's own locks are taken only by those who find the queue full.
    """

    def __init__(self, max_images: int) -> None:
        self._works: SimpleQueue[_Work | None] = SimpleQueue()
        self._max_images = max_images
        self._room = Condition()
        self._blocked = 0

    def put(self, work: _Work) -> None:
        if self._works.qsize() >= self._max_images:
            self._wait_for_room()
        self._works.put(work)

    def take(self, max_images: int) -> list[_Work]:
        """Blocks until there is one; empty once the queue is closed and drained."""
        first = self._works.get()
        if first is None:
            return []
        batch = [first]
        with suppress(Empty):
            while len(batch) < max_images:
                work = self._works.get_nowait()
                if work is None:
                    self._works.put(None)
                    break
                batch.append(work)
        if self._blocked:
            with self._room:
                self._room.notify_all()
        return batch

    def close(self) -> None:
        self._works.put(None)

    def _wait_for_room(self) -> None:
        with self._room:
            self._blocked += 1
            while self._works.qsize() >= self._max_images:
                # Not for ever: room may have been made between the look and the wait.
                self._room.wait(0.05)
            self._blocked -= 1
