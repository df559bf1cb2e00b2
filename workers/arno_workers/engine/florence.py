"""One replica of Florence-2: what stands between the scheduler's plan and the stages that do it.

Weights are transformers' own. The stages (`vision`, `encoder`, `decoder`) use its modules where these are fast, and do
the same in another way where they are not; each is tested against the original.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from arno_shared.errors import ModelUnusable
from arno_shared.logs import get_logger
from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_shared.prompts import LOCATION_BINS, TASKS, Takes
from arno_shared.results import Generation
from arno_shared.settings import WorkerSettings
from arno_workers.engine import Answer, Ask, Parsed, Pixels
from arno_workers.engine.batch import Batch
from arno_workers.engine.beams import Hypothesis
from arno_workers.engine.checkpoint.load import Checkpoint
from arno_workers.engine.choice import choose_functions
from arno_workers.engine.clock import StageClock, unobserved
from arno_workers.engine.decoder import DecoderWeights
from arno_workers.engine.encoder import TextEncoder
from arno_workers.engine.generation import GenerationRules
from arno_workers.engine.graphs import CaptureFailed, Graphs, Place
from arno_workers.engine.looking import Beside, First, Looking
from arno_workers.engine.memory import fitting_pictures, fitting_slots, used_and_total_bytes
from arno_workers.engine.parsing import AnswerParser
from arno_workers.engine.pixels import PixelRecipe
from arno_workers.engine.precision import choose_dtype
from arno_workers.engine.regions import quantize
from arno_workers.engine.repetition import runs_in_a_loop
from arno_workers.engine.scheduler import Admission, Limits, Picture, Request, Scheduler, Work
from arno_workers.engine.slots import SlotBanks
from arno_workers.engine.staging import CopyStream, Stacked, Uploads, is_cuda, pin
from arno_workers.engine.vision import VisionTower

log = get_logger(__name__)

_REMEMBERED_SENTENCES = 4096
_ENCODER_REQUESTS = 64
_STEPS_AT_ONCE = 4
"""A step of few slots takes the device hardly longer than the host needs to ask for the next one."""


class FlorenceReplica:
    def __init__(self, checkpoint: Checkpoint, settings: WorkerSettings, device: str) -> None:
        """Takes the checkpoint's model to the device. Raises ModelUnusable."""
        dtype = choose_dtype(settings.dtype, device, stored=checkpoint.stored)
        model = checkpoint.model.to(device=device, dtype=dtype)
        self.model = checkpoint.facts.model_copy(update={"dtype": str(dtype).removeprefix("torch.")})
        self.provenance = checkpoint.provenance
        self._device = device
        self._processor = checkpoint.processor
        self.clock = StageClock(unobserved)
        """Whoever wants to know how long stages take puts another in its place."""
        self._rules = GenerationRules.of(model.generation_config)
        first_location = int(self._processor.tokenizer.convert_tokens_to_ids("<loc_0>"))
        self._locations = frozenset(range(first_location, first_location + LOCATION_BINS))
        self._max_positions = int(model.config.text_config.max_position_embeddings)
        self._image_tokens = int(self._processor.num_image_tokens)
        self._parser = AnswerParser(self._processor)
        fast = settings.pixels == "fast"
        self._recipe = PixelRecipe(self._processor.image_processor, device, dtype, fast=fast)
        self.scaled_to = (self._recipe.width, self._recipe.height) if fast else None
        self._prompts = checkpoint.prompts
        self.prompt_ids = lru_cache(_REMEMBERED_SENTENCES)(self._prompt_ids)
        functions = choose_functions(settings.kernels, model.config, dtype, device)
        with torch.inference_mode():
            self._vision = VisionTower(model, functions)
            self._banks = SlotBanks(
                DecoderWeights(model, functions),
                TextEncoder(model, functions),
                self._rules,
                self._image_tokens,
                device,
                lambda slot_bytes: settings.slots or fitting_slots(device, slot_bytes),
            )
        self._looking: Looking = Beside() if settings.overlap and is_cuda(device) else First()
        self.limits = Limits(
            vision_images=settings.max_batch_images
            or fitting_pictures(device, _widest_bytes(model.config.vision_config, self._recipe, dtype)),
            encoder_requests=_ENCODER_REQUESTS,
            slots=lambda num_beams: self._banks[num_beams].slots,
            looks_ahead=self._looking.ahead,
            steps_at_once=_STEPS_AT_ONCE if is_cuda(device) else 1,
        )
        self._look: Callable[[Tensor], Tensor] = self._features
        size = (self.limits.vision_images, self._recipe.height, self._recipe.width)
        self._uploads: Uploads = CopyStream(*size, device) if is_cuda(device) else Stacked()
        self._kernels, self._graphs = functions.name, ""

    @property
    def execution(self) -> str:
        """How it computes, in a few words."""
        lost = "".join(
            f" but for {beams} beams, which were asked for more than usual" for beams in self._banks.called()
        )
        return f"{self._kernels}{self._graphs}{lost}"

    @property
    def appetite_images(self) -> int:
        # One prompt each in every slot, a batch that is being looked at, and one that is ready for it.
        return self._banks[self._rules.num_beams].slots + 2 * self.limits.vision_images

    def warm_up(self) -> None:
        sentences = [self._sentence(token, "something") for token in TASKS]
        picture = self.picture(self._blank(), sentences, max_new_tokens=4)
        try:
            self.answer_all([picture])
        except Exception as error:
            raise ModelUnusable(f"the model {self.model.id!r} fails on a blank picture: {error}") from error
        if not any(request.answer for request in picture.requests):
            raise ModelUnusable(f"the model {self.model.id!r} answers a blank picture with what is no number (NaN)")

    @torch.inference_mode()
    def capture(self) -> None:
        """Records all that the device will do as graphs, before there is work; where that fails, it will be called.

        Raises ModelUnusable when nothing works any more after that.
        """
        tasks = [task for task in TASKS.values() if task.takes is Takes.NOTHING]
        lengths = sorted({len(self.prompt_ids(self._sentence(task.token, ""))) for task in tasks})
        blank = torch.zeros((self.limits.vision_images, self._recipe.height, self._recipe.width, 3), dtype=torch.uint8)
        look = Batch(Graphs(Place()), "look", self._features, [blank.to(self._device)], [None])
        try:
            look.capture()
            self._look = look
            features = look(blank[:1].to(self._device))
            most = features.new_zeros(self.limits.encoder_requests, *features.shape[1:])
            # Greedy is what jobs ask for most often when they ask.
            for num_beams in dict.fromkeys((self._rules.num_beams, 1)):
                self._banks[num_beams].capture(lengths, most)
            self._graphs = ", graphs"
        except (CaptureFailed, torch.OutOfMemoryError) as error:
            log.error("nothing is captured: every kernel is launched by itself", error=str(error))
            self._look = self._features
            self._banks.drop_graphs()
            self._graphs = f", without graphs: {error}"
            self._check_device()

    def _check_device(self) -> None:
        """Raises ModelUnusable if a capture that failed took the device with it."""
        try:
            self.warm_up()
        except Exception as error:
            raise ModelUnusable(
                f"after a failed capture the device does nothing more ({error}); ARNO_WORKER__GRAPHS=false does without"
            ) from error

    def rehearse(self, pictures: int) -> None:
        """A little of every kind of work, to be timed."""
        sentence = self._sentence("<CAPTION>", "")
        self.answer_all([self.picture(self._blank(), [sentence] * 2, max_new_tokens=8) for _ in range(pictures)])

    def generation(self, options: GenerationOptions) -> Generation | None:
        return self._rules.with_options(options).as_facts()

    def prepare(self, image: Image) -> Pixels:
        return pin(self._recipe.resize(image), self._device)

    def ask(self, prompt: Prompt, width: int, height: int, options: GenerationOptions) -> Ask:
        limit = options.max_new_tokens or prompt.max_new_tokens
        if self._rules.max_new_tokens is not None:
            limit = min(limit, self._rules.max_new_tokens)
        return Ask(
            sentence=self._asked(prompt, width, height),
            # An answer cannot be longer than the decoder has positions for.
            max_new_tokens=min(limit, self._max_positions - 2),
            num_beams=self._rules.with_options(options).num_beams,
        )

    def picture(self, pixels: Pixels, sentences: Sequence[str], max_new_tokens: int) -> Picture:
        """A picture to be answered by the checkpoint's own rules, for `answer_all`."""
        picture = Picture(pixels, Lane.BULK)
        picture.requests = [
            Request(picture, self.prompt_ids(sentence), self._rules.num_beams, max_new_tokens) for sentence in sentences
        ]
        return picture

    def answer_all(self, pictures: Sequence[Picture]) -> None:
        """Answers every request of these, and of nobody else, on this thread."""
        scheduler = Scheduler(self.limits)
        for picture in pictures:
            scheduler.submit(picture)
        while not scheduler.idle:
            work = scheduler.schedule()
            for request, answer in self.run(work):
                request.answer = answer
                scheduler.retire(request)
            scheduler.saw(self.seen(wait=not work.steps))

    def seen(self, *, wait: bool) -> list[Picture]:
        return self._looking.done(wait=wait)

    @torch.inference_mode()
    def run(self, work: Work) -> list[tuple[Request, Answer | None]]:
        if work.vision:
            with self._looking.at(work.vision), self.clock.stage("vision", len(work.vision)):
                self._see(work.vision)
        for admission in work.admissions:
            with self.clock.stage("encode", len(admission.requests)):
                self._admit(admission)
        for admission in work.admissions:
            for request in admission.requests:
                if not request.picture.unplaced:
                    request.picture.features = None
        ended: list[tuple[Request, Hypothesis]] = []
        for step in work.steps:
            with self.clock.stage("step", step.slots):
                ended += self._banks[step.num_beams].step(step, self._image_tokens)
        return [(request, _answer(hypothesis)) for request, hypothesis in ended]

    def memory_bytes(self) -> tuple[int, int]:
        return used_and_total_bytes(self._device)

    @torch.inference_mode()
    def reset(self) -> None:
        self._looking.forget()
        self._banks.reset()

    def is_out_of_memory(self, error: Exception) -> bool:
        # torch's allocator for CPUs has no class of its own for it.
        return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)

    def parse(self, prompt: Prompt, answer: Answer, width: int, height: int) -> Parsed:
        raw, value, confidences = self._parser.parse(prompt.answer, answer.ids, answer.logprobs, width, height)
        return Parsed(
            raw=raw,
            value=value,
            confidences=confidences,
            repetitive=runs_in_a_loop(answer.ids, self._locations, self._rules.eos_ids),
        )

    def _see(self, pictures: Sequence[Picture]) -> None:
        """The vision tower, once for each picture."""
        with self._uploads.upload([picture.pixels for picture in pictures]) as pixels:
            seen = self._look(pixels)
        for picture, features in zip(pictures, seen, strict=True):
            picture.features = features

    def _features(self, pixels: Tensor) -> Tensor:
        return self._vision(self._recipe.normalise(pixels))

    def _admit(self, admission: Admission) -> None:
        """The text encoder, for prompts of one length, into their slots."""
        features = torch.stack([request.picture.features for request in admission.requests])
        self._banks[admission.num_beams].begin(admission.requests, features)

    def _blank(self) -> Pixels:
        return pin(np.zeros((self._recipe.height, self._recipe.width, 3), np.uint8), self._device)

    def _asked(self, prompt: Prompt, width: int, height: int) -> str:
        if prompt.task is None:
            return str(prompt.raw)
        given = prompt.text or ""
        if prompt.region is not None:
            given = quantize(prompt.region, width, height)
        return self._sentence(prompt.task, given.strip())

    def _sentence(self, token: str, given: str) -> str:
        sentences = self._processor.task_prompts_without_inputs
        if TASKS[token].takes is Takes.NOTHING:
            return str(sentences[token])
        return str(self._processor.task_prompts_with_input[token].replace("{input}", given))

    def _prompt_ids(self, sentence: str) -> tuple[int, ...]:
        """Cut so that picture and prompt fit the encoder's positions; the closing token stays."""
        ids = self._prompts.ids(sentence)
        room = self._max_positions - self._image_tokens
        return tuple(ids if len(ids) <= room else [*ids[: room - 1], ids[-1]])


def _answer(hypothesis: Hypothesis) -> Answer | None:
    if not hypothesis.is_sound:
        return None
    return Answer(hypothesis.ids, hypothesis.logprobs, hypothesis.forced, hypothesis.truncated)


def _widest_bytes(vision: Any, recipe: PixelRecipe, dtype: torch.dtype) -> int:
    """Of the widest tensor between two of the tower's layers, for one picture."""
    places, widest = recipe.height * recipe.width, 0
    for stride, channels in zip(vision.patch_stride, vision.embed_dim, strict=True):
        places //= stride**2
        widest = max(widest, places * channels)
    return widest * dtype.itemsize
