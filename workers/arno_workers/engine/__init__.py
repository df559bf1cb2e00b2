"""The engine's door: pictures and prompts in, answers out. The pipeline knows this file and nothing behind it.

    prepare(image)                    any thread: the picture as the model takes it
    ask(prompt, width, height)        any thread: the sentence that the model is asked
    submit(pixels, asks, deliver)     any thread; blocks while too many pictures wait
    parse(prompt, answer, w, h)       any thread: the answer in pixels of the picture

One thread owns the device. It batches whatever is ready, whichever message it came from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from PIL.Image import Image

from arno_shared.errors import ItemError
from arno_shared.messages import Prompt
from arno_shared.results import Generation, ModelFacts

Pixels: TypeAlias = Any
"""A picture as the model takes it: uint8, height × width × 3."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt of one picture."""

    sentence: str
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    raw: str
    """The generated text with its special tokens."""
    tokens: int
    truncated: bool
    """`max_new_tokens` was reached."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer for each ask, in order. `wait_ms` until its batch began, `model_ms` in the batch."""

    answers: tuple[Answer, ...]
    wait_ms: float
    model_ms: float


Deliver: TypeAlias = Callable[[Answered | ItemError], None]
"""Called once for each submitted picture, on the device's thread: it returns quickly and never raises."""


class Engine(Protocol):
    @property
    def model(self) -> ModelFacts: ...

    @property
    def generation(self) -> Generation | None: ...

    def prepare(self, image: Image) -> Pixels: ...

    def ask(self, prompt: Prompt, width: int, height: int) -> Ask:
        """Raises RegionOutside when the prompt's region lies outside the picture (sizes in pixels)."""
        ...

    def submit(self, pixels: Pixels, asks: Sequence[Ask], deliver: Deliver) -> None: ...

    def parse(self, prompt: Prompt, answer: Answer, width: int, height: int) -> Any: ...

    def close(self) -> None:
        """Answers what was submitted, then lets the device go."""
        ...
