"""One worker process: one device, one replica, one Celery consumer."""

import os
import signal
import socket
from math import ceil
from threading import Event, Thread

from arno_shared.broker import Sender, release_due
from arno_shared.dead_letters import DeadLetters
from arno_shared.errors import HouseError
from arno_shared.ledger import Ledger
from arno_shared.logs import get_logger
from arno_shared.redis_client import connect
from arno_shared.settings import Settings
from arno_shared.storage import ObjectStore
from arno_workers.app import run_worker, worker_app
from arno_workers.engine import Engine
from arno_workers.engine.start import start_engine
from arno_workers.fetch.reader import ImageReader
from arno_workers.intake import Intake
from arno_workers.patience import Drain, until_back
from arno_workers.pipeline import Pipeline
from arno_workers.tasks import register

log = get_logger(__name__)

_RELEASE_EVERY_S = 1.0


def run_node(settings: Settings, device: str, name: str) -> int:
    """Loads and warms the replica, then works until SIGTERM; the exit code, which is 1 when the replica broke.

    Raises ModelUnusable, MissingExtra.
    """
    worker = f"{name}@{socket.gethostname()}"
    store = ObjectStore(connections=settings.worker.fetch_threads)
    drain = Drain(settings.worker.drain_s)
    broken = Event()

    def stop_broken() -> None:
        """A replica that cannot answer takes no more work: chunks in hand go back, for others to do."""
        broken.set()
        drain.end_now()
        os.kill(os.getpid(), signal.SIGTERM)

    engine = start_engine(settings.worker, device, store, stop_broken)
    redis = connect(settings)
    ledger = Ledger(redis, settings)
    dead_letters = DeadLetters(redis, settings.dead_letters.max_letters)
    pipeline = Pipeline(
        ledger=ledger,
        dead_letters=dead_letters,
        store=store,
        engine=engine,
        intake=Intake(ImageReader(store, settings.limits), engine, settings),
        drain=drain,
        settings=settings,
        worker=worker,
    )
    app = worker_app(
        settings, worker, lambda letter: until_back(lambda: dead_letters.add(letter), "the dead letters", drain)
    )
    register(app, pipeline)
    stopping = Event()
    Thread(target=_release, args=(ledger, Sender(app), stopping), name="release-due", daemon=True).start()
    log.info("worker starts", worker=worker, device=device)
    try:
        code = run_worker(app, settings, worker, _chunks_in_flight(settings, engine), drain.begin)
        return 1 if broken.is_set() else code
    finally:
        stopping.set()
        log.info("worker stopped", worker=worker, device_busy_s=round(engine.busy_s, 3))


def _chunks_in_flight(settings: Settings, engine: Engine) -> int:
    """As many as the device has an appetite for, and one that is being committed."""
    return settings.worker.chunks_in_flight or ceil(engine.appetite_images / settings.producer.chunk_images) + 1


def _release(ledger: Ledger, sender: Sender, stopping: Event) -> None:
    """Sends the attempts that were put off, when their time has come."""
    while not stopping.wait(_RELEASE_EVERY_S):
        try:
            release_due(ledger, sender)
        except HouseError as error:
            log.warning("waiting", what="chunks put off", error=str(error))
        except Exception:
            log.exception("a chunk that was put off cannot be sent")
