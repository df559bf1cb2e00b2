"""A device that is lost takes its worker with it, and nobody's picture."""

import os
import subprocess
import sys
from pathlib import Path

from arno_shared.names import Lane
from tests.acceptance.arno_worker import eventually

# The null replica stands in for a device that answers some pictures and is then lost.
LOST_DEVICE = """
from arno_workers import cli
from arno_workers.engine.null import NullReplica
run, seen = NullReplica.run, []

def until_lost(self, work):
    seen.extend(work.vision)
    if len(seen) > 20:
        raise RuntimeError("device lost")
    return run(self, work)

def blank(self):
    if len(seen) > 20:
        raise RuntimeError("device lost")

NullReplica.run, NullReplica.warm_up = until_lost, blank
cli.main()
"""


def test_a_worker_whose_device_is_lost_ends_and_another_does_its_work(
    start_worker, producer, pictures, settings, files_allowed, tmp_path: Path
) -> None:
    job = producer.submit(pictures(200), "<OD>", job_id="lost")
    env = {
        **os.environ,
        **files_allowed,
        "ARNO_WORKER__ENGINE": "null",
        "ARNO_REDIS_URL": settings.redis_url,
        "ARNO_OUTPUT_PREFIX": settings.output_prefix,
    }
    done = subprocess.run(
        [sys.executable, "-c", LOST_DEVICE, "--device", "cpu"], env=env, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 1, done.stderr
    assert "device lost" in done.stderr
    assert job.status().failed == 0
    eventually(lambda: producer.redis.hlen("unacked") == 0, "its chunks are back in the queue")
    assert producer.redis.llen(Lane.BULK.queue) > 0

    start_worker()
    status = job.wait(60)
    assert (status.ok, status.failed, status.dead) == (200, 0, 0)
