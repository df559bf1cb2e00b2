"""The largest of many values, found block by block, are those that `topk` finds."""

import pytest
import torch

from arno_workers.engine.largest import BLOCK, largest


@pytest.mark.parametrize("blocks", [1, 2, 5, 28, 802])
@pytest.mark.parametrize("count", [2, 6, 10])
def test_the_largest_are_those_of_topk(blocks: int, count: int) -> None:
    values = torch.randn(7, blocks * BLOCK, generator=torch.Generator().manual_seed(blocks))
    expected = values.topk(count)
    found, places = largest(values, count)
    assert torch.equal(found, expected.values)
    assert torch.equal(places, expected.indices)


def test_all_of_them_may_stand_in_one_block() -> None:
    values = torch.zeros(1, 4 * BLOCK)
    values[0, 2 * BLOCK : 2 * BLOCK + 6] = torch.arange(6.0) + 1
    found, places = largest(values, 6)
    assert found.tolist() == [[6, 5, 4, 3, 2, 1]]
    assert places.tolist() == [[2 * BLOCK + n for n in (5, 4, 3, 2, 1, 0)]]


def test_what_is_ruled_out_is_taken_last() -> None:
    values = torch.full((1, 2 * BLOCK), -torch.inf)
    values[0, 100] = -5.0
    found, places = largest(values, 2)
    assert found.tolist() == [[-5.0, -torch.inf]]
    assert places[0, 0] == 100
