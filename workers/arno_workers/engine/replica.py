"""What the engine drives: one copy of a model on one device, used by one thread."""

from collections.abc import Sequence
from typing import Protocol

from PIL.Image import Image

from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.results import Generation, ModelFacts
from arno_workers.engine import Answer, Ask, Parsed, Pixels
from arno_workers.engine.scheduler import Limits, Picture, Request, Work


class Replica(Protocol):
    """`run`, `reset` and `warm_up` are called by the device's thread alone, the rest by any."""

    @property
    def model(self) -> ModelFacts: ...

    @property
    def provenance(self) -> str: ...

    @property
    def execution(self) -> str: ...

    @property
    def scaled_to(self) -> tuple[int, int] | None: ...

    @property
    def appetite_images(self) -> int: ...

    @property
    def limits(self) -> Limits: ...

    def generation(self, options: GenerationOptions) -> Generation | None: ...

    def prepare(self, image: Image) -> Pixels: ...

    def ask(self, prompt: Prompt, width: int, height: int, options: GenerationOptions) -> Ask: ...

    def prompt_ids(self, sentence: str) -> tuple[int, ...]: ...

    def run(self, work: Work) -> Sequence[tuple[Request, Answer | None]]:
        """Does the work; the requests whose answers have ended, in this work or in an earlier one. None is said in
        place of an answer that is not made of numbers.

        When it raises, nothing that is in flight can be relied upon until `reset`.
        """
        ...

    def seen(self, *, wait: bool) -> Sequence[Picture]:
        """Where limits say that it looks ahead: the pictures whose requests may have slots since it was asked last.

        With `wait`, there is at least one if any is being looked at.
        """
        ...

    def memory_bytes(self) -> tuple[int, int]:
        """Of its device, used and in all. Called by any thread."""
        ...

    def reset(self) -> None:
        """Forgets all that is in flight."""
        ...

    def is_out_of_memory(self, error: Exception) -> bool: ...

    def warm_up(self) -> None:
        """Answers every kind of prompt about a blank picture. Raises ModelUnusable when it cannot."""
        ...

    def parse(self, prompt: Prompt, answer: Answer, width: int, height: int) -> Parsed: ...
