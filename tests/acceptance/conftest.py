"""What every acceptance test starts from: an empty broker, and settings that point at it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from PIL import Image

from arno_producer import Producer
from arno_shared.settings import Settings
from arno_shared.uris import file_uri
from tests.acceptance.arno_worker import ArnoWorker, arno_worker

NULL_ENGINE = {"ARNO_WORKER__ENGINE": "null"}


@pytest.fixture
def settings(valkey_url: str, tmp_path: Path) -> Settings:
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    return Settings(redis_url=valkey_url, output_prefix=file_uri(tmp_path / "results"))


@pytest.fixture
def producer(settings: Settings) -> Producer:
    return Producer(settings)


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[[int], list[str]]:
    """Makes that many small pictures; their `file://` URIs."""

    def make(count: int) -> list[str]:
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        for number in range(count):
            path = folder / f"{number:06d}.png"
            Image.new("RGB", (16, 16), (number % 256, number // 256 % 256, 7)).save(path, compress_level=0)
        return [file_uri(folder / f"{number:06d}.png") for number in range(count)]

    return make


@pytest.fixture
def files_allowed(tmp_path: Path) -> dict[str, str]:
    """Lets a worker read `file://` images below the test's own folder."""
    return {"ARNO_LIMITS__SCHEMES": '["s3", "http", "https", "file"]', "ARNO_LIMITS__FILE_ROOTS": f'["{tmp_path}"]'}


@pytest.fixture
def start_worker(
    settings: Settings, tmp_path: Path, files_allowed: dict[str, str]
) -> Iterator[Callable[..., ArnoWorker]]:
    """Starts a worker with the null engine unless `env` says otherwise; it ends with the test."""
    with ExitStack() as stack:

        def start(name: str = "cpu0", **env: str) -> ArnoWorker:
            return stack.enter_context(arno_worker(settings, tmp_path, name, {**files_allowed, **NULL_ENGINE, **env}))

        yield start
