"""Nobody ends for somebody else, however late it is heard who is done; and everybody gets his own answer."""

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from arno_shared.names import Lane
from arno_workers.engine.beams import Hypothesis
from arno_workers.engine.functions import Extent
from arno_workers.engine.graphs import Called
from arno_workers.engine.scheduler import Picture, Request, Step
from arno_workers.engine.slots import SlotBank

IMAGE_TOKENS = 65


class Script:
    """A stepper and its decoder: after each step, the slots that somebody's answer ended in are done until the next
    one begins there. What is heard of it is `behind` steps old."""

    def __init__(self, slots: int, behind: int) -> None:
        self.slots, self.behind = slots, behind
        self.left = dict.fromkeys(range(slots), 0)
        self.beams = self.caches = self
        self.moves = 0
        self._heard: list[list[bool]] = []

    def begin(self, features: Tensor, prompt_ids: Tensor, slots: Tensor, limits: Tensor) -> None:
        self.left.update(zip(slots.tolist(), limits.tolist(), strict=True))

    def step(self, extent: Extent) -> None:
        for slot in range(extent.slots):
            self.left[slot] = max(0, self.left[slot] - 1)
        self._heard.append([left == 0 for left in self.left.values()])

    def done(self) -> list[bool]:
        known = len(self._heard) - 1 - self.behind
        return self._heard[known] if known >= 0 else []

    def record(self, slots: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        assert all(self.left[slot] == 0 for slot in slots.tolist()), "somebody in the middle of an answer was ended"
        return slots, slots

    def read(self, whole: Tensor, real: Tensor) -> list[Hypothesis]:
        return [Hypothesis((slot,), (0.0,), 0, truncated=False) for slot in whole.tolist()]

    def make_room(self, prompt_tokens: int, tokens: int) -> None:
        self.moves += prompt_tokens > 1000

    def stop_all(self) -> None:
        self.left = dict.fromkeys(self.left, 0)


RULES: Any = SimpleNamespace(prefix=(2, 0))


def _bank(script: Script) -> SlotBank:
    decoder: Any = script
    admission: Any = script.begin
    return SlotBank(decoder, decoder, admission, Called(), RULES, "cpu")


def _request(slot: int, steps: int) -> Request:
    return Request(Picture(None, Lane.BULK), (5, 6), 3, steps, slot=slot)


def _begin(bank: SlotBank, *requests: Request) -> None:
    bank.begin(requests, torch.zeros(len(requests), IMAGE_TOKENS, 4))


def _ended(bank: SlotBank) -> list[Request]:
    step = Step(num_beams=3, prompt_tokens=2, reaches=((bank.slots, 1),))
    return [request for request, _ in bank.step(step, IMAGE_TOKENS)]


@pytest.mark.parametrize("behind", [0, 1])
def test_who_gets_a_slot_is_not_ended_by_what_is_heard_of_the_last_one(behind: int) -> None:
    script = Script(slots=3, behind=behind)
    bank = _bank(script)
    first, beside = _request(1, steps=2), _request(2, steps=50)
    _begin(bank, first, beside)
    # Heard late, and read later: others are in the middle of their answers.
    late = 2 * behind
    assert [_ended(bank) for _ in range(2 + late)] == [[]] * (1 + late) + [[first]]
    second = _request(1, steps=4)
    _begin(bank, second)
    assert [_ended(bank) for _ in range(4 + late)] == [[]] * (3 + late) + [[second]]


@pytest.mark.parametrize("behind", [0, 1])
def test_an_answer_of_one_step_ends_as_soon_as_it_can_be_heard(behind: int) -> None:
    bank = _bank(Script(slots=2, behind=behind))
    for _ in range(3):
        request = _request(0, steps=1)
        _begin(bank, request)
        assert [_ended(bank) for _ in range(1 + behind)] == [[]] * behind + [[request]]


@pytest.mark.parametrize("behind", [0, 1])
def test_nobody_who_begins_after_a_reset_is_ended_by_it(behind: int) -> None:
    script = Script(slots=2, behind=behind)
    bank = _bank(script)
    _begin(bank, _request(0, steps=9), _request(1, steps=9))
    for _ in range(3):
        assert _ended(bank) == []
    bank.reset()
    assert script.left == {0: 0, 1: 0}
    request = _request(1, steps=3)
    _begin(bank, request)
    assert [_ended(bank) for _ in range(3 + behind)] == [[]] * (2 + behind) + [[request]]


@pytest.mark.parametrize("behind", [0, 1])
def test_whoever_comes_and_goes_everybody_is_ended_once_and_at_his_end(behind: int) -> None:
    random, script = Random(7), Script(slots=5, behind=behind)
    bank, free, lasts, begun = _bank(script), set(range(5)), {}, 0
    for now in range(400):
        newcomers = [_request(free.pop(), random.randint(1, 9)) for _ in range(random.randint(0, len(free)))]
        if newcomers:
            _begin(bank, *newcomers)
            lasts.update({id(one): now + one.max_new_tokens - 1 + behind for one in newcomers})
            begun += len(newcomers)
        for request in _ended(bank):
            # What has ended is read a step later where others go on.
            assert 0 <= now - lasts.pop(id(request)) <= behind
            assert request.slot is not None
            free.add(request.slot)
    assert begun > 150
    assert len(lasts) == 5 - len(free)
