"""A job of many images passes through bounded memory, in the producer, in the worker and in Redis."""

import json
import subprocess
import sys

import pytest
import redis

from tests.acceptance.arno_worker import eventually

GROWTH_BYTES = 40 * 2**20
"""Far less than the job's messages or rows take together, far more than allocators wander."""

PRODUCER = """
import json, sys
from itertools import cycle, islice
import psutil
from arno_producer import Producer
rss = psutil.Process().memory_info
uris = json.loads(sys.argv[1])
marks = []
def images():
    for number, uri in enumerate(islice(cycle(uris), int(sys.argv[2]))):
        if number in (2_000, int(sys.argv[2]) - 1):
            marks.append(rss().rss)
        yield uri
Producer().submit(images(), "<CAPTION>", job_id="large")
print(json.dumps(marks))
"""


@pytest.mark.parametrize("images", [8_000, pytest.param(20_000, marks=pytest.mark.long)])
def test_thousands_of_images_leave_memory_flat(
    images: int, start_worker, producer, settings, pictures, monkeypatch
) -> None:
    uris = pictures(50)
    worker = start_worker()
    monkeypatch.setenv("ARNO_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("ARNO_OUTPUT_PREFIX", settings.output_prefix)
    monkeypatch.setenv("ARNO_PRODUCER__HIGH_WATER_MESSAGES", "40")
    command = [sys.executable, "-c", PRODUCER, json.dumps(uris), str(images)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as submission:
        job = producer.job("large")
        eventually(lambda: producer.redis.exists("arno:job:large"), "the job is open")
        eventually(lambda: job.status().ok >= 2_000, "the first ones are done")
        worker_before, longest_queue = worker.rss_bytes, 0
        with redis.Redis.from_url(settings.redis_url) as client:
            redis_before = client.info("memory")["used_memory"]

            def done() -> bool:
                nonlocal longest_queue
                longest_queue = max(longest_queue, client.llen("arno.bulk"))
                return job.status().finished

            eventually(done, "the job is done", timeout_s=240)
            redis_after = client.info("memory")["used_memory"]
        marks, _ = submission.communicate(timeout=60)
    assert submission.returncode == 0
    assert job.status().ok == images
    # The high-water mark, and the messages in the worker's hands that came back to the count.
    assert longest_queue <= 50
    early, late = json.loads(marks)
    assert late - early < GROWTH_BYTES
    assert worker.rss_bytes - worker_before < GROWTH_BYTES
    assert redis_after - redis_before < GROWTH_BYTES
    assert sum(1 for _ in job.results()) == images
