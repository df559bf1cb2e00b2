"""The worker's Celery app: how it consumes, and how it starts and stops."""

import signal
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.events.dispatcher import EventDispatcher
from celery.worker import state

from arno_shared.broker import celery_app
from arno_shared.delivery.hands import Hands
from arno_shared.messages import SCHEMA_VERSION
from arno_shared.names import queues
from arno_shared.settings import Settings
from arno_workers.consumer.unreadable import FileLetter, consumer_class


def worker_app(settings: Settings, worker: str, hands: Hands | None, file_letter: FileLetter) -> Celery:
    app = celery_app(settings, hands)
    app.conf.worker_consumer = consumer_class(file_letter, worker)
    app.events.dispatcher_cls = UnbufferedDispatcher
    # Logging is configured before Celery starts; connecting to this signal is how it is told to leave it alone.
    signals.setup_logging.connect(_leave_logging_alone, weak=False)
    return app


class UnbufferedDispatcher(EventDispatcher):  # type: ignore[misc]
    """Sends each event by itself.

    Finding: Celery gathers the events of tasks, sends them from its event loop and then empties the list, with what the
    pool's threads have added meanwhile: of every few tasks, one stayed "started" for ever in Flower.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "buffer_group": None, "on_send_buffered": None})


def run_worker(app: Celery, settings: Settings, worker: str, chunks: int, on_stop: Callable[[bool], None]) -> int:
    """Consumes `chunks` at a time until SIGTERM, SIGINT or SIGQUIT; the exit code.

    `on_stop` is called when the worker is told to stop, and each time that it is told again, with whether it is to stop
    at once: that is what SIGQUIT says, and every signal but the first.
    """
    _stop_by_signal(on_stop)
    arguments = [
        # No banner among the log's lines.
        "--quiet",
        "worker",
        # The device's own thread does the work; a chunk's thread waits for it.
        "--pool=threads",
        f"--concurrency={chunks}",
        f"--hostname={worker}",
        f"--queues={','.join(queues(SCHEMA_VERSION))}",
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


def _stop_by_signal(on_stop: Callable[[bool], None]) -> None:
    """Finding: Celery's cold shutdown waits inside its signal handler for what it was told to leave, and a second
    SIGTERM says nothing to it. Its handlers are replaced once it has put them in place."""

    def stop(number: int, _: Any) -> None:
        on_stop(number == signal.SIGQUIT or state.should_stop is not None)
        state.should_stop = 0

    def install(**_: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, stop)

    def told_early(**_: Any) -> None:
        on_stop(False)

    signals.worker_ready.connect(install, weak=False)
    # Before that, Celery's own are in place.
    signals.worker_shutting_down.connect(told_early, weak=False)


def _leave_logging_alone(**_: Any) -> None:
    pass
