"""The slots in which answers grow: a bank for each number of beams, made when it is first asked for."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from arno_shared.logs import get_logger
from arno_workers.engine.admission import Admission
from arno_workers.engine.beams import Hypothesis
from arno_workers.engine.caches import Room, SlotCaches
from arno_workers.engine.decoder import Decoder, DecoderWeights
from arno_workers.engine.encoder import TextEncoder
from arno_workers.engine.functions import Extent, Reach
from arno_workers.engine.generation import GenerationRules
from arno_workers.engine.graphs import Called, Graphs, Place, Runner
from arno_workers.engine.scheduler import Request, Step
from arno_workers.engine.staging import Arrival, is_cuda, whole_numbers
from arno_workers.engine.stepper import DirectStepper, GraphStepper, Stepper

log = get_logger(__name__)

_USUAL_PROMPT_TOKENS = 447
"""What a model with 1,024 positions has room for behind a picture of 577 tokens."""
_USUAL_TOKENS = 1025
"""The longest answer that a task asks for, and its start token."""
_FIRST = Room(64, 64)


class SlotBank:
    """The slots for requests with one number of beams, and who stands in them."""

    def __init__(
        self,
        decoder: Decoder,
        stepper: Stepper,
        admission: Admission,
        runner: Runner,
        rules: GenerationRules,
        device: str,
    ) -> None:
        self.slots, self.runner = decoder.slots, runner
        self.is_called = False
        """There were graphs of its steps, and are no more."""
        self._decoder, self._stepper, self._admission = decoder, stepper, admission
        self._rules, self._device = rules, device
        self._standing: dict[int, Request] = {}
        self._since: dict[int, int] = {}
        self._leaving: list[tuple[list[int], Arrival]] = []
        self._steps = 0

    def capture(self, prompt_lengths: Iterable[int], features: Tensor) -> None:
        """Everything that will be done for prompts of these lengths, while nobody stands in any slot; features: of
        as many pictures as are ever admitted together. Raises CaptureFailed."""
        for length in prompt_lengths:
            self._admission.capture(length, features)
        self._stepper.warm_up()
        self.reset()

    def begin(self, requests: Sequence[Request], features: Tensor) -> None:
        """features: of their pictures, (requests, image tokens, width of the model)."""
        slots = [request.slot for request in requests if request.slot is not None]
        limits = [request.max_new_tokens for request in requests]
        prompt_ids = self._tensor([request.prompt_ids for request in requests])
        self._make_room(features.shape[1] + prompt_ids.shape[1], 0)
        self._admission(features, prompt_ids, self._tensor(slots), self._tensor(limits))
        self._standing.update(zip(slots, requests, strict=True))
        self._since.update(dict.fromkeys(slots, self._steps))

    def step(self, step: Step, image_tokens: int) -> Iterator[tuple[Request, Hypothesis]]:
        """One token more for everybody; those whose answers have come back."""
        before = len(self._rules.prefix) - 1
        extent = Extent(
            image_tokens + step.prompt_tokens, tuple(Reach(slots, before + steps) for slots, steps in step.reaches)
        )
        self._make_room(extent.prompt_tokens, extent.tokens)
        for _ in range(step.times):
            self._stepper.step(extent)
        self._steps += step.times
        leaving, self._leaving = self._leaving, []
        if ended := self._ended():
            # The next step need not wait until the host has read them.
            record = self._decoder.beams.record(self._tensor(ended), extent.tokens + 1)
            self._leaving.append((ended, Arrival(*record)))
        if not self._stepper.behind or not self._since:
            # Nothing is worth another step in the meantime.
            leaving, self._leaving = leaving + self._leaving, []
        for slots, arrival in leaving:
            yield from self._leave(slots, self._decoder.beams.read(*arrival.get()))

    def reset(self) -> None:
        self._standing.clear()
        self._since.clear()
        self._leaving.clear()
        self._decoder.beams.stop_all()

    def _make_room(self, prompt_tokens: int, tokens: int) -> None:
        """For what is longer than usual. Graphs know the addresses of what they were captured with: once it has moved,
        they are of no use, and this is no time to capture others."""
        caches = self._decoder.caches
        before = caches.moves
        caches.make_room(prompt_tokens, tokens)
        if caches.moves != before and self.runner.drop():
            self.is_called = True
            log.warning("longer than usual: from now on steps are called", prompt_tokens=prompt_tokens, tokens=tokens)

    def _ended(self) -> list[int]:
        """The slots whose answers are known to have ended, once each."""
        known = self._steps - self._stepper.behind
        # What was said before a slot was given away is not about who stands in it now.
        ended = [
            slot for slot, done in enumerate(self._stepper.done()) if done and self._since.get(slot, known) < known
        ]
        for slot in ended:
            del self._since[slot]
        return ended

    def _leave(self, slots: Sequence[int], answers: Sequence[Hypothesis]) -> Iterator[tuple[Request, Hypothesis]]:
        if unsound := [slot for slot, answer in zip(slots, answers, strict=True) if not answer.is_sound]:
            self._decoder.caches.clear(self._tensor(unsound))
        for slot, answer in zip(slots, answers, strict=True):
            yield self._standing.pop(slot), answer

    def _tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return whole_numbers(values, self._device)


class SlotBanks:
    """Makes banks when they are asked for."""

    def __init__(
        self,
        weights: DecoderWeights,
        encoder: TextEncoder,
        rules: GenerationRules,
        image_tokens: int,
        device: str,
        how_many: Callable[[int], int],
    ) -> None:
        """`how_many` slots of so many bytes each are there room for?"""
        self._weights, self._encoder, self._rules, self._image_tokens = weights, encoder, rules, image_tokens
        self._device, self._how_many = device, how_many
        self._place = Place() if is_cuda(device) else None
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

    def called(self) -> list[int]:
        """The numbers of beams whose slots lost their graphs."""
        return [num_beams for num_beams, bank in list(self._banks.items()) if bank.is_called]

    def drop_graphs(self) -> None:
        for bank in self._banks.values():
            bank.runner.drop()

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
        # A CPU's caches begin small: pages that are used together lie together, and most answers are short. Where
        # graphs know their addresses, they should not move.
        decoder = self._decoder(rules, self._usual if self._place else _FIRST)
        runner: Runner = Graphs(self._place) if self._place else Called()
        stepper = GraphStepper(decoder, runner, self._image_tokens) if self._place else DirectStepper(decoder)
        admission = Admission(self._encoder, decoder, runner)
        log.info("slots made", slots=decoder.slots, beams=rules.num_beams)
        return SlotBank(decoder, stepper, admission, runner, rules, self._device)

    def _decoder(self, rules: GenerationRules, room: Room) -> Decoder:
        slots = self._how_many(self.slot_bytes(rules.num_beams))
        while True:
            try:
                return Decoder(self._weights, rules, slots, room, self._device)
            except (torch.OutOfMemoryError, MemoryError):
                if slots == 1:
                    raise
                slots //= 2
                log.warning("out of memory: fewer slots", slots=slots, beams=rules.num_beams)
