"""A plain engine: one thread that takes what is ready, up to a batch, and runs the replica on it."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Condition, Lock, Thread
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
    """Pictures that wait for the device: `put` blocks when full, `take` returns all there is, up to a batch."""

    def __init__(self, max_images: int) -> None:
        self._works: deque[_Work] = deque()
        self._max_images = max_images
        self._closed = False
        lock = Lock()
        self._filled, self._emptied = Condition(lock), Condition(lock)

    def put(self, work: _Work) -> None:
        with self._filled:
            while len(self._works) >= self._max_images:
                self._emptied.wait()
            self._works.append(work)
            self._filled.notify()

    def take(self, max_images: int) -> list[_Work]:
        """Blocks until there is one; empty once the queue is closed and drained."""
        with self._filled:
            while not self._works and not self._closed:
                self._filled.wait()
            batch = [self._works.popleft() for _ in range(min(max_images, len(self._works)))]
            self._emptied.notify(len(batch))
            return batch

    def close(self) -> None:
        with self._filled:
            self._closed = True
            self._filled.notify_all()
