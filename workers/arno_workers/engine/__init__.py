"""The engine's door: pictures and prompts in, answers out. The pipeline knows this file and nothing behind it.

    prepare(image)                        any thread: the picture as the model takes it
    ask(prompt, width, height, options)   any thread: the sentence that the model is asked, and how it answers
    submit(pixels, asks, lane, deliver)   any thread; blocks while too many pictures wait
    parse(prompt, answer, width, height)  any thread: the answer in words, and in pixels of the picture

One thread owns the device, and does nothing else. It batches whatever is ready, whichever message it came from.

`node.py` comes in through `start.py`, and `tiny` through `checkpoint/locate.py`, for the bundled model's folder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from PIL.Image import Image

from arno_shared.errors import ItemError
from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_shared.results import Generation, ModelFacts

Pixels: TypeAlias = Any
"""A picture as the model takes it: uint8, height × width × 3."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt of one picture."""

    sentence: str
    max_new_tokens: int
    """At least 2: the first one may be forced, and so may the last."""
    num_beams: int
    """1 is greedy."""


@dataclass(frozen=True, slots=True)
class Answer:
    ids: tuple[int, ...]
    """The generated tokens, without the decoder's start token; the end token, if there is one, is the last."""
    logprobs: tuple[float, ...]
    """For each of `ids`, the natural logarithm of the probability that the model gave it; 0 where it was forced."""
    forced: int
    """How many of `ids` were forced, so that they were nobody's choice."""
    truncated: bool
    """`max_new_tokens` was reached before the answer ended."""

    @property
    def score(self) -> float | None:
        """The mean of `logprobs` over the tokens that the model chose; None when it chose none."""
        chosen = len(self.ids) - self.forced
        return sum(self.logprobs) / chosen if chosen else None


@dataclass(frozen=True, slots=True)
class Parsed:
    raw: str
    """The generated text with its special tokens."""
    value: Any
    """What transformers' `post_process_generation` gives for the task, or for the kind that the prompt says."""
    confidences: tuple[float, ...] | None
    """One for each object of `value`, in its order, in (0, 1]; None where the prompt asks for no objects."""
    repetitive: bool
    """The answer runs in a loop."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer for each ask, in order. `wait_ms` until the vision tower took it, `model_ms` from then on."""

    answers: tuple[Answer, ...]
    wait_ms: float
    model_ms: float


Deliver: TypeAlias = Callable[[Answered | ItemError], None]
"""Called once for each submitted picture, on the device's thread: it returns quickly and never raises."""


@dataclass(frozen=True, slots=True)
class Load:
    """How full an engine and its device are."""

    slots_in_use: int
    slots: int
    memory_used_bytes: int
    memory_total_bytes: int


class Engine(Protocol):
    @property
    def model(self) -> ModelFacts: ...

    @property
    def provenance(self) -> str:
        """What was read of the model, and from where, in a few words: its layout, and by which rules it answers."""
        ...

    @property
    def execution(self) -> str:
        """How it computes, in a few words: with which functions, and whether as graphs; and what it does without after
        that failed."""
        ...

    @property
    def appetite_images(self) -> int:
        """Images in flight with which the device never waits, whatever their prompts."""
        ...

    @property
    def busy_s(self) -> float:
        """How long the device has worked so far, the host's part in it included."""
        ...

    @property
    def load(self) -> Load: ...

    @property
    def scaled_to(self) -> tuple[int, int] | None:
        """Width and height that a decoder may scale a picture down to while it decodes, and never below.

        None: pictures are decoded at their full size.
        """
        ...

    def generation(self, options: GenerationOptions) -> Generation | None:
        """How a job with these options is answered: the checkpoint's own settings where it asks for nothing else."""
        ...

    def prepare(self, image: Image) -> Pixels: ...

    def ask(self, prompt: Prompt, width: int, height: int, options: GenerationOptions) -> Ask:
        """Raises RegionOutside when the prompt's region lies outside the picture (sizes in pixels)."""
        ...

    def submit(
        self, pixels: Pixels, asks: Sequence[Ask], lane: Lane, deliver: Deliver, trace: str | None = None
    ) -> None:
        """`trace`: the traceparent of whoever submits it; batches that it runs in are linked to it."""
        ...

    def parse(self, prompt: Prompt, answer: Answer, width: int, height: int) -> Parsed: ...

    def close(self) -> None:
        """Answers what was submitted, then lets the device go."""
        ...
