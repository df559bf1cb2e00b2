"""`arno-worker` starts, or says in one line why not and ends with an error."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.fork_server import FLORENCE, fork_server


def _run(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    env = {"ARNO_REDIS_URL": "redis://127.0.0.1:9/0", **env}
    return fork_server(*FLORENCE).run("arno_workers.cli", *options, env=env, timeout_s=120)


@pytest.mark.parametrize(
    ("options", "env", "reason"),
    [
        (["--device", "cpu"], {"ARNO_WORKER__MODEL": "no-such-model"}, "there is no model 'no-such-model'"),
        (["--device", "tpu"], {}, "--device is auto, cpu or cuda, not 'tpu'"),
        (["--device", "cuda"], {"CUDA_VISIBLE_DEVICES": ""}, "there is no NVIDIA GPU here"),
        (["--device", "cpu"], {"ARNO_WORKER__CHUNKS_IN_FLIGHT": "0"}, "worker.chunks_in_flight"),
        (["--device", "cpu"], {"ARNO_WORKER__MODLE": "x"}, "worker.modle"),
        (["--device", "cpu"], {"ARNO_REDIS_URL": "redis://h/0?max_connections=2"}, "the option max_connections"),
    ],
)
def test_what_cannot_be_started_says_why(options: list[str], env: dict[str, str], reason: str) -> None:
    done = _run(*options, **env)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_does_not_load_ends_the_worker(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "florence2"}')
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    done = _run("--device", "cpu", ARNO_WORKER__MODEL=str(tmp_path))
    assert done.returncode == 1
    said = f"arno-worker: {tmp_path}: model.safetensors is no safetensors file, or was cut off; this seems to be "
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_each_gpu_gets_a_process_that_sees_it_alone_and_one_that_fails_ends_all(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    no_place_of_ours = {"ARNO_WORKER__ENGINE": "null", "ARNO_WORKER__HEALTH_HOST": "192.0.2.1"}
    done = _run("--device", "cuda", PATH=f"{tmp_path}:{os.environ['PATH']}", **no_place_of_ours)
    assert done.returncode == 1
    # Both processes started, and each says for itself what is wrong.
    assert done.stderr.count("arno-worker: ") >= 1
