"""Steps replayed as graphs answer what steps that are called answer, and nobody ends for somebody else.

Without a CUDA device, a stand-in for CUDA records and replays steps; the tests marked `gpu` need the real one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_shared.prompts import TASKS, Takes
from arno_shared.scenes import draw, make_scene
from arno_shared.settings import WorkerSettings
from arno_workers.engine import Answer
from arno_workers.engine import slots as slots_module
from arno_workers.engine.beams import Hypothesis
from arno_workers.engine.caches import Room
from arno_workers.engine.decoder import Decoder
from arno_workers.engine.florence import FlorenceReplica
from arno_workers.engine.locate import Located
from arno_workers.engine.scheduler import Picture, Request, Step, Work
from arno_workers.engine.slots import SlotBank
from arno_workers.engine.stepper import DirectStepper, GraphStepper
from tests.workers.engine.odd_models import TINY

IMAGE_TOKENS = 65
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Graph:
    """The step that was captured, to be done again."""

    def __init__(self) -> None:
        self.replay: Callable[[], None] = lambda: pytest.fail("nothing was captured")


class Event:
    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Cuda:
    """Stands in for CUDA graphs: while one captures, steps are recorded and not run."""

    def __init__(self) -> None:
        self.capturing: Graph | None = None
        self.ran: list[tuple[int, ...]] = []
        self.captured: list[tuple[int, ...]] = []

    @contextmanager
    def graph(self, graph: Graph, **_: object) -> Iterator[None]:
        self.capturing = graph
        yield
        self.capturing = None

    def stepping(self, step: Callable[..., None]) -> Callable[..., None]:
        def stepped(decoder: Any, *shape: int) -> None:
            moves = decoder.caches.moves

            def run() -> None:
                assert decoder.caches.moves == moves, "a graph was replayed whose memory has moved"
                self.ran.append(shape)
                step(decoder, *shape)

            if self.capturing is None:
                self.ran.append(shape)
                step(decoder, *shape)
            else:
                self.captured.append(shape)
                self.capturing.replay = run

        return stepped


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    fake, ones = Cuda(), torch.ones
    monkeypatch.setattr(torch.cuda, "graph", fake.graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch, "ones", lambda *shape, pin_memory, **kinds: ones(*shape, **kinds))
    return fake


MUCH = Room(1152, 1152)


def _decoder(cuda: Cuda, slots: int, room: Room = MUCH) -> Any:
    """Its slots are done after so many steps as they have numbers: slot 3 after three."""
    beams = SimpleNamespace(done=torch.zeros(slots, dtype=torch.bool))
    caches = SimpleNamespace(room=room, moves=0)

    def make_room(prompt_tokens: int, tokens: int) -> None:
        if prompt_tokens > caches.room.prompt_tokens or tokens > caches.room.tokens:
            caches.room, caches.moves = Room(2 * prompt_tokens, 2 * tokens), caches.moves + 1

    caches.make_room = make_room

    def step(*_: Any) -> None:
        beams.done = torch.arange(slots) <= len(cuda.ran)

    decoder = SimpleNamespace(slots=slots, caches=caches, beams=beams)
    decoder.step = partial(cuda.stepping(step), decoder)
    return decoder


@pytest.mark.parametrize(("slots", "room"), [(64, MUCH), (5, Room(80, 20)), (1, Room(66, 1))], ids=str)
def test_a_shape_has_room_for_the_step_and_no_more_than_the_decoder(cuda: Cuda, slots: int, room: Room) -> None:
    stepper, random, most = GraphStepper(_decoder(cuda, slots, room), IMAGE_TOKENS), Random(1), (slots, *room)
    steps = [
        (random.randint(1, slots), random.randint(IMAGE_TOKENS + 1, room.prompt_tokens), random.randint(1, room.tokens))
        for _ in range(500)
    ]
    for step in [*steps, most, (1, IMAGE_TOKENS + 1, 1)]:
        for shape, needed, there_is in zip(stepper.shape(*step), step, most, strict=True):
            assert needed <= shape <= there_is


def test_there_are_few_shapes(cuda: Cuda) -> None:
    """Each one costs a graph; and none is twice as large as it must be, but for the smallest."""
    stepper = GraphStepper(_decoder(cuda, slots=64), IMAGE_TOKENS)
    lengths = [1, 31, 32, 33, 64, 65, 100, 129, 255, 257, 511, 512, 513, 700, 1024, 1025, 1087]
    steps = list(product(range(1, 65), (IMAGE_TOKENS + length for length in lengths), [*lengths, 1152]))
    assert len({stepper.shape(*step) for step in steps}) <= 4 * 7 * 7
    assert stepper.shape(1, IMAGE_TOKENS + 1, 1) == stepper.shape(8, IMAGE_TOKENS + 20, 30)
    for step in steps:
        slots, prompt_tokens, tokens = stepper.shape(*step)
        assert slots < 2 * max(step[0], 5)
        assert prompt_tokens - IMAGE_TOKENS < 2 * max(step[1] - IMAGE_TOKENS, 17)
        assert tokens < 2 * max(step[2], 17)


def test_each_shape_is_called_once_then_captured_once_then_replayed(cuda: Cuda) -> None:
    stepper = GraphStepper(_decoder(cuda, slots=64), IMAGE_TOKENS)
    small, large = (3, 80, 5), (20, 80, 5)
    for _ in range(4):
        stepper.step(*small)
    for _ in range(3):
        stepper.step(*large)
    stepper.step(*small)
    shapes = [stepper.shape(*small)] * 4 + [stepper.shape(*large)] * 3 + [stepper.shape(*small)]
    assert cuda.ran == shapes
    assert cuda.captured == [stepper.shape(*small), stepper.shape(*large)]


def test_every_number_of_slots_is_captured_before_anybody_comes(cuda: Cuda) -> None:
    stepper = GraphStepper(_decoder(cuda, slots=50), IMAGE_TOKENS)
    stepper.warm_up()
    before = list(cuda.captured)
    for slots in range(1, 51):
        stepper.step(slots, IMAGE_TOKENS + 20, 30)
    assert cuda.captured == before
    assert [slots for slots, _, _ in before] == [8, 16, 32, 50]


@pytest.mark.parametrize("longer", [(3, 200, 5), (3, 80, 60)], ids=["prompt", "answer"])
def test_when_caches_move_everything_is_captured_anew(cuda: Cuda, longer: tuple[int, int, int]) -> None:
    """A graph knows the addresses of what was there when it was captured."""
    decoder = _decoder(cuda, slots=64, room=Room(100, 40))
    stepper, step = GraphStepper(decoder, IMAGE_TOKENS), (3, 80, 5)
    for _ in range(3):
        stepper.step(*step)
    stepper.step(*longer)
    assert decoder.caches.moves == 1
    before = len(cuda.captured)
    assert before == 1
    for _ in range(3):
        stepper.step(*step)
    assert cuda.captured[before:] == [stepper.shape(*step)]
    assert len(cuda.ran) == 7


def test_what_is_heard_is_the_step_before_the_last(cuda: Cuda) -> None:
    stepper = GraphStepper(_decoder(cuda, slots=16), IMAGE_TOKENS)
    assert stepper.done() == []
    stepper.step(16, 70, 3)
    assert stepper.done() == []
    for steps in range(2, 12):
        stepper.step(16, 70, 3)
        assert sum(stepper.done()) == 1 + (steps - stepper.behind)


def test_a_step_that_is_called_is_heard_at_once(cuda: Cuda) -> None:
    stepper = DirectStepper(_decoder(cuda, slots=16))
    for steps in range(1, 12):
        stepper.step(9, 70, 3)
        assert len(stepper.done()) == 9
        assert sum(stepper.done()) == min(9, 1 + steps)


class Script:
    """A stepper and its decoder: after each step, the slots that somebody's answer ended in are done until the next
    one begins there. What is heard of it is `behind` steps old."""

    def __init__(self, slots: int, behind: int) -> None:
        self.slots, self.behind = slots, behind
        self.left = dict.fromkeys(range(slots), 0)
        self.beams = self
        self.read: list[list[int]] = []
        self._heard: list[list[bool]] = []

    def begin(self, slots: Tensor, max_new_tokens: Tensor, keys: Any, values: Any) -> None:
        self.left.update(zip(slots.tolist(), max_new_tokens.tolist(), strict=True))

    def step(self, slots: int, prompt_tokens: int, tokens: int) -> None:
        for slot in range(slots):
            self.left[slot] = max(0, self.left[slot] - 1)
        self._heard.append([left == 0 for left in self.left.values()])

    def done(self) -> list[bool]:
        known = len(self._heard) - 1 - self.behind
        return self._heard[known] if known >= 0 else []

    def best(self, slots: Tensor, tokens: int) -> list[Hypothesis]:
        self.read.append(slots.tolist())
        assert all(self.left[slot] == 0 for slot in slots.tolist()), "somebody in the middle of an answer was ended"
        return [Hypothesis((slot,), (0.0,), 0, truncated=False) for slot in slots.tolist()]

    def stop_all(self) -> None:
        self.left = dict.fromkeys(self.left, 0)


RULES: Any = SimpleNamespace(prefix=(2, 0))


def _bank(script: Script) -> SlotBank:
    decoder: Any = script
    return SlotBank(decoder, script, RULES, "cpu")


def _request(slot: int, steps: int) -> Request:
    return Request(Picture(None, Lane.BULK), (5, 6), 3, steps, slot=slot)


def _begin(bank: SlotBank, *requests: Request) -> None:
    nothing = torch.zeros(1, len(requests), 1, 1, 1)
    bank.begin(requests, nothing, nothing)


def _ended(bank: SlotBank) -> list[Request]:
    step = Step(num_beams=3, slots=bank.slots, prompt_tokens=2, steps=1)
    return [request for request, _ in bank.step(step, IMAGE_TOKENS)]


@pytest.mark.parametrize("behind", [0, 1])
def test_who_gets_a_slot_is_not_ended_by_what_is_heard_of_the_last_one(behind: int) -> None:
    script = Script(slots=3, behind=behind)
    bank = _bank(script)
    first, beside = _request(1, steps=2), _request(2, steps=50)
    _begin(bank, first, beside)
    assert [_ended(bank) for _ in range(2 + behind)] == [[]] * (1 + behind) + [[first]]
    second = _request(1, steps=4)
    _begin(bank, second)
    assert [_ended(bank) for _ in range(4 + behind)] == [[]] * (3 + behind) + [[second]]


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
            assert lasts.pop(id(request)) == now
            assert request.slot is not None
            free.add(request.slot)
    assert begun > 150
    assert len(lasts) == 5 - len(free)


PROMPTS = [
    Prompt(
        task=task.token,
        text="a red circle" if task.takes is Takes.TEXT else None,
        region=(5, 10, 60, 70) if task.takes is Takes.REGION else None,
    )
    for task in TASKS.values()
]


def _work(replica: FlorenceReplica, count: int, long_prompts: Sequence[int] = ()) -> list[Picture]:
    """Requests of different lengths, limits and beams, so that slots change hands all the time.

    In the middle of them come prompts of so many words.
    """
    random, pictures = Random(3), []
    for seed in range(count):
        image = draw(make_scene(500 + seed))
        picture = Picture(replica.prepare(image), Lane.BULK)
        for prompt in random.sample(PROMPTS, 5):
            options = GenerationOptions(
                num_beams=random.choice((1, 3, 3, 5)), max_new_tokens=random.choice((2, 3, 5, 48))
            )
            ask = replica.ask(prompt, *image.size, options)
            picture.requests.append(
                Request(picture, replica.prompt_ids(ask.sentence), ask.num_beams, ask.max_new_tokens)
            )
        pictures.append(picture)
    for picture, words in zip(pictures[count // 2 :], long_prompts, strict=False):
        prompt_ids = replica.prompt_ids("x y " * (words // 2))
        picture.requests += [Request(picture, prompt_ids, num_beams, 12) for num_beams in (1, 3)]
    return pictures


def _answers(replica: FlorenceReplica, count: int, long_prompts: Sequence[int] = ()) -> list[Answer]:
    pictures = _work(replica, count, long_prompts)
    replica.answer_all(pictures)
    return [request.answer for picture in pictures for request in picture.requests]


def _replica(device: str, slots: int, dtype: str = "float32") -> FlorenceReplica:
    settings: Any = {"slots": slots, "dtype": dtype, "max_batch_images": 8}
    return FlorenceReplica(Located(str(TINY), None), WorkerSettings(**settings), device)


def _check(found: Sequence[Answer], expected: Sequence[Answer]) -> None:
    assert [answer.ids for answer in found] == [answer.ids for answer in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
        assert (one.forced, one.truncated) == (other.forced, other.truncated)


@pytest.mark.parametrize("slots", [1, 3, 12])
def test_replayed_steps_answer_what_called_steps_answer(
    slots: int, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the graphs' shapes, and flags that are heard late, on a CPU."""
    expected = _answers(_replica("cpu", slots=12), 10, long_prompts=(150, 400))
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "step", cuda.stepping(Decoder.step))
        patch.setattr(slots_module, "DirectStepper", lambda decoder: GraphStepper(decoder, IMAGE_TOKENS))
        found = _answers(_replica("cpu", slots), 10, long_prompts=(150, 400))
    _check(found, expected)
    assert len(cuda.ran) > 4 * len(cuda.captured) > 0


def _captures(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, int, int]]]:
    """Which stepper captures which shape, from now on."""
    captures, capture = [], GraphStepper._capture

    def watched(self: GraphStepper, shape: tuple[int, int, int]) -> Any:
        captures.append((id(self), shape))
        return capture(self, shape)

    monkeypatch.setattr(GraphStepper, "_capture", watched)
    return captures


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32 as well: by default they are rounded, differently in batches of different sizes."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("slots", [1, 3, 40])
def test_on_cuda_graphs_answer_what_called_steps_answer(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few slots are given away all the time; flags of who stood there before end nobody."""
    found = _answers(_replica("cuda", slots), count=60)
    monkeypatch.setattr(slots_module, "GraphStepper", lambda decoder, _: DirectStepper(decoder))
    _check(found, _answers(_replica("cuda", 40), count=60))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.usefixtures("exact")
def test_on_cuda_each_shape_is_captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    captures, replica = _captures(monkeypatch), _replica("cuda", slots=40)
    first = _answers(replica, count=40)
    second = _answers(replica, count=40)
    _check(second, first)
    assert captures
    assert len(captures) == len(set(captures))
    before = len(captures)
    _check(_answers(replica, count=40), first)
    assert len(captures) == before


@pytest.mark.gpu
@needs_cuda
@pytest.mark.usefixtures("exact")
def test_on_cuda_longer_prompts_than_usual_change_nobodys_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caches move, in the middle of other answers, and what was captured before is captured anew."""
    replica, long_prompts = _replica("cuda", slots=8), (300, 700, 1000)
    shorter = [_answers(replica, count=20) for _ in range(2)]
    found = _answers(replica, 20, long_prompts)
    _check(_answers(replica, count=20), shorter[0])
    monkeypatch.setattr(slots_module, "GraphStepper", lambda decoder, _: DirectStepper(decoder))
    _check(found, _answers(_replica("cuda", slots=8), 20, long_prompts))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.usefixtures("exact")
def test_on_cuda_answers_after_a_reset_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = _replica("cuda", slots=6)
    expected = _answers(replica, count=12)
    run, steps = replica.run, 0

    def fails_later(work: Work) -> Any:
        nonlocal steps
        steps += 1
        if steps > 4:
            raise RuntimeError("a step failed")
        return run(work)

    with monkeypatch.context() as patch:
        patch.setattr(replica, "run", fails_later)
        with pytest.raises(RuntimeError, match="a step failed"):
            replica.answer_all(_work(replica, count=4))
    replica.reset()
    _check(_answers(replica, count=12), expected)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_on_cuda_half_precision_answers_too(dtype: str) -> None:
    replica = _replica("cuda", slots=20, dtype=dtype)
    replica.warm_up()
    assert all(answer.ids and answer.ids[-1] == 2 for answer in _answers(replica, count=20))
