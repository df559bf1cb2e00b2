"""What is computed between the large products of a model, by name: one table for each way of computing it.

`plain.py` says what each function means, and runs everywhere. `compiled.py` has torch's compiler fuse them, `fused.py`
takes kernels of our own (`kernels/`). Both are for CUDA, and `choice.py` lets them in only where they agree with the
plain ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from torch import Tensor

from arno_workers.engine.beams import Beams
from arno_workers.engine.caches import SlotCaches

Activation: TypeAlias = Callable[[Tensor], Tensor]


class StepAttention(Protocol):
    """The decoder's attention in one step: every beam of the first `slots` slots, over what its slot remembers."""

    def own(self, layer: int, fused: Tensor) -> Tensor:
        """Remembers the new tokens and looks at the past with them.

        fused: (slots, W, 3 · H · D), queries, keys and values → (slots, W, H · D).
        """
        ...

    def cross(self, layer: int, queries: Tensor) -> Tensor:
        """Looks at picture and prompt; queries: (slots, W, H · D) → (slots, W, H · D)."""
        ...


class Reach(NamedTuple):
    """The slots from where the reach before it ends up to `slots` hold answers of at most `tokens`."""

    slots: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a step reaches."""

    prompt_tokens: int
    """Of the longest prompt, its picture included."""
    answers: tuple[Reach, ...]
    """One answer that is long makes only its neighbours' attention longer."""

    @property
    def slots(self) -> int:
        return self.answers[-1].slots

    @property
    def tokens(self) -> int:
        return max(reach.tokens for reach in self.answers)

    def is_within(self, other: "Extent") -> bool:
        return self.slots <= other.slots and self.prompt_tokens <= other.prompt_tokens and self.tokens <= other.tokens


@dataclass(frozen=True)
class Functions:
    """n pictures or requests, C channels of the tower, M the width of encoder and decoder."""

    name: str
    laid: Callable[[Tensor], Tensor]
    """The weight of a depthwise 3 × 3 convolution, (C, 1, 3, 3), as `mix` takes it."""
    mix: Callable[..., tuple[Tensor, Tensor]]
    """(x, branch or None, weight, bias, norm's weight, norm's bias, eps) → y and its LayerNorm, where s = x + branch
    and y = s + depthwise convolution of s. x and what is returned: (n, height, width, C)."""
    window_attention: Callable[..., Tensor]
    """(x, heads, size, scale, weights): attention within windows of size × size places; x: (n, height, width, C)."""
    channel_attention: Callable[..., Tensor]
    """(x, groups, weights): attention of channels to channels, over all places; x: (n, height, width, C)."""
    feed_forward: Callable[..., Tensor]
    """(x, weight, bias, activation, weight, bias): two linear layers; x: (…, width)."""
    add_norm: Callable[..., Tensor]
    """(x, branch or None, norm's weight, norm's bias, eps) → LayerNorm(x + branch); x: (…, width)."""
    candidates: Callable[[Tensor, Callable[[Tensor], None] | None, int], tuple[Tensor, Tensor]]
    """(logits, ban, count) → log-probabilities, float32, and ids of each row's best `count` tokens, best first, once
    `ban` has set to -inf, in place, what must not come. logits: (rows, vocabulary and spare columns)."""
    attention: Callable[[Beams, SlotCaches, Extent, Tensor], StepAttention]
    """Of a step whose new tokens stand at `position`, (slots,)."""
    by_length: bool = False
    """`attention` reads of each slot what is there, and no further."""
