"""A batch of any size gets what its function gives, whatever it is padded with."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from arno_workers.engine.batch import Batch
from arno_workers.engine.graphs import CaptureFailed, Graphs, Place
from tests.workers.engine.cuda_stand_in import StandInCuda, stand_in_cuda


@pytest.fixture
def cuda() -> Iterator[StandInCuda]:
    with stand_in_cuda() as cuda:
        yield cuda


class Sums:
    """Of two inputs; each sum is also written where its second input says."""

    def __init__(self, most: int, places: int = 100) -> None:
        self.sizes: list[int] = []
        self.written = torch.zeros(places + 1, dtype=torch.long)
        inputs = [torch.zeros(most, 3, dtype=torch.long), torch.full((most,), places)]
        self.batch = Batch(Graphs(Place()), "sums", self.of, inputs, [None, places])

    def of(self, values: Tensor, places: Tensor) -> Tensor:
        self.sizes.append(len(values))
        self.written[places] = values.sum(1)
        return values.sum(1)


@pytest.mark.parametrize("most", [1, 2, 5, 64, 100])
def test_batches_of_every_size_are_captured_or_padded_to_one_that_is(cuda: StandInCuda, most: int) -> None:
    sums = Sums(most)
    sums.batch.capture()
    called, captured = len(sums.sizes), cuda.captures
    assert captured <= 9
    for count in range(1, most + 1):
        values = torch.randint(99, (count, 3))
        assert torch.equal(sums.batch(values, torch.arange(count)), values.sum(1))
    assert len(sums.sizes) == called
    assert cuda.captures == captured


def test_what_a_batch_is_padded_with_touches_nobody(cuda: StandInCuda) -> None:
    sums = Sums(8)
    sums.batch.capture()
    sums.batch(torch.full((8, 3), 1), torch.arange(8))
    sums.batch(torch.full((5, 3), 7), torch.arange(10, 15))
    assert sums.written[:8].tolist() == [3] * 8
    assert sums.written[10:15].tolist() == [21] * 5
    assert sums.written[15:100].sum() == 0


def test_the_next_batch_leaves_alone_what_the_last_one_got(cuda: StandInCuda) -> None:
    sums = Sums(8)
    sums.batch.capture()
    first = sums.batch(torch.full((8, 3), 1), torch.arange(8))
    sums.batch(torch.full((8, 3), 2), torch.arange(8))
    assert first.tolist() == [3] * 8


@pytest.mark.parametrize("count", [3, 9])
def test_a_batch_that_was_not_captured_is_called_as_it_is(cuda: StandInCuda, count: int) -> None:
    sums = Sums(8)
    if count > 8:
        sums.batch.capture()
    values = torch.randint(99, (count, 3))
    assert torch.equal(sums.batch(values, torch.arange(count)), values.sum(1))
    assert sums.sizes[-1] == count


def test_a_capture_that_fails_is_said_with_the_stage_and_the_size(cuda: StandInCuda) -> None:
    cuda.fails_at = 2
    with pytest.raises(CaptureFailed, match=r"\('sums', 2\)"):
        Sums(8).batch.capture()
