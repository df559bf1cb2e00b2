"""The engine's loop: schedule, run, retire; and what happens when that goes wrong."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from time import perf_counter

from PIL.Image import Image

from arno_shared import tracing
from arno_shared.errors import ItemError, ModelFailed
from arno_shared.logs import get_logger
from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_shared.results import Generation, ModelFacts
from arno_workers.engine import Answer, Answered, Ask, Deliver, Load, Parsed, Pixels
from arno_workers.engine.replica import Replica
from arno_workers.engine.scheduler import Picture, Request, Scheduler, Work
from arno_workers.handover import Handover

log = get_logger(__name__)

_LINGER_S = 0.002
"""Pictures come in flocks, and a batch takes far longer than this: waiting once makes fewer and fuller batches."""


@dataclass(slots=True)
class _Owner:
    """Who is told of a picture's answers, and when it came."""

    deliver: Deliver
    submitted_s: float
    trace: str | None = None
    began_s: float = 0.0


class EngineLoop:
    """One thread that owns the replica's device. See `arno_workers.engine.Engine`."""

    _replica: Replica
    _scheduler: Scheduler

    def __init__(
        self, make_replica: Callable[[], Replica], max_ready_images: int, on_broken: Callable[[], None]
    ) -> None:
        """Returns when the replica is made, by the thread that will drive it; raises what making it raises.

        That thread does all of torch's work in the process: OpenMP keeps threads for each of its callers, and when
        there are more of these than cores, none may wait busily, and small operations take twice as long.

        `on_broken` is called once, when the replica itself fails: from then on nothing is answered.
        """
        self._inbox: Handover[Picture] = Handover(max_ready_images, lambda: self._scheduler.waiting)
        self._on_broken = on_broken
        self.busy_s = 0.0
        made: Future[None] = Future()
        self._thread = Thread(target=self._live, args=(make_replica, made), name="device", daemon=True)
        self._thread.start()
        made.result()

    @property
    def model(self) -> ModelFacts:
        return self._replica.model

    @property
    def provenance(self) -> str:
        return self._replica.provenance

    @property
    def execution(self) -> str:
        return self._replica.execution

    @property
    def appetite_images(self) -> int:
        return self._replica.appetite_images

    @property
    def load(self) -> Load:
        slots = self._scheduler.slots
        return Load(*slots, *self._replica.memory_bytes())

    @property
    def scaled_to(self) -> tuple[int, int] | None:
        return self._replica.scaled_to

    def generation(self, options: GenerationOptions) -> Generation | None:
        return self._replica.generation(options)

    def prepare(self, image: Image) -> Pixels:
        return self._replica.prepare(image)

    def ask(self, prompt: Prompt, width: int, height: int, options: GenerationOptions) -> Ask:
        return self._replica.ask(prompt, width, height, options)

    def submit(
        self, pixels: Pixels, asks: Sequence[Ask], lane: Lane, deliver: Deliver, trace: str | None = None
    ) -> None:
        picture = Picture(pixels, lane, _Owner(deliver, perf_counter(), trace))
        picture.requests = [
            Request(picture, self._replica.prompt_ids(ask.sentence), ask.num_beams, ask.max_new_tokens) for ask in asks
        ]
        self._inbox.put(picture)

    def parse(self, prompt: Prompt, answer: Answer, width: int, height: int) -> Parsed:
        return self._replica.parse(prompt, answer, width, height)

    def close(self) -> None:
        self._inbox.close()
        self._thread.join()

    def _live(self, make_replica: Callable[[], Replica], made: "Future[None]") -> None:
        try:
            self._replica = make_replica()
            self._scheduler = Scheduler(self._replica.limits)
        except BaseException as error:
            made.set_exception(error)
        else:
            made.set_result(None)
            self._run()

    def _run(self) -> None:
        try:
            while self._take_in():
                try:
                    self._advance(self._scheduler)
                except Exception as error:
                    self._rescue(self._scheduler.withdraw(), error)
        except Exception:
            log.exception("the replica is broken: it fails on a blank picture too")
            self._on_broken()

    def _take_in(self) -> bool:
        """Gives the scheduler what was submitted; waits for it when there is nothing else to do. False at the end."""
        if self._scheduler.idle:
            pictures = self._inbox.take(self._scheduler.limits.vision_images, _LINGER_S)
            if not pictures:
                return False
        else:
            pictures = self._inbox.take_now()
        for picture in pictures:
            self._enlist(picture)
        return True

    def _enlist(self, picture: Picture) -> None:
        try:
            self._scheduler.submit(picture)
        except Exception as error:
            # There is no room for slots of its kind, with as many beams as it asks for; others have theirs.
            log.exception("a picture cannot be taken in")
            picture.owner.deliver(ModelFailed(f"the model has no room for this: {type(error).__name__}: {error}"))

    def _advance(self, scheduler: Scheduler) -> None:
        began_s = perf_counter()
        work = scheduler.schedule()
        if work.vision:
            self._begin(work.vision)
        for request, answer in self._run_work(work):
            request.answer = answer
            if (picture := scheduler.retire(request)) is not None:
                self._deliver(picture)
        # With nothing else to do, the pictures that are being looked at are waited for.
        scheduler.saw(self._replica.seen(wait=not work.steps))
        self.busy_s += perf_counter() - began_s

    def _run_work(self, work: Work) -> Sequence[tuple[Request, Answer | None]]:
        if not (work.vision and tracing.is_on()):
            return self._replica.run(work)
        traces = dict.fromkeys(picture.owner.trace for picture in work.vision if picture.owner.trace)
        with tracing.span("arno.batch", links=traces, arno__images=len(work.vision)):
            return self._replica.run(work)

    def _begin(self, pictures: Sequence[Picture]) -> None:
        self._inbox.wake()
        now_s = perf_counter()
        for picture in pictures:
            picture.owner.began_s = now_s

    def _deliver(self, picture: Picture) -> None:
        owner: _Owner = picture.owner
        answers = tuple(request.answer for request in picture.requests)
        if None in answers:
            owner.deliver(ModelFailed("the model computes NaN for this picture; another dtype may help"))
            return
        wait_s, model_s = owner.began_s - owner.submitted_s, perf_counter() - owner.began_s
        owner.deliver(Answered(answers, wait_s * 1000, model_s * 1000))

    def _rescue(self, pictures: Sequence[Picture], error: Exception) -> None:
        """Answers pictures in whose run something failed: in smaller batches, in halves, and in the end alone.

        Raises what the replica raises on a blank picture: then no picture is to blame, and none may fail for it.
        """
        if not pictures:
            raise error
        self._replica.reset()
        if self._replica.is_out_of_memory(error) and self._scheduler.limits.shrink():
            log.warning("out of memory: batches are halved", vision_images=self._scheduler.limits.vision_images)
            self._run_apart(pictures)
        elif len(pictures) == 1:
            self._replica.warm_up()
            log.error("the model failed on one picture", error=repr(error))
            failure: ItemError = ModelFailed(f"the model failed on this picture: {type(error).__name__}: {error}")
            pictures[0].owner.deliver(failure)
        else:
            middle = len(pictures) // 2
            self._run_apart(pictures[:middle])
            self._run_apart(pictures[middle:])

    def _run_apart(self, pictures: Sequence[Picture]) -> None:
        """Runs these to their end before anything else."""
        scheduler = Scheduler(self._scheduler.limits)
        try:
            for picture in pictures:
                scheduler.submit(picture)
            while not scheduler.idle:
                self._advance(scheduler)
        except Exception as error:
            self._rescue([picture for picture in pictures if picture.unanswered], error)
