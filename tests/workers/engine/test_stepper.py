"""A step that is replayed reaches as far as it must, and what became of it is heard without waiting for it."""

from collections.abc import Iterator
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from arno_workers.engine.caches import Room
from arno_workers.engine.functions import Extent, Reach
from arno_workers.engine.graphs import Graphs, Place
from arno_workers.engine.stepper import DirectStepper, GraphStepper
from tests.workers.engine.cuda_stand_in import StandInCuda, stand_in_cuda

IMAGE_TOKENS = 65
USUAL = Room(512, 1025)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def cuda() -> Iterator[StandInCuda]:
    with stand_in_cuda() as cuda:
        yield cuda


class Steps:
    """A decoder that does nothing but count: slot 3 is done after three steps."""

    def __init__(self, slots: int, room: Room = USUAL, *, by_length: bool = False) -> None:
        self.slots, self.by_length, self.caches = slots, by_length, SimpleNamespace(room=room)
        self.beams = SimpleNamespace(done=torch.zeros(slots + 1, dtype=torch.bool))
        self._steps = torch.zeros((), dtype=torch.long)
        self.called: list[Extent] = []

    def step(self, extent: Extent) -> None:
        self.called.append(extent)
        self._steps += 1
        self.beams.done.copy_(torch.arange(self.slots + 1) < self._steps)


def extent(slots: int, prompt_tokens: int, tokens: int) -> Extent:
    return Extent(prompt_tokens, (Reach(slots, tokens),))


def graph_stepper(decoder: Any) -> GraphStepper:
    return GraphStepper(decoder, Graphs(Place()), IMAGE_TOKENS)


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize(
    ("slots", "room"), [(64, USUAL), (5, Room(80, 20)), (1, Room(66, 1)), (50, Room(200, 90))], ids=str
)
def test_every_step_that_fits_the_caches_has_a_graph_which_has_room_for_it(
    cuda: StandInCuda, slots: int, room: Room, by_length: bool
) -> None:
    decoder = Steps(slots, room, by_length=by_length)
    stepper = graph_stepper(decoder)
    stepper.warm_up()
    called, captured = len(decoder.called), cuda.captures
    lengths = {IMAGE_TOKENS + 1, 79, 80, 81, 127, 128, 129, room.prompt_tokens}
    for shape in product({1, 2, 7, 8, 9, 33, slots}, lengths, {1, 31, 32, 33, 129, room.tokens}):
        needed = extent(*shape)
        if not needed.is_within(extent(slots, *room)):
            continue
        serves = stepper.extent(needed)
        assert needed.is_within(serves)
        assert serves.is_within(extent(slots, *room))
        assert serves.slots < 2 * max(needed.slots, 5)
        stepper.step(needed)
    assert (len(decoder.called), cuda.captures) == (called, captured)


def test_there_are_few_graphs_and_fewer_where_attention_goes_by_length() -> None:
    with stand_in_cuda() as cuda:
        graph_stepper(Steps(512)).warm_up()
        assert cuda.captures == 7 * 2 * 4
    with stand_in_cuda() as cuda:
        graph_stepper(Steps(512, by_length=True)).warm_up()
        assert cuda.captures == 7 * 4


def test_keys_of_captured_prompts_divide_well(cuda: StandInCuda) -> None:
    stepper = GraphStepper(Steps(512, Room(1024, 1025)), Graphs(Place()), image_tokens=577)  # type: ignore[arg-type]
    stepper.warm_up()
    assert {stepper.extent(extent(1, tokens, 5)).prompt_tokens for tokens in range(578, 1025)} == {640, 1024}


def test_what_is_longer_than_anything_captured_is_called_and_nothing_is_captured_for_it(cuda: StandInCuda) -> None:
    decoder = Steps(16, Room(100, 40))
    stepper = graph_stepper(decoder)
    stepper.warm_up()
    captured = cuda.captures
    decoder.called.clear()
    longer = [extent(3, 101, 5), extent(3, 80, 41)]
    for needed in longer * 3:
        stepper.step(needed)
    assert decoder.called == longer * 3
    assert cuda.captures == captured


def test_without_graphs_steps_are_called_just_as_they_are(cuda: StandInCuda) -> None:
    decoder = Steps(16)
    stepper, needed = graph_stepper(decoder), Extent(80, (Reach(8, 3), Reach(11, 90)))
    stepper.step(needed)
    assert decoder.called == [needed]


def test_what_is_heard_is_the_step_before_the_last(cuda: StandInCuda) -> None:
    decoder = Steps(16)
    stepper = graph_stepper(decoder)
    assert stepper.done() == []
    stepper.step(extent(16, 70, 3))
    assert stepper.done() == []
    for steps in range(2, 12):
        stepper.step(extent(16, 70, 3))
        assert stepper.done() == [slot < steps - stepper.behind for slot in range(16)]


def test_a_step_that_is_called_is_heard_at_once() -> None:
    stepper = DirectStepper(Steps(16))  # type: ignore[arg-type]
    for steps in range(1, 12):
        stepper.step(extent(9, 70, 3))
        assert stepper.done() == [slot < steps for slot in range(9)]
