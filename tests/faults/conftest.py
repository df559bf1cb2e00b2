"""Real workers on real servers, for faults to happen to. `--long` makes of each short run a long one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from arno_shared.settings import Settings
from arno_shared.uris import file_uri
from tests.acceptance.arno_worker import ArnoWorker, arno_worker
from tests.acceptance.conftest import NULL_ENGINE, files_allowed, pictures, producer, settings
from tests.faults.afflicted import colour
from tests.faults.rig import QUICK

__all__ = ["files_allowed", "pictures", "producer", "settings"]


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether there is time to try often."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def start(settings: Settings, tmp_path: Path, files_allowed: dict[str, str]) -> Iterator[Callable[..., ArnoWorker]]:
    """Starts a worker that is quick about everything, on `settings` or others; it ends with the test."""
    with ExitStack() as stack:

        def begin(
            name: str = "w",
            *,
            afflicted: bool = False,
            module: str = "arno_workers.cli",
            at: Settings = settings,
            ready: bool = True,
            **env: str,
        ) -> ArnoWorker:
            module = "tests.faults.afflicted" if afflicted else module
            whole = {**files_allowed, **NULL_ENGINE, **QUICK, **env}
            return stack.enter_context(arno_worker(at, tmp_path, name, whole, module=module, ready=ready))

        yield begin


@pytest.fixture
def harmful(tmp_path: Path) -> Callable[[int], str]:
    """Makes a picture from which an afflicted worker suffers; its URI."""

    def make(affliction: int) -> str:
        path = tmp_path / f"harmful-{affliction}.png"
        Image.new("RGB", (16, 16), colour(affliction)).save(path)
        return file_uri(path)

    return make
