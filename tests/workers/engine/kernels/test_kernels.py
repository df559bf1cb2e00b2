"""Kernels compile for the device that they are meant for, which the interpreter says nothing of."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from arno_workers.engine.kernels.add_norm import add_norm
from arno_workers.engine.kernels.candidates import candidates
from arno_workers.engine.kernels.channels import channels
from arno_workers.engine.kernels.cross_attention import cross_attention
from arno_workers.engine.kernels.linear_gelu import linear_gelu
from arno_workers.engine.kernels.log_normalizer import log_normalizer
from arno_workers.engine.kernels.mix import mix
from arno_workers.engine.kernels.own_attention import own_attention
from arno_workers.engine.kernels.windows import windows

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the CUDA device")


class Hopper:
    """Stands in for an H100 or H200: takes what is compiled for it, and runs nothing."""

    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 227 * 1024},
        load_binary=lambda name, binary, shared, device: (None, None, 0, 0, 1024),
    )

    def __init__(self) -> None:
        self.launched: list[str] = []

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        return lambda *_: self.launched.append(metadata.name)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hopper]:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    device = Hopper()
    driver.set_active(device)
    yield device
    driver._active = None


SLOTS, BEAMS, HEADS, WIDTH, TOKENS = 4, 3, 12, 64, 80
LENGTHS = torch.tensor([1, 2, 3, 0])


def _cross_attention(dtype: torch.dtype) -> Tensor:
    keys, values = torch.zeros(2, SLOTS, HEADS, TOKENS, WIDTH, dtype=dtype).unbind(0)
    return cross_attention(torch.zeros(SLOTS, BEAMS, HEADS * WIDTH, dtype=dtype), keys, values, LENGTHS)


def _own_attention(dtype: torch.dtype) -> Tensor:
    qkv = torch.zeros(SLOTS, BEAMS, 3 * HEADS * WIDTH, dtype=dtype)
    keys, values = torch.zeros(2, SLOTS, HEADS, TOKENS, BEAMS, WIDTH, dtype=dtype).unbind(0)
    return own_attention(qkv, keys, values, torch.zeros(SLOTS, BEAMS, TOKENS, dtype=torch.long), LENGTHS)


def _log_normalizer(dtype: torch.dtype) -> Tensor:
    return log_normalizer(torch.zeros(SLOTS * BEAMS, 51328, dtype=dtype))


def _candidates(dtype: torch.dtype) -> Tensor:
    # What a stand-in leaves unwritten is no guide to the best: only the kernel matters.
    logits = torch.zeros(SLOTS * BEAMS, 51328, dtype=dtype)
    return candidates(logits, torch.zeros(SLOTS * BEAMS), 6)[0]


def _mix(dtype: torch.dtype) -> Tensor:
    x, weight, vector = torch.zeros(1, 4, 6, 128, dtype=dtype), torch.zeros(9, 128, dtype=dtype), torch.zeros(128)
    return mix(x, x, weight, *[vector.to(dtype)] * 3, 1e-5)[1]


def _windows(dtype: torch.dtype) -> Tensor:
    return windows(torch.zeros(1, 12, 24, 3 * 128, dtype=dtype), 4, 12, 32**-0.5)


def _linear_gelu(dtype: torch.dtype) -> Tensor:
    return linear_gelu(*(torch.zeros(shape, dtype=dtype) for shape in ((64, 512), (2048, 512), (2048,))))


def _add_norm(dtype: torch.dtype) -> Tensor:
    x, vector = torch.zeros(5, 768, dtype=dtype), torch.zeros(768, dtype=dtype)
    return add_norm(x, x, vector, vector, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("call", [_mix, _windows, _linear_gelu])
def test_a_kernel_of_the_tower_compiles_in_half_precision(
    hopper: Hopper, call: Callable[[torch.dtype], Tensor], dtype: torch.dtype
) -> None:
    call(dtype)
    assert len(hopper.launched) == 1


def test_the_kernels_of_channel_attention_compile(hopper: Hopper) -> None:
    channels(torch.zeros(1, 100, 3 * 128, dtype=torch.bfloat16), 4)
    assert len(hopper.launched) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("call", [_add_norm, _cross_attention, _own_attention, _log_normalizer, _candidates])
def test_a_kernel_compiles(hopper: Hopper, call: Callable[[torch.dtype], Tensor], dtype: torch.dtype) -> None:
    call(dtype)
    assert len(hopper.launched) == 1
