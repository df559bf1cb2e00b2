"""What every acceptance test starts from: an empty broker, and settings that point at it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from arno_producer import Producer
from arno_shared.settings import Settings
from arno_shared.uris import file_uri
from tests.acceptance.arno_worker import ArnoWorker, arno_worker
from tests.acceptance.image_server import ImageServer
from tests.acceptance.image_server import image_server as serve_images

NULL_ENGINE = {"ARNO_WORKER__ENGINE": "null"}


@pytest.fixture
def settings(valkey_url: str, tmp_path: Path) -> Settings:
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


@pytest.fixture(scope="module")
def shared_worker(_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArnoWorker]:
    """One worker for all tests of a module that only send it work; quick to retry, and loopback images allowed."""
    folder = tmp_path_factory.mktemp("worker")
    env = {
        **NULL_ENGINE,
        "ARNO_LIMITS__SCHEMES": '["s3", "http", "https", "file"]',
        "ARNO_LIMITS__FILE_ROOTS": f'["{tmp_path_factory.getbasetemp()}"]',
        "ARNO_LIMITS__PRIVATE_ADDRESSES": "true",
        "ARNO_RETRIES__BACKOFF_S": "0.01",
        "ARNO_RETRIES__PUT_OFF_S": "0.05",
        "ARNO_RETRIES__MAX_ATTEMPTS": "2",
    }
    settings = Settings(redis_url=_valkey, output_prefix=file_uri(folder / "results"))
    with arno_worker(settings, folder, "shared", env) as worker:
        yield worker


@pytest.fixture
def image_server() -> Iterator[ImageServer]:
    with serve_images() as server:
        yield server
