"""What everything but the model costs: images a second through one worker process with a null replica.

    python bench/overhead.py [--images 20000] [--plain-images 3000]

Arno (chunks of 32) against plain Celery with one message an image (see plain_celery.py), in one run, on one Valkey,
on the same 64 × 64 PNGs. Queues are filled first; the rate is taken between a tenth of the images and the last one, so
that neither start-up nor publishing counts. CPU is that of the worker's process and its children.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

import psutil
import redis
from PIL import Image
from rich.console import Console
from rich.table import Table

from arno_producer import Producer
from arno_shared.names import Lane
from arno_shared.settings import Settings
from arno_shared.uris import file_uri

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.servers import valkey_server

CHUNK_IMAGES = 32
POOLS = {"solo": ["--pool=solo"], "threads": ["--pool=threads", "--concurrency=4"], "prefork": ["--concurrency=1"]}


@dataclass(frozen=True)
class Measured:
    name: str
    images_per_s: float
    cpu_ms_per_image: float


def make_pictures(folder: Path, count: int) -> list[Path]:
    """`count` paths to 256 different pictures, cheap to decode: the overhead is measured, not Pillow."""
    folder.mkdir()
    gradient = Image.linear_gradient("L").resize((64, 64))
    for number in range(256):
        flat = Image.new("L", (64, 64), number)
        Image.merge("RGB", (gradient, flat, gradient.rotate(90))).save(folder / f"{number}.png")
    return [folder / f"{number % 256}.png" for number in range(count)]


def cpu_s(process: psutil.Process) -> float:
    family = [process, *process.children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in family)


@contextmanager
def worker(command: list[str], env: dict[str, str], log: Path) -> Iterator[psutil.Process]:
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=stream, stderr=stream)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def measure(name: str, process: psutil.Process, images: int, remaining: Callable[[], int]) -> Measured:
    """Times the drain of a full queue; `remaining` counts images that no worker has finished."""
    while (left := remaining()) > images * 0.9:
        sleep(0.01)
    began_s, began_cpu_s = perf_counter(), cpu_s(process)
    while remaining():
        sleep(0.01)
    seconds, busy_s = perf_counter() - began_s, cpu_s(process) - began_cpu_s
    return Measured(name, left / seconds, busy_s / left * 1000)


def messages(client: "redis.Redis", queue: str) -> int:
    # What a worker took is in `unacked` until it is acknowledged.
    return int(client.llen(queue)) + int(client.hlen("unacked"))


def measure_plain(pool: str, url: str, pictures: list[Path], folder: Path) -> Measured:
    client = redis.Redis.from_url(url)
    client.flushall()
    os.environ["BENCH_REDIS_URL"] = url
    import plain_celery

    folder.mkdir()
    plain_celery.app.conf.broker_url = url
    with plain_celery.app.producer_pool.acquire(block=True) as producer:
        for number, picture in enumerate(pictures):
            plain_celery.annotate.apply_async(
                args=(str(picture), str(folder / f"{number}.json")), producer=producer, queue="celery"
            )
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "plain_celery", "worker", *POOLS[pool]]
    env = {"BENCH_REDIS_URL": url, "PYTHONPATH": str(Path(__file__).parent)}
    with worker(command, env, folder.with_suffix(".log")) as process:
        found = measure(f"plain Celery, {pool}", process, len(pictures), lambda: messages(client, "celery"))
    written = sum(1 for _ in folder.iterdir())
    assert written == len(pictures), f"plain Celery wrote {written} results of {len(pictures)}"
    return found


def measure_arno(url: str, pictures: list[Path], folder: Path) -> Measured:
    settings = Settings.model_validate(
        {"redis_url": url, "output_prefix": file_uri(folder), "producer": {"chunk_images": CHUNK_IMAGES}}
    )
    producer = Producer(settings)
    producer.redis.flushall()
    job = producer.submit(map(file_uri, pictures), "<CAPTION>", job_id="overhead")
    env = {
        "ARNO_REDIS_URL": url,
        "ARNO_WORKER__ENGINE": "null",
        "ARNO_LIMITS__SCHEMES": '["file"]',
        "ARNO_LIMITS__FILE_ROOTS": f'["{pictures[0].parent}"]',
    }
    command = [sys.executable, "-m", "arno_workers.cli", "--device", "cpu"]
    with worker(command, env, folder.with_suffix(".log")) as process:
        found = measure(
            "Arno", process, len(pictures), lambda: messages(producer.redis, Lane.BULK.queue) * CHUNK_IMAGES
        )
    status = job.status()
    assert status.ok == len(pictures), f"Arno finished {status}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--plain-images", type=int, default=3_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, valkey_server() as url:
        folder = Path(scratch)
        pictures = make_pictures(folder / "pictures", max(options.images, options.plain_images))
        plain = [measure_plain(pool, url, pictures[: options.plain_images], folder / f"plain-{pool}") for pool in POOLS]
        arno = measure_arno(url, pictures[: options.images], folder / "arno")
    report([*plain, arno], max(found.images_per_s for found in plain))


def report(found: list[Measured], best_plain_images_per_s: float) -> None:
    table = Table("", "images/s", "CPU ms/image", "ratio to the best plain Celery")
    for one in found:
        ratio = one.images_per_s / best_plain_images_per_s
        table.add_row(one.name, f"{one.images_per_s:,.0f}", f"{one.cpu_ms_per_image:.2f}", f"{ratio:.1f}×")
    Console().print(table)


if __name__ == "__main__":
    main()
