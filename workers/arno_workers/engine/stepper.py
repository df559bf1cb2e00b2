"""Runs the decoder's step on its device, and hears which slots are done.

On a CPU the step is called. On CUDA it is captured once for each shape as a graph, and replayed: its hundreds of small
kernels would take longer to launch than to run. Shapes are rounded up, so that there are few of them.
"""

from typing import Protocol

import torch

from arno_workers.engine.decoder import Decoder

_FEWEST_SLOTS = 8
_FEWEST_TOKENS = 32


class Stepper(Protocol):
    def warm_up(self) -> None:
        """Prepares for every number of slots, while nobody stands in any."""
        ...

    def step(self, slots: int, prompt_tokens: int, tokens: int) -> None:
        """As Decoder.step."""
        ...

    def done(self) -> list[bool]:
        """Of each slot in the last step whose outcome is known, whether it was done before or by it.

        Not necessarily the last step: `behind` says how many steps may have been run since.
        """
        ...

    behind: int


class DirectStepper:
    """Calls the step, and waits for it."""

    behind = 0

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._slots = decoder, 0

    def warm_up(self) -> None:
        """There is nothing to prepare."""

    def step(self, slots: int, prompt_tokens: int, tokens: int) -> None:
        self._decoder.step(slots, prompt_tokens, tokens)
        self._slots = slots

    def done(self) -> list[bool]:
        done: list[bool] = self._decoder.beams.done[: self._slots].tolist()
        return done


class GraphStepper:
    """Replays the step as a CUDA graph, and hears of it one step late, so that the device never waits for the host.

    What a graph relies on: all that the step reads and writes from one step to the next lies in the decoder's own
    tensors, which do not move (when they must, all graphs are captured anew); nothing in it waits for the device, or
    asks it for a value; memory that it needs in between comes from a pool of its own, which all graphs share because
    only one runs at a time.
    """

    behind = 1

    def __init__(self, decoder: Decoder, image_tokens: int) -> None:
        self._decoder, self._image_tokens = decoder, image_tokens
        self._graphs: dict[tuple[int, int, int], torch.cuda.CUDAGraph | None] = {}
        self._pool = torch.cuda.graph_pool_handle()
        # Two of each, for the step that is being run and the one before it. Pinned, so that copies do not wait.
        self._flags = [torch.ones(decoder.slots, dtype=torch.bool, pin_memory=True) for _ in range(2)]
        self._arrived = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
        self._steps, self._moves = 0, 0

    def shape(self, slots: int, prompt_tokens: int, tokens: int) -> tuple[int, int, int]:
        """The shape that serves such a step."""
        image, room = self._image_tokens, self._decoder.caches.room
        return (
            _rounded(slots, _FEWEST_SLOTS, self._decoder.slots),
            image + _rounded(prompt_tokens - image, _FEWEST_TOKENS, room.prompt_tokens - image),
            _rounded(tokens, _FEWEST_TOKENS, room.tokens),
        )

    def warm_up(self) -> None:
        """Captures the step for prompts and answers that are short; longer ones are captured when they come."""
        slots = 1
        while slots < 2 * self._decoder.slots:
            # A graph is captured when its shape comes for the second time.
            for _ in range(2):
                self.step(min(slots, self._decoder.slots), self._image_tokens + 1, 1)
            slots *= 2

    def step(self, slots: int, prompt_tokens: int, tokens: int) -> None:
        caches = self._decoder.caches
        caches.make_room(prompt_tokens, tokens)
        if caches.moves != self._moves:
            # Something longer than usual came: what was captured knows the old addresses.
            self._graphs.clear()
            self._moves = caches.moves
        shape = self.shape(slots, prompt_tokens, tokens)
        if shape not in self._graphs:
            # The first time it is called: libraries set themselves up, which no graph may hold.
            self._decoder.step(*shape)
            self._graphs[shape] = None
        else:
            graph = self._graphs[shape] or self._capture(shape)
            graph.replay()
        now = self._steps % 2
        self._flags[now].copy_(self._decoder.beams.done, non_blocking=True)
        self._arrived[now].record()
        self._steps += 1

    def done(self) -> list[bool]:
        if self._steps < 2:
            return []
        before = self._steps % 2
        self._arrived[before].synchronize()
        done: list[bool] = self._flags[before].tolist()
        return done

    def _capture(self, shape: tuple[int, int, int]) -> torch.cuda.CUDAGraph:
        """Records the step without running it."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile; only this one's calls are recorded.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self._decoder.step(*shape)
        self._graphs[shape] = graph
        return graph


def _rounded(count: int, fewest: int, most: int) -> int:
    """The next power of two, within bounds."""
    return min(max(fewest, 1 << max(count - 1, 0).bit_length()), most)
