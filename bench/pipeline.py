"""What the pipeline costs: images a second through Redis, S3 and a real worker, beside what its engine does alone.

    python bench/pipeline.py [--images 1200] [--threads 1] [--model arno-tiny]

The engine alone is a process of its own, fed with pictures that are decoded and resized already. The worker reads the
same pictures as JPEGs from an S3 server (rclone's), writes its results there and commits them to a Valkey; all of it,
the servers too, on this machine. Both ask four prompts a picture, with as many torch threads, and on the same cores.
The queue is full before the worker starts; a tenth of the images are its warm-up.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from threading import Semaphore
from time import perf_counter, sleep

from rich.console import Console
from rich.table import Table

from arno_producer import Producer
from arno_producer.job import Job
from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_shared.scenes import draw, make_scene
from arno_shared.settings import Settings, WorkerSettings
from arno_shared.storage import ObjectStore

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests import servers

PROMPTS = ("<CAPTION>", "<OD>", "<OCR>", "<DETAILED_CAPTION>")
PICTURE_PX = 384
LIMIT = GenerationOptions(max_new_tokens=64)


@dataclass(frozen=True)
class Measured:
    images_per_s: float
    busy: float
    """The share of the time in which the device worked."""


def jpeg(seed: int) -> bytes:
    file = BytesIO()
    draw(make_scene(seed), PICTURE_PX).save(file, "JPEG", quality=90)
    return file.getvalue()


def measure_engine(images: int, worker: WorkerSettings) -> Measured:
    """In this process; call it in one that does nothing else."""
    from arno_workers.decode.picture import decode
    from arno_workers.engine.start import start_engine

    engine = start_engine(worker, "cpu", ObjectStore(), lambda: os._exit(1))
    pictures = [engine.prepare(decode(jpeg(seed), 10**9, engine.scaled_to).image) for seed in range(images)]
    prompts = [Prompt(task=task) for task in PROMPTS]
    asks = [engine.ask(prompt, PICTURE_PX, PICTURE_PX, LIMIT) for prompt in prompts]
    answered = Semaphore(0)
    warm = images // 10
    for picture in pictures[:warm]:
        engine.submit(picture, asks, Lane.BULK, lambda _: answered.release())
    for _ in range(warm):
        answered.acquire()
    began_s, busy_s = perf_counter(), engine.busy_s
    for picture in pictures[warm:]:
        engine.submit(picture, asks, Lane.BULK, lambda _: answered.release())
    for _ in range(images - warm):
        answered.acquire()
    seconds = perf_counter() - began_s
    return Measured((images - warm) / seconds, (engine.busy_s - busy_s) / seconds)


def engine_alone(images: int, env: dict[str, str]) -> Measured:
    command = [sys.executable, __file__, "--engine-alone", "--images", str(images)]
    done = subprocess.run(command, env={**os.environ, **env}, check=True, stdout=subprocess.PIPE)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def pipeline(images: int, env: dict[str, str], folder: Path) -> Measured:
    producer = Producer(Settings())
    bucket = servers.make_bucket()
    uris = [f"s3://{bucket}/pictures/{seed}.jpg" for seed in range(images)]
    for seed, uri in enumerate(uris):
        producer.store.put(uri, jpeg(seed), "image/jpeg")
    output = f"s3://{bucket}/results/"
    job = producer.submit(uris, PROMPTS, output=output, job_id="bench", generation=LIMIT)
    log = folder / "worker.log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "arno_workers.cli", "--device", "cpu"]
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=stream, stderr=stream)
    try:
        measured_s, measured_images = drain(job, images)
        assert job.status().ok == images, f"the worker finished {job.status()}"
    finally:
        process.terminate()
        process.wait()
    return Measured(measured_images / measured_s, busy_share(log))


def drain(job: Job, images: int) -> tuple[float, int]:
    """Seconds from a tenth of the images on, and how many were left then."""
    while (settled := job.status().settled) < images // 10:
        sleep(0.01)
    began_s, left = perf_counter(), images - settled
    while not job.status().finished:
        sleep(0.01)
    return perf_counter() - began_s, left


def busy_share(log: Path) -> float:
    """Of the time from the worker's start to its last commit, by its own log."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    times = {line["event"]: datetime.fromisoformat(line["timestamp"]) for line in lines}
    busy_s = next(line["device_busy_s"] for line in lines if line["event"] == "worker stopped")
    return float(busy_s / (times["chunk committed"] - times["worker starts"]).total_seconds())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--model", default="arno-tiny")
    parser.add_argument("--threads", type=int, default=1, help="of torch; 0: as the worker chooses by measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engine-alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine_alone:
        sys.stdout.write(json.dumps(measure_engine(options.images, Settings().worker).__dict__) + "\n")
        return
    env = {"ARNO_WORKER__MODEL": options.model, "ARNO_WORKER__TORCH_THREADS": str(options.threads)}
    found: list[tuple[Measured, Measured]] = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as scratch, servers.rclone_server(Path(scratch)) as endpoint:
            os.environ.update(
                AWS_ENDPOINT_URL_S3=endpoint,
                AWS_ACCESS_KEY_ID=servers.ACCESS_KEY,
                AWS_SECRET_ACCESS_KEY=servers.SECRET_KEY,
                AWS_DEFAULT_REGION="us-east-1",
            )
            alone = engine_alone(options.images, env)
            with servers.valkey_server() as url, tempfile.TemporaryDirectory() as folder:
                os.environ["ARNO_REDIS_URL"] = url
                found.append((alone, pipeline(options.images, env, Path(folder))))
    report(found)


def report(found: list[tuple[Measured, Measured]]) -> None:
    table = Table(
        "round", "engine alone, images/s", "device busy", "pipeline, images/s", "device busy", "pipeline/engine"
    )
    for number, (alone, whole) in enumerate(found, 1):
        table.add_row(
            str(number),
            f"{alone.images_per_s:,.1f}",
            f"{alone.busy:.0%}",
            f"{whole.images_per_s:,.1f}",
            f"{whole.busy:.0%}",
            f"{whole.images_per_s / alone.images_per_s:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
