"""A soak: random faults from a seed, for as long as is asked, and the full reconciliation at the end.

    python -m tests.faults.soak --minutes 10 --seed 7

Workers are killed, stopped and frozen; Redis is killed, frozen and loses its connections; the network to it and to
storage is cut; storage answers 503 or not at all. Meanwhile jobs are submitted. In the end, of every job: source =
committed rows + dead letters, events = committed chunks.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic

from PIL import Image

from arno_producer import Producer
from arno_producer.job import Job
from arno_shared.errors import HouseError
from arno_shared.settings import ProducerSettings, Settings
from arno_shared.uris import file_uri
from tests import servers
from tests.acceptance.arno_worker import ArnoWorker, arno_worker, eventually
from tests.acceptance.conftest import NULL_ENGINE
from tests.faults.afflicted import KILLS, colour
from tests.faults.proxy import TcpProxy
from tests.faults.rig import QUICK, account, host_port, nothing_in_hand
from tests.faults.test_storage import SLOW_DOWN

WORKERS = 3
IMAGES_A_JOB = 1500
POISON_EVERY_JOBS = 3
DRAIN_S = 300.0


class Soak:
    def __init__(self, folder: Path, seed: int, stack: ExitStack) -> None:
        self.folder, self.dice, self._stack = folder, random.Random(seed), stack
        self.valkey = stack.enter_context(servers.Valkey(appendonly="always"))
        endpoint = stack.enter_context(servers.rclone_server(self._made("buckets")))
        os.environ |= {
            "AWS_ACCESS_KEY_ID": servers.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": servers.SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": endpoint,
        }
        self.bucket = servers.make_bucket()
        self.redis_proxy = self._proxy(self.valkey.url.removeprefix("redis://").split("/")[0])
        self.storage_proxy = self._proxy(endpoint.removeprefix("http://"))
        settings = Settings(
            redis_url=self.valkey.url,
            output_prefix=f"s3://{self.bucket}/",
            producer=ProducerSettings(chunk_images=4, high_water_messages=300),
        )
        self.producer = Producer(settings)
        self._through_proxy = settings.model_copy(update={"redis_url": f"redis://{host_port(self.redis_proxy)}/0"})
        self.sources: dict[str, list[str]] = {}
        self.poison = self._picture("poison.png", colour(KILLS))
        self.pictures = [self._picture(f"{number}.png", (number, 1, 7)) for number in range(100)]
        self.faults: Counter[str] = Counter()
        self._started = 0
        self.workers = [self.start_worker() for _ in range(WORKERS)]

    def start_worker(self) -> ArnoWorker:
        self._started += 1
        env = {
            **NULL_ENGINE,
            **QUICK,
            "ARNO_LIMITS__SCHEMES": '["file"]',
            "ARNO_LIMITS__FILE_ROOTS": f'["{self.folder}"]',
            "AFFLICTED_IMAGE_S": "0.002",
            "ARNO_WORKER__STUCK_S": "30",
            "AWS_ENDPOINT_URL_S3": f"http://{host_port(self.storage_proxy)}",
        }
        name = f"w{self._started}"
        context = arno_worker(self._through_proxy, self.folder, name, env, module="tests.faults.afflicted", ready=False)
        return self._stack.enter_context(context)

    def supervise(self) -> None:
        """Starts another worker for each that has ended, as whatever runs them would."""
        self.workers = [self.start_worker() if each.process.poll() is not None else each for each in self.workers]

    def submit(self, until_s: float) -> None:
        while monotonic() < until_s:
            number = len(self.sources)
            uris = [self.dice.choice(self.pictures) for _ in range(IMAGES_A_JOB)]
            if number % POISON_EVERY_JOBS == 0:
                uris[IMAGES_A_JOB // 2] = self.poison
            job_id = f"soak-{number}"
            self.sources[job_id] = uris
            while True:
                try:
                    self.producer.submit(uris, "<OD>", job_id=job_id)
                    break
                except HouseError as error:
                    print(f"  {job_id} is submitted again: {error}", flush=True)

    # The faults

    def kill_worker(self) -> None:
        self.dice.choice(self.workers).process.kill()

    def stop_worker(self) -> None:
        self.dice.choice(self.workers).process.send_signal(signal.SIGTERM)

    def freeze_worker(self) -> None:
        process = self.dice.choice(self.workers).process
        process.send_signal(signal.SIGSTOP)
        Event().wait(self.dice.uniform(1, 6))
        process.send_signal(signal.SIGCONT)

    def kill_redis(self) -> None:
        self.valkey.kill()
        Event().wait(self.dice.uniform(0, 2))
        self.valkey.start()

    def freeze_redis(self) -> None:
        self.valkey.freeze()
        Event().wait(self.dice.uniform(0.5, 6))
        self.valkey.thaw()

    def kill_clients(self) -> None:
        for kind in ("normal", "pubsub"):
            try:
                self.producer.redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            except Exception as error:
                print(f"  {error}", flush=True)

    def cut_redis(self) -> None:
        with self._healed(self.redis_proxy, 1, 6):
            self.redis_proxy.refuse()
            self.redis_proxy.cut()

    def half_open_redis(self) -> None:
        with self._healed(self.redis_proxy, 1, 6):
            self.redis_proxy.freeze()
        self.redis_proxy.cut()

    def lose_answers_of_redis(self) -> None:
        with self._healed(self.redis_proxy, 0.2, 1):
            self.redis_proxy.drop_answers()

    def storage_503(self) -> None:
        with self._healed(self.storage_proxy, 1, 5):
            self.storage_proxy.answer(SLOW_DOWN)

    def lose_answers_of_storage(self) -> None:
        with self._healed(self.storage_proxy, 1, 3):
            self.storage_proxy.drop_answers(b"PUT ")

    def storage_away(self) -> None:
        with self._healed(self.storage_proxy, 1, 5):
            self.storage_proxy.refuse()
            self.storage_proxy.cut()

    def run(self, minutes: float) -> None:
        faults: list[tuple[Callable[[], None], int]] = [
            (self.kill_worker, 8),
            (self.stop_worker, 4),
            (self.freeze_worker, 3),
            (self.kill_redis, 2),
            (self.freeze_redis, 2),
            (self.kill_clients, 3),
            (self.cut_redis, 2),
            (self.half_open_redis, 1),
            (self.lose_answers_of_redis, 2),
            (self.storage_503, 2),
            (self.lose_answers_of_storage, 2),
            (self.storage_away, 2),
        ]
        until_s = monotonic() + 60 * minutes
        submission = Thread(target=self.submit, args=(until_s,))
        submission.start()
        while monotonic() < until_s:
            Event().wait(self.dice.uniform(0.3, 3))
            self.supervise()
            (fault,) = self.dice.choices([fault for fault, _ in faults], [weight for _, weight in faults])
            self.faults[fault.__name__] += 1
            fault()
        print("no more faults; what is left is done", flush=True)
        while submission.is_alive():
            self.supervise()
            submission.join(1)

    def reconcile(self) -> None:
        for job_id, uris in self.sources.items():
            job = Job(job_id, self.producer.ledger, self.producer.store)
            eventually(lambda job=job: self._done(job), f"{job_id} is done", DRAIN_S)
            failed = {self.poison: "worker_lost"} if self.poison in uris else {}
            print(f"  {job_id}: {account(self.producer, job, uris, failed=failed)}", flush=True)
        eventually(self._nothing_in_hand, "nothing is left in queues and hands", DRAIN_S)

    def _done(self, job: Job) -> bool:
        self.supervise()
        return job.status().finished

    def _nothing_in_hand(self) -> bool:
        self.supervise()
        return nothing_in_hand(self.producer)

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder

    def _picture(self, name: str, fill: tuple[int, int, int]) -> str:
        path = self.folder / name
        Image.new("RGB", (16, 16), fill).save(path)
        return file_uri(path)

    def _proxy(self, address: str) -> TcpProxy:
        host, port = address.rsplit(":", 1)
        return self._stack.enter_context(TcpProxy(host, int(port)))

    @contextmanager
    def _healed(self, proxy: TcpProxy, shortest_s: float, longest_s: float) -> Iterator[None]:
        """A fault that is over after a while."""
        yield
        Event().wait(self.dice.uniform(shortest_s, longest_s))
        proxy.heal()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    began_s = monotonic()
    with tempfile.TemporaryDirectory(prefix="arno-soak-") as folder, ExitStack() as stack:
        soak = Soak(Path(folder), arguments.seed, stack)
        soak.run(arguments.minutes)
        soak.reconcile()
        images = sum(map(len, soak.sources.values()))
        faults = ", ".join(f"{name.replace('_', ' ')} {times}" for name, times in soak.faults.most_common())
        print(
            f"{len(soak.sources)} jobs, {images:,} images, {soak.faults.total()} faults ({faults}) in "
            f"{(monotonic() - began_s) / 60:.1f} minutes, seed {arguments.seed}: lost 0, published twice 0, "
            "neighbours failed 0"
        )


if __name__ == "__main__":
    sys.exit(main())
