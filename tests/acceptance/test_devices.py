"""One process for each GPU, named after it, and all of them stop together."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from arno_shared.broker import node_names
from tests.acceptance.arno_worker import eventually
from tests.acceptance.conftest import NULL_ENGINE


def test_each_gpu_has_a_worker_that_sees_it_alone_and_sigterm_drains_them_all(
    settings, producer, pictures, files_allowed, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    env = {
        **os.environ,
        **files_allowed,
        **NULL_ENGINE,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "ARNO_REDIS_URL": settings.redis_url,
        "ARNO_OUTPUT_PREFIX": settings.output_prefix,
    }
    env.pop("CUDA_VISIBLE_DEVICES", None)
    command = [sys.executable, "-m", "arno_workers.cli", "--device", "cuda", "--gpus", "all"]
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as supervisor:
        try:
            names = eventually(lambda: len(found := node_names(producer.app)) == 2 and found, "both workers answer")
            assert [name.partition("@")[0] for name in names] == ["gpu0", "gpu1"]
            workers = psutil.Process(supervisor.pid).children()
            assert sorted(worker.environ()["CUDA_VISIBLE_DEVICES"] for worker in workers) == ["0", "1"]
            assert producer.submit(pictures(300), "<OD>").wait(60).ok == 300
            supervisor.send_signal(signal.SIGTERM)
            assert supervisor.wait(60) == 0
            assert not psutil.wait_procs(workers, timeout=10)[1]
        finally:
            supervisor.kill()
