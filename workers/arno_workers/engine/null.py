"""A replica that answers nothing, at once: it measures everything but the model."""

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image

from arno_shared.messages import Prompt
from arno_shared.results import Generation, ModelFacts
from arno_workers.engine import Answer, Ask, Pixels

_NOTHING = Answer(raw="", tokens=0, truncated=False)


class NullReplica:
    model = ModelFacts(id="null", revision="0", dtype="none")
    generation: Generation | None = None

    def prepare(self, image: Image) -> Pixels:
        return image

    def ask(self, prompt: Prompt, width: int, height: int) -> Ask:
        return Ask(prompt.task, 0)

    def annotate(self, pictures: Sequence[Pixels], asks: Sequence[Sequence[Ask]]) -> list[tuple[Answer, ...]]:
        return [(_NOTHING,) * len(prompts) for prompts in asks]

    def warm_up(self) -> None:
        pass

    def parse(self, prompt: Prompt, answer: Answer, width: int, height: int) -> Any:
        return None
