"""A replica whose work is recorded as graphs answers what it answers when everything is called.

Without a CUDA device, a stand-in for CUDA records and replays; the tests marked `gpu` need the real one.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import torch

from arno_shared.errors import ModelUnusable
from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_shared.prompts import TASKS, Takes
from arno_shared.scenes import draw, make_scene
from arno_shared.settings import WorkerSettings
from arno_workers.engine import Answer
from arno_workers.engine import slots as slots_module
from arno_workers.engine.checkpoint.load import Sources, load_checkpoint
from arno_workers.engine.checkpoint.locate import Located
from arno_workers.engine.decoder import Decoder
from arno_workers.engine.florence import FlorenceReplica
from arno_workers.engine.precision import keep_float32
from arno_workers.engine.scheduler import Picture, Request
from tests.workers.engine.conftest import fail_in_the_middle
from tests.workers.engine.cuda_stand_in import stand_in_cuda
from tests.workers.engine.odd_models import TINY

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    keep_float32()


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


def _replica(device: str, slots: int, dtype: str = "float32", *, overlap: bool = False) -> FlorenceReplica:
    settings: Any = {"slots": slots, "dtype": dtype, "max_batch_images": 8, "overlap": overlap}
    return FlorenceReplica(
        load_checkpoint(Sources(Located("arno-tiny", TINY, None))), WorkerSettings(**settings), device
    )


def _check(found: Sequence[Answer], expected: Sequence[Answer]) -> None:
    assert [answer.ids for answer in found] == [answer.ids for answer in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
        assert (one.forced, one.truncated) == (other.forced, other.truncated)


def _captured(slots: int, device: str = "cpu", dtype: str = "float32") -> FlorenceReplica:
    """With a graph for everything, of few sizes."""
    replica = _replica(device, slots, dtype)
    replica.limits.vision_images = replica.limits.encoder_requests = 4
    replica.capture()
    return replica


@pytest.mark.parametrize("slots", [1, 12])
def test_what_is_replayed_answers_what_is_called(slots: int) -> None:
    expected = _answers(_replica("cpu", slots=12), 6)
    with stand_in_cuda() as cuda:
        replica = _captured(slots)
        assert replica.execution == "plain, graphs"
        captured = cuda.captures
        found = _answers(replica, 6)
        assert cuda.replays > 30
        assert cuda.captures == captured
    _check(found, expected)


@pytest.mark.parametrize("captured", [False, True])
def test_pictures_that_are_looked_at_beside_the_steps_are_answered_alike(captured: bool) -> None:
    """They are heard of late; with one in the tower at a time, there is always one under way."""
    expected = _answers(_replica("cpu", slots=12), 5)
    with stand_in_cuda():
        replica = _replica("cpu", slots=4, overlap=True)
        replica.limits.vision_images = replica.limits.encoder_requests = 1
        if captured:
            replica.capture()
        assert replica.limits.looks_ahead
        found = _answers(replica, 5)
        fail_in_the_middle(replica, _work(replica, count=4))
        again = _answers(replica, 5)
    _check(found, expected)
    _check(again, expected)


def test_prompts_longer_than_usual_are_called_from_then_on_and_nothing_is_captured_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caches move, in the middle of other answers: what was captured knows the old addresses."""
    expected = _answers(_replica("cpu", slots=12), 6, long_prompts=(150, 400))
    monkeypatch.setattr(slots_module, "_USUAL_PROMPT_TOKENS", 40)
    with stand_in_cuda() as cuda:
        replica = _captured(slots=6)
        captured = cuda.captures
        found = _answers(replica, 6, long_prompts=(150, 400))
        assert "graphs but for 3 beams, which were asked for more than usual" in replica.execution
        assert cuda.captures == captured
        before = cuda.replays
        again = _answers(replica, 3)
        assert cuda.replays > before, "the tower's graphs have nothing to do with the caches"
    _check(found, expected)
    _check(again, _answers(_replica("cpu", slots=12), 3))


@pytest.mark.parametrize("fails_at", [0, 2, 20])
def test_a_capture_that_fails_leaves_a_replica_that_works(fails_at: int) -> None:
    """The first, one in the middle of the tower's, and one when the tower's and some others are there."""
    expected = _answers(_replica("cpu", slots=12), 3)
    with stand_in_cuda() as cuda:
        cuda.fails_at = fails_at
        replica = _captured(slots=6)
        assert replica.execution.startswith("plain, without graphs: (")
        assert "CUDA out of memory, in the middle of a capture" in replica.execution
        before = cuda.replays
        found = _answers(replica, 3)
        assert cuda.replays == before
    _check(found, expected)


def test_where_there_is_no_room_for_what_graphs_need_everything_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slots of greedy search, which nobody has asked for yet."""

    def no_room(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    expected = _answers(_replica("cpu", slots=12), 3)
    with stand_in_cuda() as cuda:
        replica = _replica("cpu", slots=6)
        replica.limits.vision_images = 2
        replica.warm_up()
        with monkeypatch.context() as patch:
            patch.setattr(slots_module, "Decoder", no_room)
            replica.capture()
        assert replica.execution == "plain, without graphs: CUDA out of memory"
        before = cuda.replays
        found = _answers(replica, 3)
        assert cuda.replays == before
    _check(found, expected)


def test_a_device_that_does_nothing_after_a_failed_capture_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with stand_in_cuda() as cuda:
        cuda.fails_at = 1
        replica = _replica("cpu", slots=6)
        replica.limits.vision_images = 2
        capture = cuda.graph

        def fails(*given: Any, **options: Any) -> Any:
            monkeypatch.setattr(Decoder, "step", lost)
            return capture(*given, **options)

        monkeypatch.setattr(torch.cuda, "graph", fails)
        with pytest.raises(ModelUnusable, match="ARNO_WORKER__GRAPHS=false"):
            replica.capture()


def test_answers_after_a_reset_are_what_they_were() -> None:
    with stand_in_cuda():
        replica = _captured(slots=6)
        expected = _answers(replica, 3)
        fail_in_the_middle(replica, _work(replica, count=4))
        _check(_answers(replica, 3), expected)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("slots", [1, 3, 40])
def test_on_cuda_graphs_answer_what_a_cpu_answers(slots: int) -> None:
    """Few slots are given away all the time; flags of who stood there before end nobody."""
    replica = _captured(slots, "cuda")
    assert replica.execution.endswith(", graphs")
    _check(_answers(replica, count=20), _answers(_replica("cpu", 40), count=20))


@pytest.mark.gpu
@needs_cuda
def test_on_cuda_longer_prompts_than_usual_change_nobodys_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_USUAL_PROMPT_TOKENS", 40)
    replica, long_prompts = _captured(8, "cuda"), (150, 400, 700)
    _check(_answers(replica, 12, long_prompts), _answers(_replica("cpu", 40), 12, long_prompts))


@pytest.mark.gpu
@needs_cuda
def test_on_cuda_a_capture_that_fails_leaves_a_replica_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for a value in the middle, which breaks the capture of every kernel around it."""
    replica, step = _replica("cuda", slots=20), Decoder.step

    def asks(self: Decoder, *given: Any) -> None:
        step(self, *given)
        self.beams.length.sum().item()

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "step", asks)
        replica.capture()
    assert "without graphs" in replica.execution
    _check(_answers(replica, count=12), _answers(_replica("cpu", 40), count=12))


@pytest.mark.gpu
@needs_cuda
def test_on_cuda_answers_after_a_reset_are_what_they_were() -> None:
    replica = _captured(6, "cuda")
    expected = _answers(replica, count=12)
    fail_in_the_middle(replica, _work(replica, count=4))
    _check(_answers(replica, count=12), expected)


@pytest.mark.gpu
@needs_cuda
def test_on_cuda_pictures_that_are_looked_at_beside_the_steps_are_answered_alike() -> None:
    replica = _replica("cuda", slots=6, overlap=True)
    replica.capture()
    _check(_answers(replica, count=20), _answers(_replica("cpu", 40), count=20))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_on_cuda_half_precision_answers_too(dtype: str) -> None:
    replica = _captured(20, "cuda", dtype)
    replica.warm_up()
    assert all(answer.ids and answer.ids[-1] == 2 for answer in _answers(replica, count=12))
