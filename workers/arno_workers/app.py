"""The worker's Celery app: how it consumes, and how it starts and stops."""

from collections.abc import Callable
from typing import Any

from celery import Celery, signals

from arno_shared.broker import celery_app
from arno_shared.dead_letters import DeadLetter
from arno_shared.names import QUEUES
from arno_shared.settings import Settings
from arno_workers.tasks import consumer_class


def worker_app(settings: Settings, worker: str, file_letter: Callable[[DeadLetter], None]) -> Celery:
    app = celery_app(settings)
    app.conf.worker_consumer = consumer_class(file_letter, worker)
    # Logging is configured before Celery starts; connecting to this signal is how it is told to leave it alone.
    signals.setup_logging.connect(_leave_logging_alone, weak=False)
    return app


def run_worker(app: Celery, settings: Settings, worker: str, chunks: int, on_shutdown: Callable[[], None]) -> int:
    """Consumes `chunks` at a time until SIGTERM or SIGINT; the exit code.

    `on_shutdown` is called when the worker begins to stop.
    """

    def shutting_down(**_: Any) -> None:
        on_shutdown()

    signals.worker_shutting_down.connect(shutting_down, weak=False)
    arguments = [
        # No banner among the log's lines.
        "--quiet",
        "worker",
        # The device's own thread does the work; a chunk's thread waits for it.
        "--pool=threads",
        f"--concurrency={chunks}",
        f"--hostname={worker}",
        f"--queues={','.join(QUEUES)}",
        f"--loglevel={settings.log_level.upper()}",
        # Both are chatter between workers that grows with the square of their number.
        "--without-gossip",
        "--without-mingle",
    ]
    # Flower calls a worker online by its heartbeats.
    arguments.append("--task-events" if settings.broker.task_events else "--without-heartbeat")
    try:
        app.worker_main(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def _leave_logging_alone(**_: Any) -> None:
    pass
