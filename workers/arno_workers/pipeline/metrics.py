"""What a worker counts and times, for Prometheus: served at `/metrics`, beside its health pages.

No label has values that grow with the work: stages, outcomes, tasks and codes are all known beforehand.
"""

from collections import Counter as Tally
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from arno_shared import __version__
from arno_shared.delivery.hands import Hands
from arno_shared.prompts import RAW
from arno_shared.results import ModelFacts, ResultRow, Status
from arno_workers.engine import Engine
from arno_workers.health.vitals import Vitals
from arno_workers.pipeline.chunk_run import Item

_IMAGE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_CHUNK_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class WorkerMetrics:
    """Of one worker process. Thread-safe."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._images = Counter(
            "arno_images", "Images by what became of them in this attempt", ["outcome"], registry=registry
        )
        self._failures = Counter(
            "arno_image_failures", "Images that failed for good, by error code", ["code"], registry=registry
        )
        self._answers = Counter(
            "arno_answers", "Prompts of images with a row, by task and outcome", ["task", "outcome"], registry=registry
        )
        self._tokens = Counter("arno_tokens", "Tokens in answers", registry=registry)
        self._chunks = Counter("arno_chunks", "Messages by what became of them", ["outcome"], registry=registry)
        self._chunk_s = Histogram(
            "arno_chunk_seconds",
            "From the moment a chunk is begun until it is committed",
            buckets=_CHUNK_S,
            registry=registry,
        )
        self._stage_s = Histogram(
            "arno_stage_seconds",
            "fetch, decode, wait: of an image; write, commit: of a chunk; vision, encode, step: of a batch",
            ["stage"],
            buckets=_IMAGE_S,
            registry=registry,
        )
        self._batch = Histogram(
            "arno_batch_size",
            "vision: pictures; encode: prompts; step: slots",
            ["stage"],
            buckets=_BATCH,
            registry=registry,
        )
        for outcome in ("ok", "failed", "put_off", "given_up"):
            self._images.labels(outcome)
        for ending in ("committed", "duplicate", "dropped", "parked", "buried", "given_back", "filed"):
            self._chunks.labels(ending)
        self._info = Gauge(
            "arno_worker_info", "1", ["device", "model", "adapter", "dtype", "version"], registry=registry
        )

    def exposition(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self.registry)

    def describe(self, device: str, model: ModelFacts) -> None:
        self._info.labels(device, model.id, model.adapter or "", model.dtype, __version__).set(1)

    def watch(self, vitals: Vitals, engine: Engine, hands: Hands | None) -> None:
        """Reads from these whatever they know, each time that it is asked for."""
        self._read("arno_chunks_in_flight", "Chunks in hand", lambda: vitals.chunks_in_flight)
        self._read("arno_chunks_room", "Chunks that may be in hand at a time", lambda: vitals.room_chunks)
        self._read("arno_slots_in_use", "Answers that are growing", lambda: engine.load.slots_in_use)
        self._read("arno_slots", "Answers that may grow at a time", lambda: engine.load.slots)
        self._read_total("arno_device_busy_seconds", "How long the device has worked", lambda: engine.busy_s)
        memory = Gauge("arno_device_memory_bytes", "Of the device", ["kind"], registry=self.registry)
        memory.labels("used").set_function(lambda: engine.load.memory_used_bytes)
        memory.labels("total").set_function(lambda: engine.load.memory_total_bytes)
        if hands is not None:
            self._read_total(
                "arno_leases_expired",
                "Messages that this worker gave back for others, whose leases ran out",
                lambda: hands.swept_messages,
            )

    def ended(self, outcome: str) -> None:
        """A message has come to its end here: committed, duplicate, dropped, parked, buried, given_back or filed."""
        self._chunks.labels(outcome).inc()

    def staged(self, stage: str, seconds: float) -> None:
        self._stage_s.labels(stage).observe(seconds)

    def batch_ran(self, stage: str, size: int, seconds: float) -> None:
        """On the device; see `arno_workers.engine.clock`."""
        self._stage_s.labels(stage).observe(seconds)
        self._batch.labels(stage).observe(size)

    def committed(
        self, rows: Sequence[ResultRow], tasks: Sequence[str | None], put_off: int, given_up: int, seconds: float
    ) -> None:
        """`tasks`: of the chunk's prompts, None for a fine-tune's own. `given_up`: of the rows, those of images that
        are dead letters."""
        self.ended("committed")
        self._chunk_s.observe(seconds)
        codes = Tally(row.error.code for row in rows if row.error)
        failed = codes.total()
        outcomes = {"ok": len(rows) - failed, "failed": failed - given_up, "put_off": put_off, "given_up": given_up}
        for outcome, images in outcomes.items():
            self._images.labels(outcome).inc(images)
        for code, images in codes.items():
            self._failures.labels(code).inc(images)
        answers = Tally(
            (answer.task or RAW, "truncated" if answer.truncated else "ok")
            for row in rows
            if row.status is Status.OK
            for answer in row.prompts
        )
        for labels, count in answers.items():
            self._answers.labels(*labels).inc(count)
        for task in tasks if failed else ():
            self._answers.labels(task or RAW, "failed").inc(failed)
        self._tokens.inc(sum(answer.tokens for row in rows for answer in row.prompts))

    def passed_through(self, items: Sequence[Item]) -> None:
        """Times the stages that each image went through."""
        fetch, decode, wait = (self._stage_s.labels(stage) for stage in ("fetch", "decode", "wait"))
        for item in items:
            if item.fetch_ms:
                fetch.observe(item.fetch_ms / 1000)
            if item.decode_ms:
                decode.observe(item.decode_ms / 1000)
            if item.answered:
                wait.observe(item.answered.wait_ms / 1000)

    def _read(self, name: str, what: str, value: Callable[[], float]) -> None:
        Gauge(name, what, registry=self.registry).set_function(value)

    def _read_total(self, name: str, what: str, value: Callable[[], float]) -> None:
        self.registry.register(_ReadCounter(name, what, value))


class _ReadCounter(Collector):
    """A counter that somebody else counts."""

    def __init__(self, name: str, what: str, value: Callable[[], float]) -> None:
        self._name, self._what, self._value = name, what, value

    def collect(self) -> Sequence[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._what)
        family.add_metric([], self._value())
        return [family]
