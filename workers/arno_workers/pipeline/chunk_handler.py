"""The life of a chunk in a worker: ledger → fetch and decode → engine → rows → storage → commit.

`handle` returns when the message may be acknowledged: its chunk is committed, dropped (cancelled, done before), in the
dead letters, or in another queue. It raises Drained when the message is to go back to the queue, and nothing else.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from arno_shared import tracing
from arno_shared.dead_letters import DeadLetter, DeadLetters, LetterKind
from arno_shared.errors import ArnoError, HouseError, InternalError, JobConflict, NewerSchema, WorkerLost
from arno_shared.ledger import Begun, Ledger, Message, Suspect, Verdict
from arno_shared.logs import get_logger
from arno_shared.messages import MAX_CHUNKS, Chunk, Output, TaskMessage, parse_message, raw_message
from arno_shared.names import check_job_id, task_id
from arno_shared.settings import Settings
from arno_shared.topic import Counts
from arno_shared.uris import redact
from arno_workers.engine import Engine
from arno_workers.health.vitals import Vitals
from arno_workers.pipeline.chunk_run import ChunkRun, Item
from arno_workers.pipeline.delivery import Delivery
from arno_workers.pipeline.intake import Intake
from arno_workers.pipeline.metrics import WorkerMetrics
from arno_workers.pipeline.patience import Drain, Drained, LetGo, until_back
from arno_workers.pipeline.quarantine import Quarantine
from arno_workers.pipeline.result_writer import ResultWriter
from arno_workers.pipeline.rows import Settled, outcome, settle

log = get_logger(__name__)

T = TypeVar("T")

_MOST_REASON_CHARS = 4000
"""Of what went wrong, in a dead letter and in the log."""


class ChunkHandler:
    """One for each worker; `handle` is called by several threads at a time, a chunk each."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        dead_letters: DeadLetters,
        writer: ResultWriter,
        engine: Engine,
        intake: Intake,
        drain: Drain,
        vitals: Vitals,
        metrics: WorkerMetrics,
        settings: Settings,
        worker: str,
    ) -> None:
        self._ledger, self._dead_letters, self._writer = ledger, dead_letters, writer
        self._engine, self._intake, self._drain, self._vitals = engine, intake, drain, vitals
        self._metrics, self._settings, self._worker = metrics, settings, worker
        self._quarantine = Quarantine()
        # Half of the deliveries are for the chunk, the other half for an image that runs alone.
        self._together_times = settings.retries.max_deliveries // 2
        self._alone_times = settings.retries.max_deliveries - self._together_times

    def handle(self, args: Sequence[Any], kwargs: Mapping[str, Any], delivery: Delivery) -> str:
        """One message, from its arguments to the moment when it may be acknowledged; what became of it, in a few words.
        Raises Drained."""
        with self._vitals.chunk():
            try:
                message = parse_message(args, kwargs)
                return self._handle(message, delivery)
            except Drained:
                self._metrics.ended("given_back")
                raise
            except NewerSchema as error:
                queue = delivery.lane.queue_for(error.version)
                if self._until_back(lambda: delivery.forward(queue), "Redis", delivery):
                    return "left to newer workers"
                return self._file(error, args, kwargs, delivery)
            except BaseException as error:
                # An exception that reached Celery would be acknowledged, and its message lost.
                return self._file(error, args, kwargs, delivery)

    def _handle(self, message: TaskMessage, delivery: Delivery) -> str:
        asked = self._asked(message, delivery.message_id)
        # Without hands, the transport gives every delivery of a message the same tag.
        tag = delivery.tag if delivery.hands is not None else secrets.token_hex(8)
        said = Message(delivery.message_id, asked.digest, tag)
        index = message.index if message.job_id else 0

        def begin(first_index: int | None = None) -> Begun:
            call = partial(self._ledger.begin, asked.job_id, index, asked.attempt, said, asked.output, first_index)
            return self._until_back(call, "the ledger", delivery)

        begun = begin()
        if begun.verdict is Verdict.UNNUMBERED:
            begun = begin(self._until_back(lambda: self._writer.next_index(asked.output), "storage", delivery))
        chunk = asked.model_copy(update={"index": begun.index, "positions": begun.positions})
        match begun.verdict:
            case Verdict.GO:
                return self._do(chunk, begun.times, tag, delivery)
            case Verdict.PAUSED:
                if self._until_back(lambda: self._ledger.park(chunk, delivery.lane), "the ledger", delivery):
                    self._metrics.ended("parked")
                    return "kept until its job goes on"
                # Its job went on in between.
                return self._handle(message, delivery)
            case Verdict.UNSURE if not self._until_back(lambda: self._writer.has_written(chunk), "storage", delivery):
                raise _conflict(chunk)
            case Verdict.CONFLICT:
                raise _conflict(chunk)
            case Verdict.CANCELLED:
                return self._dropped(chunk, "cancelled", "dropped", "dropped: cancelled")
            case _:
                return self._dropped(chunk, "committed", "duplicate", "done before")

    def _do(self, chunk: Chunk, times: int, tag: str, delivery: Delivery) -> str:
        try:
            if times <= self._together_times:
                return self._run_together(chunk, delivery)
            return self._run_alone(chunk, delivery, times, tag)
        except Drained:
            with suppress(HouseError):
                self._ledger.hand_back(chunk, tag)
            raise
        except BaseException as error:
            return self._bury(chunk, error, delivery)

    def _dropped(self, chunk: Chunk, why: str, ended: str, words: str) -> str:
        log.info("chunk dropped", job=chunk.job_id, chunk=chunk.index, why=why)
        self._metrics.ended(ended)
        return words

    def _run_together(self, chunk: Chunk, delivery: Delivery) -> str:
        with self._quarantine.together(self._wait_turn(delivery)):
            began_s = perf_counter()
            return self._finish(self._run(chunk, delivery), delivery, began_s)

    def _run_alone(self, chunk: Chunk, delivery: Delivery, times: int, tag: str) -> str:
        """A chunk that workers may have died of: its images one at a time, and nothing else meanwhile."""
        log.warning("a suspect runs alone", job=chunk.job_id, chunk=chunk.index, times=times)
        with self._quarantine.alone(self._wait_turn(delivery)):
            began_s = perf_counter()
            run = ChunkRun(chunk, delivery.lane, delivery.heard)
            for position in range(len(chunk.images)):
                item = self._item_alone(run, position, tag, delivery)
                item.run, item.position = run, position
                run.items[position] = item
            with self._suspected(chunk, "whole", tag, delivery):
                return self._finish(run, delivery, began_s)

    def _item_alone(self, run: ChunkRun, position: int, tag: str, delivery: Delivery) -> Item:
        image = run.chunk.images[position]
        try:
            with self._suspected(run.chunk, position, tag, delivery):
                return self._run(run.chunk.only([position]), delivery).items[0]
        except WorkerLost as error:
            log.error("image given up", code=error.code, job=run.chunk.job_id, chunk=run.chunk.index, image=image.uri)
            return Item(run, position, error=error)

    @contextmanager
    def _suspected(self, chunk: Chunk, what: Suspect, tag: str, delivery: Delivery) -> Iterator[None]:
        """Raises WorkerLost when it has cost too many workers."""
        times = self._until_back(lambda: self._ledger.suspect(chunk, what, tag), "the ledger", delivery)
        try:
            if times > self._alone_times:
                raise WorkerLost(f"{times - 1} workers died while they had this alone in hand")
            yield
        except BaseException:
            with suppress(HouseError):
                self._ledger.hand_back(chunk, tag, what)
            raise
        self._until_back(lambda: self._ledger.acquit(chunk, what), "the ledger", delivery)

    def _run(self, chunk: Chunk, delivery: Delivery) -> ChunkRun:
        with tracing.span(
            "arno.images",
            arno__job=chunk.job_id,
            arno__chunk=chunk.index,
            arno__attempt=chunk.attempt,
            arno__images=len(chunk.images),
        ) as span:
            run = ChunkRun(chunk, delivery.lane, delivery.heard, trace=tracing.traceparent())
            self._settle(run, delivery)
            span.say(**run.spent_ms())
        return run

    def _settle(self, run: ChunkRun, delivery: Delivery) -> None:
        """Until every image of it has come to an end. Raises Drained."""
        self._intake.add(run)
        while not run.settled.wait(timeout=1.0):
            self._drain.check()
            if delivery.let_go:
                # Its holder lives: this was no death.
                raise LetGo

    def _finish(self, run: ChunkRun, delivery: Delivery, began_s: float) -> str:
        """Raises StorageRefused or MissingExtra when the result object can never be written."""
        chunk = run.chunk
        settled = settle(run, self._engine, self._settings.retries.max_attempts, self._worker)
        if (settled.put_off or settled.given_up) and self._until_back(
            lambda: self._ledger.is_committed(chunk), "the ledger", delivery
        ):
            # The same message came twice, and the other run had better luck: its rows must not be overwritten.
            return self._dropped(chunk, "committed meanwhile", "duplicate", "done before")
        with self._timed("write"):
            uri, settled = self._until_back(lambda: self._writer.write(chunk, settled), "storage", delivery)
        result = outcome(chunk, settled, uri, delivery.lane, self._worker, self._settings)
        with self._timed("commit"):
            first = self._until_back(lambda: self._ledger.commit(chunk, result), "the ledger", delivery)
        self._vitals.committed(len(settled.rows))
        self._count(run, settled, first, perf_counter() - began_s)
        counts = result.event.data.counts
        log.info(
            "chunk committed" if first else "chunk was committed before",
            job=chunk.job_id,
            chunk=chunk.index,
            attempt=chunk.attempt,
            ok=counts.ok,
            failed=counts.failed,
            put_off=counts.put_off,
            seconds=round(perf_counter() - began_s, 3),
        )
        return _in_words(counts, result.failed_by_code) if first else "done before"

    def _count(self, run: ChunkRun, settled: Settled, first: bool, seconds: float) -> None:
        self._metrics.passed_through(run.items)
        if not first:
            self._metrics.ended("duplicate")
            return
        self._metrics.committed(
            settled.rows,
            [prompt.task for prompt in run.chunk.prompts],
            put_off=len(settled.put_off.images) if settled.put_off else 0,
            given_up=len(settled.given_up.images) if settled.given_up else 0,
            seconds=seconds,
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began_s = perf_counter()
        with tracing.span(f"arno.{stage}"):
            yield
        self._metrics.staged(stage, perf_counter() - began_s)

    def _asked(self, message: TaskMessage, message_id: str) -> Chunk:
        """What a message asks for, its index aside; one without a job is a job of its own, in a folder of its own."""
        job_id = message.job_id or _job_id_from(message_id)
        output = message.output or Output(prefix=self._settings.output_prefix)
        if message.job_id is None or message.output is None:
            output = output.model_copy(update={"prefix": f"{output.prefix}{job_id}/"})
        return Chunk(
            images=message.images,
            prompts=message.prompts,
            output=output,
            generation=message.generation,
            job_id=job_id,
            index=message.index or 0,
            attempt=message.attempt,
        )

    def _bury(self, chunk: Chunk, error: BaseException, delivery: Delivery) -> str:
        code, reason = _describe(error)
        log.error("chunk given up", job=chunk.job_id, chunk=chunk.index, code=code, exc_info=error)
        letter = DeadLetter.of_chunk(
            LetterKind.CHUNK, chunk, code=code, reason=reason, lane=delivery.lane, worker=self._worker
        )
        self._until_back(lambda: self._ledger.bury(chunk, letter), "the ledger", delivery)
        self._metrics.ended("buried")
        return f"given up: {code}"

    def _file(self, error: BaseException, args: Sequence[Any], kwargs: Mapping[str, Any], delivery: Delivery) -> str:
        code, reason = _describe(error)
        log.error("message given up", code=code, error=reason)
        told: dict[str, Any] = {"code": code, "reason": reason, "lane": delivery.lane, "worker": self._worker}
        raw = raw_message(args, kwargs)
        chunk = _house_chunk(kwargs, delivery.message_id)
        if chunk is not None and not isinstance(error, JobConflict):
            # Whoever sent it counts on it: its job must come to an end.
            given_up = DeadLetter.of_chunk(LetterKind.CHUNK, chunk, raw=raw, **told)
            self._until_back(lambda: self._ledger.bury(chunk, given_up), "the ledger", delivery)
        else:
            letter = DeadLetter(
                kind=LetterKind.MESSAGE, raw=raw, message_id=delivery.message_id, job_id=_named_job(kwargs), **told
            )
            self._until_back(lambda: self._dead_letters.add(letter), "the dead letters", delivery)
        self._metrics.ended("filed")
        return f"given up: {code}"

    def _wait_turn(self, delivery: Delivery) -> Callable[[], None]:
        def wait() -> None:
            self._drain.check()
            delivery.waits()

        return wait

    def _until_back(self, call: Callable[[], T], what: str, delivery: Delivery) -> T:
        return until_back(call, what, self._drain, delivery.heard)


def _in_words(counts: Counts, failed_by_code: Mapping[str, int]) -> str:
    words = [f"{counts.ok} ok"]
    if counts.failed:
        words.append(f"{counts.failed} failed: {' '.join(sorted(failed_by_code))}")
    if counts.put_off:
        words.append(f"{counts.put_off} put off")
    return ", ".join(words)


def _job_id_from(message_id: str) -> str:
    """A Celery task id, if it can be a job id; clients may choose any string."""
    try:
        return check_job_id(message_id)
    except ValueError:
        return hashlib.sha256(message_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _named_job(kwargs: Mapping[str, Any]) -> str | None:
    """The job that a message names, for whoever asks for its letters."""
    try:
        return check_job_id(kwargs["job_id"])
    except (KeyError, TypeError, ValueError):
        return None


def _house_chunk(kwargs: Mapping[str, Any], message_id: str) -> Chunk | None:
    """What a message of the house's own was to be, however little of it can be done; None when it is another's."""
    try:
        job_id, index, attempt = check_job_id(kwargs["job_id"]), int(kwargs["index"]), int(kwargs.get("attempt", 1))
        output = Output.model_validate(kwargs["output"])
        images = tuple(kwargs["images"])
    except (KeyError, TypeError, ValueError):
        return None
    if message_id != task_id(job_id, index, attempt) or not 0 <= index < MAX_CHUNKS:
        return None
    return Chunk.model_construct(images=images, prompts=(), output=output, job_id=job_id, index=index, attempt=attempt)


def _conflict(chunk: Chunk) -> JobConflict:
    return JobConflict(
        f"job {chunk.job_id!r}, its chunk {chunk.index} or its output {redact(chunk.output.prefix)} belongs to other "
        "work: send it under a job id and an output of its own"
    )


def _describe(error: BaseException) -> tuple[str, str]:
    """Code and reason for a dead letter."""
    code = error.code if isinstance(error, ArnoError) else InternalError.code
    words = str(error) if isinstance(error, ArnoError) else f"{type(error).__name__}: {error}"
    return code, redact(words[:_MOST_REASON_CHARS])
