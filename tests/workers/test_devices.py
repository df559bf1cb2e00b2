"""`arno-worker` finds the devices that it was asked for, or says what there is."""

from pathlib import Path

import pytest

from arno_shared.errors import ModelUnusable
from arno_workers.devices import Device, devices


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_gpus")
def test_one_process_for_each_gpu_named_after_it() -> None:
    assert [device.name for device in devices("cuda", "all")] == ["gpu0", "gpu1"]
    assert devices("auto", "1") == [Device("cuda", "1")]
    assert [device.name for device in devices("cpu", "all")] == ["cpu"]


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ModelUnusable, match=r"--gpus 7: the GPUs here are 0, 1"):
        devices("cuda", "0,7")


@pytest.mark.usefixtures("two_gpus")
def test_gpus_hidden_from_the_process_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert devices("cuda", "all") == [Device("cuda", "1")]


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused() -> None:
    assert devices("auto", "all") == [Device("cpu")]
    with pytest.raises(ModelUnusable, match="no NVIDIA GPU"):
        devices("cuda", "all")
