"""The slots in which answers grow: a bank for each number of beams, made when it is first asked for."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from arno_shared.logs import get_logger
from arno_workers.engine.beams import Hypothesis
from arno_workers.engine.caches import Room, SlotCaches
from arno_workers.engine.decoder import Decoder, DecoderWeights
from arno_workers.engine.generation import GenerationRules
from arno_workers.engine.scheduler import Request, Step
from arno_workers.engine.staging import whole_numbers
from arno_workers.engine.stepper import DirectStepper, GraphStepper, Stepper

log = get_logger(__name__)

_USUAL_PROMPT_TOKENS = 447
"""What a model with 1,024 positions has room for behind a picture of 577 tokens."""
_USUAL_TOKENS = 1025
"""The longest answer that a task asks for, and its start token."""
_FIRST = Room(64, 64)


class SlotBank:
    """The slots for requests with one number of beams, and who stands in them."""

    def __init__(self, decoder: Decoder, stepper: Stepper, rules: GenerationRules, device: str) -> None:
        self.slots = decoder.slots
        self._decoder, self._stepper, self._rules, self._device = decoder, stepper, rules, device
        self._standing: dict[int, Request] = {}
        self._since: dict[int, int] = {}
        self._steps = 0

    def begin(self, requests: Sequence[Request], keys: Tensor, values: Tensor) -> None:
        """keys, values: of the cross-attention, (layers, requests, heads, image and prompt tokens, head width)."""
        slots = [request.slot for request in requests if request.slot is not None]
        limits = [request.max_new_tokens for request in requests]
        self._decoder.begin(self._tensor(slots), self._tensor(limits), keys, values)
        self._standing.update(zip(slots, requests, strict=True))
        self._since.update(dict.fromkeys(slots, self._steps))

    def step(self, step: Step, image_tokens: int) -> Iterator[tuple[Request, Hypothesis]]:
        """One token more for everybody; those whose answers are known to have ended."""
        tokens = len(self._rules.prefix) + step.steps - 1
        self._stepper.step(step.slots, image_tokens + step.prompt_tokens, tokens)
        self._steps += 1
        known = self._steps - self._stepper.behind
        # What was said before a slot was given away is not about who stands in it now.
        done = [slot for slot, done in enumerate(self._stepper.done()) if done]
        ended = [slot for slot in done if self._since.get(slot, known) < known]
        if ended:
            answers = self._decoder.beams.best(self._tensor(ended), tokens + 1)
            unsound = [slot for slot, answer in zip(ended, answers, strict=True) if not answer.is_sound]
            if unsound:
                self._decoder.caches.clear(self._tensor(unsound))
            for slot, hypothesis in zip(ended, answers, strict=True):
                del self._since[slot]
                yield self._standing.pop(slot), hypothesis

    def reset(self) -> None:
        self._standing.clear()
        self._since.clear()
        self._decoder.beams.stop_all()

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return whole_numbers(values, self._device)


class SlotBanks:
    """Makes banks when they are asked for."""

    def __init__(
        self,
        weights: DecoderWeights,
        rules: GenerationRules,
        image_tokens: int,
        device: str,
        how_many: Callable[[int], int],
    ) -> None:
        """`how_many` slots of so many bytes each are there room for?"""
        self._weights, self._rules, self._image_tokens = weights, rules, image_tokens
        self._device, self._how_many = device, how_many
        self._usual = Room(
            min(image_tokens + _USUAL_PROMPT_TOKENS, weights.max_positions),
            min(_USUAL_TOKENS, weights.max_positions),
        )
        self._banks: dict[int, SlotBank] = {}

    def __getitem__(self, num_beams: int) -> SlotBank:
        if num_beams not in self._banks:
            self._banks[num_beams] = self._make(self._rules.with_beams(num_beams))
        return self._banks[num_beams]

    def reset(self) -> None:
        for bank in self._banks.values():
            bank.reset()

    def slot_bytes(self, num_beams: int) -> int:
        weights = self._weights
        return SlotCaches.bytes_per_slot(
            layers=len(weights.layers),
            heads=weights.heads,
            width=weights.width,
            beams=num_beams,
            room=self._usual,
            dtype=weights.dtype,
        )

    def _make(self, rules: GenerationRules) -> SlotBank:
        on_cuda = torch.device(self._device).type == "cuda"
        # A CPU's caches begin small: pages that are used together lie together, and most answers are short. Where
        # graphs know their addresses, they should not move.
        room = self._usual if on_cuda else _FIRST
        slots = self._how_many(self.slot_bytes(rules.num_beams))
        while True:
            try:
                decoder = Decoder(self._weights, rules, slots, room, self._device)
                break
            except (torch.OutOfMemoryError, MemoryError):
                if slots == 1:
                    raise
                slots //= 2
                log.warning("out of memory: fewer slots", slots=slots, beams=rules.num_beams)
        stepper: Stepper = DirectStepper(decoder)
        if on_cuda:
            stepper = GraphStepper(decoder, self._image_tokens)
        with torch.inference_mode():
            stepper.warm_up()
        log.info("slots made", slots=slots, beams=rules.num_beams)
        return SlotBank(decoder, stepper, rules, self._device)
