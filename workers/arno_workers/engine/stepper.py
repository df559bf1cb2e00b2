"""Runs the decoder's step on its device, and hears which slots are done.

On a CPU the step is called, and waited for. On CUDA it is replayed as a graph, of which there is one for each of a few
extents, and heard of one step late, so that the device never waits for the host.
"""

from functools import partial
from itertools import product
from typing import Protocol

import torch

from arno_workers.engine.decoder import Decoder
from arno_workers.engine.functions import Extent, Reach
from arno_workers.engine.graphs import Runner

_FEWEST_SLOTS = 8
_USUAL_PROMPT_TOKENS = 16
_DIVIDES_WELL = 64
"""Attention is slow for numbers of keys that are no multiple of it."""
_TOKENS = (256, 128, 32)
"""Captured steps reach so far, or as far as there is room."""


class Stepper(Protocol):
    behind: int

    def warm_up(self) -> None:
        """Prepares for every extent, while nobody stands in any slot. Raises CaptureFailed."""
        ...

    def step(self, extent: Extent) -> None:
        """As Decoder.step."""
        ...

    def done(self) -> list[bool]:
        """Of each slot in the last step whose outcome is known, whether it was done before or by it.

        Not necessarily the last step: `behind` says how many steps may have been run since.
        """
        ...


class DirectStepper:
    """Calls the step, and waits for it."""

    behind = 0

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._slots = decoder, 0

    def warm_up(self) -> None:
        """There is nothing to prepare."""

    def step(self, extent: Extent) -> None:
        self._decoder.step(extent)
        self._slots = extent.slots

    def done(self) -> list[bool]:
        done: list[bool] = self._decoder.beams.done[: self._slots].tolist()
        return done


class GraphStepper:
    """Replays the step, and hears of it one step late."""

    behind = 1

    def __init__(self, decoder: Decoder, runner: Runner, image_tokens: int) -> None:
        self._decoder, self._runner = decoder, runner
        self._extents = _extents(decoder, image_tokens)
        # Two of each, for the step that is being run and the one before it. Pinned, so that copies do not wait.
        self._flags = [torch.ones(decoder.slots, dtype=torch.bool, pin_memory=True) for _ in range(2)]
        self._arrived = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
        self._steps = 0

    def warm_up(self) -> None:
        for extent in self._extents:
            self._runner.capture(extent, partial(self._decoder.step, extent))

    def extent(self, needed: Extent) -> Extent:
        """The smallest that was captured and serves; the one that is needed when none does."""
        serving = (each for each in reversed(self._extents) if needed.is_within(each) and self._runner.has(each))
        return next(serving, needed)

    def step(self, extent: Extent) -> None:
        extent = self.extent(extent)
        self._runner.run(extent, partial(self._decoder.step, extent))
        now = self._steps % 2
        self._flags[now].copy_(self._decoder.beams.done[: self._decoder.slots], non_blocking=True)
        self._arrived[now].record()
        self._steps += 1

    def done(self) -> list[bool]:
        if self._steps < 2:
            return []
        before = self._steps % 2
        self._arrived[before].synchronize()
        done: list[bool] = self._flags[before].tolist()
        return done


def _extents(decoder: Decoder, image_tokens: int) -> list[Extent]:
    """The largest first: the smaller ones find room in the memory that it needed."""
    room, slots = decoder.caches.room, [decoder.slots]
    while slots[-1] > _FEWEST_SLOTS:
        # The next power of two below.
        slots.append(1 << (slots[-1] - 1).bit_length() - 1)
    prompts = [room.prompt_tokens]
    usual = -(-(image_tokens + _USUAL_PROMPT_TOKENS) // _DIVIDES_WELL) * _DIVIDES_WELL
    # Where attention goes by each slot's length, a step may reach too far at no cost.
    if usual < room.prompt_tokens and not decoder.by_length:
        prompts.append(usual)
    tokens = [room.tokens, *(tokens for tokens in _TOKENS if tokens < room.tokens)]
    return [Extent(prompt, (Reach(count, reach),)) for count, prompt, reach in product(slots, prompts, tokens)]
