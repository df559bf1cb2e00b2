"""Numbers are as precise as was asked for, or else as the checkpoint and the device suggest."""

import pytest
import torch

from arno_workers.engine import precision
from arno_workers.engine.precision import choose_dtype, keep_float32

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=[True, False], ids=["a CPU with bfloat16", "a CPU without"])
def cpu_has_bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    has: bool = request.param
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: has)
    return has


@pytest.mark.usefixtures("cpu_has_bfloat16")
@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("asked", ["float32", "float16", "bfloat16"])
def test_what_is_asked_for_by_name_is_given(asked: str, stored: torch.dtype, device: str) -> None:
    assert str(choose_dtype(asked, device, stored)) == f"torch.{asked}"


@pytest.mark.usefixtures("cpu_has_bfloat16")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("stored", DTYPES)
def test_a_gpu_computes_in_bfloat16(stored: torch.dtype, device: str) -> None:
    assert choose_dtype("auto", device, stored) == torch.bfloat16


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_cpu_computes_a_half_precise_checkpoint_in_bfloat16_if_it_can(
    stored: torch.dtype, cpu_has_bfloat16: bool
) -> None:
    expected = torch.bfloat16 if cpu_has_bfloat16 else torch.float32
    assert choose_dtype("auto", "cpu", stored) == expected


@pytest.mark.usefixtures("cpu_has_bfloat16")
def test_a_cpu_computes_a_precise_checkpoint_precisely() -> None:
    assert choose_dtype("auto", "cpu", torch.float32) == torch.float32


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"),
    [
        (False, False, torch.float32),
        (True, False, torch.bfloat16),
        (False, True, torch.bfloat16),
        (True, True, torch.bfloat16),
    ],
)
def test_a_cpu_is_asked_for_either_kind_of_instructions(
    monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_dtype("auto", "cpu", torch.float16) == expected


def test_this_cpu_can_be_asked() -> None:
    assert choose_dtype("auto", "cpu", torch.float16) in (torch.float32, torch.bfloat16)


def test_float32_is_not_rounded_to_tf32() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    keep_float32()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"
