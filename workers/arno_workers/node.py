"""One worker process: one device, one replica, one Celery consumer."""

import os
import signal
import socket
from math import ceil
from threading import Event

from arno_shared import tracing
from arno_shared.broker import Sender, queue_length
from arno_shared.dead_letters import DeadLetter, DeadLetters
from arno_shared.delivery.hands import Hands
from arno_shared.errors import ArnoError, HouseError, RedisRefused
from arno_shared.house_metrics import HouseCollector
from arno_shared.ledger import Ledger
from arno_shared.logs import get_logger
from arno_shared.names import Lane, uploads_prefix
from arno_shared.redis_client import RedisClient, connect
from arno_shared.redis_server import check_server
from arno_shared.results import ModelFacts
from arno_shared.settings import Settings
from arno_shared.storage import ObjectStore
from arno_shared.storage.arbiter import RedisArbiter
from arno_workers.consumer.app import run_worker, worker_app
from arno_workers.consumer.lease import keep_leases
from arno_workers.consumer.letterbox import Letterbox
from arno_workers.consumer.releaser import keep_releasing
from arno_workers.consumer.tasks import register
from arno_workers.engine import Engine
from arno_workers.engine.start import start_engine
from arno_workers.fetch.reader import ImageReader
from arno_workers.health.checks import house_checks
from arno_workers.health.presence import Presence
from arno_workers.health.probes import Probes
from arno_workers.health.spot import watch_for_notice
from arno_workers.health.vitals import Phase, Vitals
from arno_workers.health.watchdog import Watchdog
from arno_workers.pipeline.chunk_handler import ChunkHandler
from arno_workers.pipeline.intake import Intake
from arno_workers.pipeline.metrics import WorkerMetrics
from arno_workers.pipeline.patience import Drain, until_back
from arno_workers.pipeline.result_writer import ResultWriter

log = get_logger(__name__)


def run_node(settings: Settings, device: str, name: str) -> int:
    """Loads and warms the replica, then works until SIGTERM; the exit code, which is 1 when the replica broke.

    Raises ModelUnusable, MissingExtra, IncompatibleKombu, InvalidRequest (a port that cannot be had), RedisRefused.
    """
    worker = f"{name}@{socket.gethostname()}"
    tracing.configure("arno-worker")
    vitals = Vitals()
    drain = Drain(settings.worker.drain_s)
    broken = Event()

    def stop_broken() -> None:
        """A replica that cannot answer takes no more work: chunks in hand go back, for others to do."""
        broken.set()
        drain.end_now()
        os.kill(os.getpid(), signal.SIGTERM)

    redis = connect(settings)
    _check_redis(redis)
    store = ObjectStore(connections=settings.worker.fetch_threads, arbiter=RedisArbiter(redis))
    metrics = WorkerMetrics()
    metrics.registry.register(HouseCollector(settings))
    probes = Probes(settings.worker, vitals, house_checks(redis, store, settings.output_prefix), metrics.exposition)
    asked = ModelFacts(
        id=settings.worker.model,
        revision=settings.worker.revision,
        dtype=settings.worker.dtype,
        adapter=settings.worker.adapter or None,
    )
    presence = Presence(redis, vitals, worker=worker, device=device, model=asked, health=probes.start())
    presence.start()
    engine = start_engine(settings.worker, device, store, stop_broken, metrics.batch_ran)
    presence.model, presence.provenance, presence.execution = engine.model, engine.provenance, lambda: engine.execution
    metrics.describe(device, engine.model)
    ledger = Ledger(redis, settings)
    dead_letters = DeadLetters(redis, settings.dead_letters.max_letters)
    handler = ChunkHandler(
        ledger=ledger,
        dead_letters=dead_letters,
        writer=ResultWriter(store, settings.retries.max_attempts),
        engine=engine,
        intake=Intake(ImageReader(store, settings.limits, uploads_prefix(settings.output_prefix)), engine, settings),
        drain=drain,
        vitals=vitals,
        metrics=metrics,
        settings=settings,
        worker=worker,
    )
    hands = _hands(settings, worker, vitals)
    metrics.watch(vitals, engine, hands)

    def file_at_once(_: str, letter: DeadLetter) -> None:
        """With the stock transport, which holds the message."""
        until_back(lambda: dead_letters.add(letter), "the dead letters", drain)
        metrics.ended("filed")

    letterbox = Letterbox(hands, drain, lambda: metrics.ended("filed")) if hands is not None else file_at_once
    app = worker_app(settings, worker, hands, letterbox)
    register(app, handler, hands, vitals)

    def stop(at_once: bool) -> None:
        vitals.phase = Phase.DRAINING
        if hands is not None:
            hands.stopping = True
        drain.begin()
        if at_once:
            drain.end_now()

    vitals.room_chunks = _chunks_in_flight(settings, engine)
    keep_releasing(ledger, Sender(app))
    _keep_watch(settings, vitals, hands, engine, redis)
    _try_conditional_writes(store, settings.output_prefix)
    log.info("worker starts", worker=worker, device=device)
    vitals.phase = Phase.WORKING
    try:
        code = run_worker(app, settings, worker, vitals.room_chunks, stop)
        return 1 if broken.is_set() else code
    finally:
        presence.stop()
        probes.stop()
        tracing.stop()
        log.info("worker stopped", worker=worker, device_busy_s=round(engine.busy_s, 3))


def _check_redis(redis: RedisClient) -> None:
    """Raises RedisRefused. One that is away is waited for, by whoever needs it first."""
    try:
        check_server(redis)
    except RedisRefused:
        raise
    except HouseError as error:
        log.warning("waiting", what="Redis", error=str(error))


def _keep_watch(settings: Settings, vitals: Vitals, hands: Hands | None, engine: Engine, redis: RedisClient) -> None:
    """Starts the threads that look after the worker itself. They end with the process."""
    if hands is not None:
        keep_leases(hands, settings.broker.lease_s)
    Watchdog(
        vitals,
        hands,
        stuck_s=settings.worker.stuck_s,
        # Each lane is asked for, and each question is tried twice.
        answer_s=2 * len(Lane) * settings.broker.socket_timeout_s,
        room_chunks=vitals.room_chunks,
        busy_s=lambda: engine.busy_s,
        waiting=lambda: sum(queue_length(redis, lane) for lane in Lane),
    ).start()
    if settings.worker.spot_notice is not None:
        watch_for_notice(settings.worker.spot_notice)


def _try_conditional_writes(store: ObjectStore, prefix: str) -> None:
    try:
        log.info("storage", prefix=prefix, conditional_writes=store.conditional_writes(prefix))
    except ArnoError as error:
        # Jobs may say where their results go, and what is away may come back.
        log.warning("storage cannot be tried", prefix=prefix, error=str(error))


def _hands(settings: Settings, worker: str, vitals: Vitals) -> Hands | None:
    """Without them, messages are held as stock kombu does it."""
    if settings.broker.transport == "stock":
        return None
    hands = Hands(
        connect(settings),
        worker=worker,
        key_prefix=settings.key_prefix,
        lease_s=settings.broker.lease_s,
        lease_max_s=settings.broker.lease_max_s,
        max_letters=settings.dead_letters.max_letters,
    )
    hands.on_answer, hands.on_refusal = vitals.consumer_beat, vitals.consumer_refused
    return hands


def _chunks_in_flight(settings: Settings, engine: Engine) -> int:
    """As many as the device has an appetite for, and one that is being committed."""
    return settings.worker.chunks_in_flight or ceil(engine.appetite_images / settings.producer.chunk_images) + 1
