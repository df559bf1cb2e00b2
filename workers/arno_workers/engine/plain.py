"""A plain engine: one thread that takes what is ready, up to a batch, and runs the replica on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread
from time import perf_counter
from typing import Any

from PIL.Image import Image

from arno_shared.errors import ItemError, ModelFailed
from arno_shared.logs import get_logger
from arno_shared.messages import Prompt
from arno_shared.results import Generation, ModelFacts
from arno_workers.engine import Answer, Answered, Ask, Deliver, Pixels
from arno_workers.engine.replica import Replica
from arno_workers.handover import Handover

log = get_logger(__name__)

_LINGER_S = 0.002
"""A batch takes far longer than this, and pictures come in flocks: waiting makes fewer and fuller batches."""


@dataclass(frozen=True, slots=True)
class _Work:
    pixels: Pixels
    asks: Sequence[Ask]
    deliver: Deliver
    submitted_s: float


class PlainEngine:
    def __init__(
        self, replica: Replica, max_batch_images: int, max_ready_images: int, on_broken: Callable[[], None]
    ) -> None:
        """`on_broken` is called once, when the replica itself fails: from then on nothing is answered."""
        self._replica = replica
        self._ready: Handover[_Work] = Handover(max_ready_images)
        self._max_batch_images = max_batch_images
        self._on_broken = on_broken
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
        try:
            while batch := self._ready.take(self._max_batch_images, _LINGER_S):
                self._annotate(batch)
        except Exception:
            log.exception("the replica is broken: it fails on a blank picture too")
            self._on_broken()

    def _annotate(self, batch: Sequence[_Work]) -> None:
        began_s = perf_counter()
        try:
            answers = self._replica.annotate([work.pixels for work in batch], [work.asks for work in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} pictures")
        except Exception as error:
            self._blame(batch, error)
            return
        model_ms = (perf_counter() - began_s) * 1000
        for work, given in zip(batch, answers, strict=True):
            work.deliver(Answered(given, (began_s - work.submitted_s) * 1000, model_ms))

    def _blame(self, batch: Sequence[_Work], error: Exception) -> None:
        """A batch that fails is halved until the picture that breaks it stands alone.

        Raises what the replica raises on a blank picture: then no picture is to blame, and none may fail for it.
        """
        if len(batch) == 1:
            self._replica.warm_up()
            log.error("the model failed on one picture", error=repr(error))
            failure: ItemError = ModelFailed(f"the model failed on this picture: {type(error).__name__}: {error}")
            batch[0].deliver(failure)
            return
        middle = len(batch) // 2
        self._annotate(batch[:middle])
        self._annotate(batch[middle:])
