"""What goes to the device arrives there as it was."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from arno_workers.engine.staging import Arrival, CopyStream, Stacked, Uploads, pin, whole_numbers

HEIGHT, WIDTH = 5, 7

Picture = NDArray[np.uint8]


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def pictures(count: int, seed: int) -> list[Picture]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8))


@pytest.fixture
def uploads(device: str) -> Uploads:
    return CopyStream(9, HEIGHT, WIDTH, device) if device == "cuda" else Stacked()


def send(uploads: Uploads, sent: list[Picture], device: str) -> torch.Tensor:
    with uploads.upload([pin(picture, device) for picture in sent]) as arrived:
        return arrived.clone()


def same(on_device: torch.Tensor, sent: list[Picture]) -> bool:
    return bool((on_device.cpu().numpy() == np.stack(sent)).all())


@pytest.mark.parametrize("count", [1, 2, 9])
def test_as_many_pictures_arrive_as_were_sent_byte_for_byte(uploads: Uploads, device: str, count: int) -> None:
    sent = pictures(count, seed=count)
    arrived = send(uploads, sent, device)
    assert arrived.shape == (count, HEIGHT, WIDTH, 3)
    assert arrived.dtype == torch.uint8
    assert arrived.device.type == device
    assert same(arrived, sent)


def test_pictures_arrive_in_their_order(uploads: Uploads, device: str) -> None:
    sent = [np.full((HEIGHT, WIDTH, 3), value, np.uint8) for value in (3, 0, 255, 1)]
    assert send(uploads, sent, device)[:, 0, 0, 0].tolist() == [3, 0, 255, 1]


def test_batches_in_a_row_do_not_overwrite_each_other(uploads: Uploads, device: str) -> None:
    sent = [pictures(1 + seed % 4, seed) for seed in range(8)]
    arrived = [send(uploads, batch, device) for batch in sent]
    assert all(map(same, arrived, sent))


def test_a_picture_may_be_sent_twice(uploads: Uploads, device: str) -> None:
    """As when its batch failed."""
    (sent,) = pictures(1, seed=1)
    held = pin(sent.copy(), device)
    with uploads.upload([held]) as alone:
        alone.zero_()
    with uploads.upload([held, held]) as twice:
        assert same(twice, [sent, sent])


@pytest.mark.parametrize("count", [1, 4])
def test_what_happens_on_the_device_leaves_the_pictures_alone(uploads: Uploads, device: str, count: int) -> None:
    sent = pictures(count, seed=2)
    kept = [each.copy() for each in sent]
    send(uploads, sent, device).zero_()
    assert all((each == copy).all() for each, copy in zip(sent, kept, strict=True))


def test_pictures_in_another_layout_arrive_alike(uploads: Uploads, device: str) -> None:
    """With the colours first in memory, and as a part of a larger one."""
    small, large = pictures(1, seed=3)[0], np.zeros((HEIGHT * 2, WIDTH * 2, 3), np.uint8)
    colours_first = np.ascontiguousarray(small.transpose(2, 0, 1)).transpose(1, 2, 0)
    large[::2, ::2] = small
    assert same(send(uploads, [colours_first, large[::2, ::2], small], device), [small] * 3)


@pytest.mark.parametrize("sizes", [(WIDTH, WIDTH + 1), (WIDTH + 1, WIDTH)])
def test_pictures_of_several_sizes_are_not_sent_together(uploads: Uploads, device: str, sizes: tuple[int, int]) -> None:
    with pytest.raises(RuntimeError):
        send(uploads, [np.zeros((HEIGHT, width, 3), np.uint8) for width in sizes], device)


@pytest.mark.parametrize("values", [[], [0], [3, -1, 2**40], [[1, 2, 3], [4, 5, 6]]])
def test_whole_numbers_arrive_as_they_were(device: str, values: list[int] | list[list[int]]) -> None:
    numbers = whole_numbers(values, device)
    assert numbers.dtype == torch.long
    assert numbers.device.type == device
    assert numbers.tolist() == values


def test_what_comes_back_is_what_was_there_when_it_was_sent(device: str) -> None:
    whole, real = torch.arange(12, device=device).view(3, 4), torch.full((3, 2), 0.5, device=device)
    arrival = Arrival(whole, real)
    if device == "cuda":
        whole.zero_()
    found = arrival.get()
    assert [each.device.type for each in found] == ["cpu", "cpu"]
    assert found[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert found[1].tolist() == [[0.5, 0.5]] * 3
