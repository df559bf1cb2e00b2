"""What goes to the device arrives there as it was."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from arno_workers.engine.staging import pin, to_device, whole_numbers

HEIGHT, WIDTH = 5, 7

Picture = NDArray[np.uint8]


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def pictures(count: int, seed: int) -> list[Picture]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8))


def send(sent: list[Picture], device: str) -> torch.Tensor:
    return to_device([pin(picture, device) for picture in sent], device)


def same(on_device: torch.Tensor, sent: list[Picture]) -> bool:
    return bool((on_device.cpu().numpy() == np.stack(sent)).all())


@pytest.mark.parametrize("count", [1, 2, 9])
def test_as_many_pictures_arrive_as_were_sent_byte_for_byte(device: str, count: int) -> None:
    sent = pictures(count, seed=count)
    arrived = send(sent, device)
    assert arrived.shape == (count, HEIGHT, WIDTH, 3)
    assert arrived.dtype == torch.uint8
    assert arrived.device.type == device
    assert same(arrived, sent)


def test_pictures_arrive_in_their_order(device: str) -> None:
    sent = [np.full((HEIGHT, WIDTH, 3), value, np.uint8) for value in (3, 0, 255, 1)]
    assert send(sent, device)[:, 0, 0, 0].tolist() == [3, 0, 255, 1]


def test_batches_in_a_row_do_not_overwrite_each_other(device: str) -> None:
    sent = [pictures(1 + seed % 4, seed) for seed in range(8)]
    arrived = [send(batch, device) for batch in sent]
    assert all(map(same, arrived, sent))


def test_a_picture_may_be_sent_twice(device: str) -> None:
    """As when its batch failed."""
    (sent,) = pictures(1, seed=1)
    held = pin(sent.copy(), device)
    to_device([held], device).zero_()
    assert same(to_device([held, held], device), [sent, sent])


@pytest.mark.parametrize("count", [1, 4])
def test_what_happens_on_the_device_leaves_the_pictures_alone(device: str, count: int) -> None:
    sent = pictures(count, seed=2)
    kept = [each.copy() for each in sent]
    send(sent, device).zero_()
    assert all((each == copy).all() for each, copy in zip(sent, kept, strict=True))


def test_pictures_in_another_layout_arrive_alike(device: str) -> None:
    """With the colours first in memory, and as a part of a larger one."""
    small, large = pictures(1, seed=3)[0], np.zeros((HEIGHT * 2, WIDTH * 2, 3), np.uint8)
    colours_first = np.ascontiguousarray(small.transpose(2, 0, 1)).transpose(1, 2, 0)
    large[::2, ::2] = small
    assert same(send([colours_first, large[::2, ::2], small], device), [small] * 3)


@pytest.mark.parametrize("sizes", [(WIDTH, WIDTH + 1), (WIDTH + 1, WIDTH)])
def test_pictures_of_several_sizes_are_not_sent_together(device: str, sizes: tuple[int, int]) -> None:
    with pytest.raises(RuntimeError):
        send([np.zeros((HEIGHT, width, 3), np.uint8) for width in sizes], device)


@pytest.mark.parametrize("values", [[], [0], [3, -1, 2**40], [[1, 2, 3], [4, 5, 6]]])
def test_whole_numbers_arrive_as_they_were(device: str, values: list[int] | list[list[int]]) -> None:
    numbers = whole_numbers(values, device)
    assert numbers.dtype == torch.long
    assert numbers.device.type == device
    assert numbers.tolist() == values
