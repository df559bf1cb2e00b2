"""Real `arno-worker` processes for tests, and waiting for what they do."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from arno_shared.broker import celery_app, node_names
from arno_shared.settings import Settings
from tests.acceptance.fork_server import FLORENCE, LIGHT, Fork, fork_server

PATIENCE_S = 60.0
"""How long a condition may take to come true on a busy machine. Nothing is waited for longer than it takes."""


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """The condition's value once it is true; fails the test, naming `what`, when it never is."""
    deadline = monotonic() + timeout_s
    while not (value := condition()):
        assert monotonic() < deadline, f"after {timeout_s} s still not: {what}"
        sleep(0.05)
    return value


def logged_lines(log: Path) -> list[dict[str, Any]]:
    """A log's lines. Celery's own farewell is not JSON; the last line may be half written."""
    whole = log.read_text().rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in whole if line.startswith("{")]


@dataclass
class ArnoWorker:
    name: str
    process: Fork
    log: Path

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Lines of its log with that event."""
        return [line for line in logged_lines(self.log) if line["event"] == event]

    @property
    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @property
    def cpu_s(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def terminate(self, timeout_s: float = PATIENCE_S) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextmanager
def arno_worker(
    settings: Settings,
    folder: Path,
    name: str = "cpu0",
    env: Mapping[str, str] | None = None,
    *,
    module: str = "arno_workers.cli",
    ready: bool = True,
) -> Iterator[ArnoWorker]:
    """A worker on the broker and with the output of `settings`, killed at the end; once it answers pings, but for
    `ready=False`."""
    log = folder / f"{name}.log"
    whole = {
        **os.environ,
        "ARNO_REDIS_URL": settings.redis_url,
        "ARNO_OUTPUT_PREFIX": settings.output_prefix,
        "ARNO_WORKER__TORCH_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        **(env or {}),
    }
    needs = LIGHT if whole.get("ARNO_WORKER__ENGINE") == "null" else FLORENCE
    # Code from elsewhere must not meet what was imported from here.
    process = fork_server(*(() if "PYTHONPATH" in whole else needs)).start(
        module, ["--device", "cpu", "--name", name], whole, log
    )
    worker = ArnoWorker(name, process, log)
    app = celery_app(settings)

    def answers() -> bool:
        assert process.poll() is None, f"{name} ended with {process.returncode}:\n{log.read_text()[-4000:]}"
        return any(node.startswith(f"{name}@") for node in node_names(app))

    try:
        if ready:
            eventually(answers, f"{name} answers")
        yield worker
    finally:
        process.kill()
        process.wait()
        app.close()
