"""What was captured is done again when it is replayed, and what cannot be captured leaves nothing behind."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from arno_workers.engine.graphs import Called, CaptureFailed, Graphs, Place
from tests.workers.engine.cuda_stand_in import StandInCuda, stand_in_cuda


@pytest.fixture
def cuda() -> Iterator[StandInCuda]:
    with stand_in_cuda() as cuda:
        yield cuda


def doubling(x: Tensor, calls: list[None]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        calls.append(None)
        return x * 2

    return run


def test_a_replay_reads_what_stands_there_now_and_calls_nothing(cuda: StandInCuda) -> None:
    x, calls, graphs = torch.tensor([1.0, 2.0]), list[None](), Graphs(Place())
    graphs.capture("double", doubling(x, calls))
    called = len(calls)
    assert graphs.has("double")
    for values in ([3.0, 4.0], [-1.0, 0.5]):
        x.copy_(torch.tensor(values))
        assert graphs.run("double", doubling(x, calls)).tolist() == [2 * value for value in values]
    assert len(calls) == called
    assert cuda.replays == 2


def test_what_was_not_captured_is_called(cuda: StandInCuda) -> None:
    x, calls = torch.tensor([1.0]), list[None]()
    for runner in (Graphs(Place()), Called()):
        assert not runner.has("double")
        assert runner.run("double", doubling(x, calls)).tolist() == [2.0]
    assert len(calls) == 2
    assert cuda.captures == 0


def test_after_a_drop_everything_is_called_and_can_be_captured_again_in_a_pool_of_its_own(cuda: StandInCuda) -> None:
    x, calls, graphs = torch.tensor([1.0]), list[None](), Graphs(Place())
    for captured in (1, 2):
        graphs.capture("double", doubling(x, calls))
        assert cuda.captures == captured
        graphs.drop()
        assert not graphs.has("double")


def test_a_capture_that_fails_says_what_and_why_and_drops_the_others(cuda: StandInCuda) -> None:
    x, calls, graphs = torch.tensor([1.0]), list[None](), Graphs(Place())
    graphs.capture("first", doubling(x, calls))
    cuda.fails_at = 1
    with pytest.raises(CaptureFailed, match="second: OutOfMemoryError: CUDA out of memory"):
        graphs.capture("second", doubling(x, calls))
    assert not graphs.has("first")
    assert graphs.run("first", doubling(x, calls)).tolist() == [2.0]


def test_what_asks_the_device_for_a_value_cannot_be_captured(cuda: StandInCuda) -> None:
    x = torch.tensor([1.0])

    def asks() -> Any:
        return x * x.sum().item()

    with pytest.raises(Exception, match="waits for the device"):
        Graphs(Place()).capture("asks", asks)
