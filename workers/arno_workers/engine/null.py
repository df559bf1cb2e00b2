"""A replica that answers nothing, at once: it measures everything but the model."""

from collections.abc import Sequence

from PIL.Image import Image

from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.results import Generation, ModelFacts
from arno_workers.engine import Answer, Ask, Parsed, Pixels
from arno_workers.engine.scheduler import Limits, Picture, Request, Work

_NOTHING = Answer(ids=(), logprobs=(), forced=0, truncated=False)
_NOTHING_SAID = Parsed(raw="", value=None, confidences=None, repetitive=False)


class NullReplica:
    model = ModelFacts(id="null", revision="0", dtype="none")
    provenance = ""
    execution = "nothing"
    scaled_to: tuple[int, int] | None = None
    appetite_images = 96

    limits = Limits(vision_images=64, encoder_requests=4096, slots=lambda _: 4096)

    def generation(self, options: GenerationOptions) -> Generation | None:
        return None

    def prepare(self, image: Image) -> Pixels:
        return image

    def ask(self, prompt: Prompt, width: int, height: int, options: GenerationOptions) -> Ask:
        return Ask(prompt.raw or str(prompt.task), max_new_tokens=2, num_beams=1)

    def prompt_ids(self, sentence: str) -> tuple[int, ...]:
        return ()

    def run(self, work: Work) -> Sequence[tuple[Request, Answer | None]]:
        return [(request, _NOTHING) for admission in work.admissions for request in admission.requests]

    def seen(self, *, wait: bool) -> Sequence[Picture]:
        return []

    def memory_bytes(self) -> tuple[int, int]:
        return 0, 0

    def reset(self) -> None:
        pass

    def is_out_of_memory(self, error: Exception) -> bool:
        return False

    def warm_up(self) -> None:
        pass

    def parse(self, prompt: Prompt, answer: Answer, width: int, height: int) -> Parsed:
        return _NOTHING_SAID
