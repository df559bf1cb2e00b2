"""What an engine drives: one copy of a model, used by one thread."""

from collections.abc import Sequence
from typing import Any, Protocol

from PIL.Image import Image

from arno_shared.messages import Prompt
from arno_shared.results import Generation, ModelFacts
from arno_workers.engine import Answer, Ask, Pixels


class Replica(Protocol):
    @property
    def model(self) -> ModelFacts: ...

    @property
    def generation(self) -> Generation | None: ...

    def prepare(self, image: Image) -> Pixels: ...

    def ask(self, prompt: Prompt, width: int, height: int) -> Ask: ...

    def annotate(self, pictures: Sequence[Pixels], asks: Sequence[Sequence[Ask]]) -> list[tuple[Answer, ...]]:
        """The answers to each picture's asks, in order. Called by the device's thread alone."""
        ...

    def warm_up(self) -> None:
        """Answers every kind of prompt about a blank picture. Raises ModelUnusable when it cannot."""
        ...

    def parse(self, prompt: Prompt, answer: Answer, width: int, height: int) -> Any: ...
