"""The life of a chunk in a worker: ledger → fetch and decode → engine → rows → storage → commit.

`handle` returns when the message may be acknowledged: its chunk is committed, dropped (cancelled, done before) or in
the dead letters. It raises Drained when the message is to go back to the queue, and nothing else.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeVar

from arno_shared.dead_letters import DeadLetter, DeadLetters, LetterKind
from arno_shared.errors import ArnoError
from arno_shared.ledger import Ledger, Verdict
from arno_shared.logs import get_logger
from arno_shared.messages import Chunk, Output, TaskMessage, parse_message, raw_message
from arno_shared.names import Lane, check_job_id, part_uri
from arno_shared.parts import CONTENT_TYPES, encode_part
from arno_shared.settings import Settings
from arno_shared.storage import ObjectStore
from arno_shared.uris import redact
from arno_workers.chunk_run import ChunkRun
from arno_workers.engine import Engine
from arno_workers.intake import Intake
from arno_workers.patience import Drain, Drained, until_back
from arno_workers.rows import outcome, settle

log = get_logger(__name__)

T = TypeVar("T")


class Pipeline:
    """One for each worker; `handle` is called by several threads at a time, a chunk each."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        dead_letters: DeadLetters,
        store: ObjectStore,
        engine: Engine,
        intake: Intake,
        drain: Drain,
        settings: Settings,
        worker: str,
    ) -> None:
        self._ledger, self._dead_letters, self._store = ledger, dead_letters, store
        self._engine, self._intake, self._drain = engine, intake, drain
        self._settings, self._worker = settings, worker

    def handle(self, args: Sequence[Any], kwargs: Mapping[str, Any], message_id: str, lane: Lane) -> None:
        """One message, from its arguments to the moment when it may be acknowledged. Raises Drained."""
        try:
            message = parse_message(args, kwargs)
            self._handle(message, message_id, lane)
        except Drained:
            raise
        except BaseException as error:
            # An exception that reached Celery would be acknowledged, and its message lost.
            self._file(error, args, kwargs, lane)

    def _handle(self, message: TaskMessage, message_id: str, lane: Lane) -> None:
        job_id, output = self._job_of(message, message_id)
        index = message.index if message.job_id else 0
        begun = self._until_back(
            lambda: self._ledger.begin(job_id, index, message.attempt, message_id, output), "the ledger"
        )
        chunk = Chunk(
            images=message.images,
            prompts=message.prompts,
            output=output,
            generation=message.generation,
            job_id=job_id,
            index=begun.index,
            attempt=message.attempt,
        )
        if begun.verdict is not Verdict.GO:
            log.info("chunk dropped", job=job_id, chunk=chunk.index, why=begun.verdict.value)
            return
        try:
            self._run(chunk, lane)
        except Drained:
            raise
        except BaseException as error:
            self._bury(chunk, error, lane)

    def _run(self, chunk: Chunk, lane: Lane) -> None:
        """Does a chunk. Raises StorageRefused or MissingExtra when its result object can never be written."""
        began_s = perf_counter()
        run = ChunkRun(chunk, lane)
        self._intake.add(run)
        while not run.settled.wait(timeout=1.0):
            self._drain.check()
        settled = settle(run, self._engine, self._settings.retries.max_attempts, self._worker)
        if (settled.put_off or settled.given_up) and self._until_back(
            lambda: self._ledger.is_committed(chunk), "the ledger"
        ):
            # The same message came twice, and the other run had better luck: its rows must not be overwritten.
            log.info("chunk dropped", job=chunk.job_id, chunk=chunk.index, why="committed meanwhile")
            return
        result_uri = part_uri(chunk.output.prefix, chunk.index, chunk.attempt, chunk.output.format)
        data = encode_part(settled.rows, chunk.output.format)
        content_type = CONTENT_TYPES[chunk.output.format]
        self._until_back(lambda: self._store.put(result_uri, data, content_type), "storage")
        result = outcome(chunk, settled, result_uri, lane, self._worker, self._settings)
        first = self._until_back(lambda: self._ledger.commit(chunk, result), "the ledger")
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

    def _job_of(self, message: TaskMessage, message_id: str) -> tuple[str, Output]:
        """The job that a message belongs to; one that names none is a job of its own, in a folder of its own."""
        job_id = message.job_id or _job_id_from(message_id)
        output = message.output or Output(prefix=self._settings.output_prefix)
        if message.job_id is None or message.output is None:
            output = output.model_copy(update={"prefix": f"{output.prefix}{job_id}/"})
        return job_id, output

    def _bury(self, chunk: Chunk, error: BaseException, lane: Lane) -> None:
        code, reason = _describe(error)
        log.error("chunk given up", job=chunk.job_id, chunk=chunk.index, code=code, exc_info=error)
        letter = DeadLetter.of_chunk(LetterKind.CHUNK, chunk, code=code, reason=reason, lane=lane, worker=self._worker)
        self._until_back(lambda: self._ledger.bury(chunk, letter), "the ledger")

    def _file(self, error: BaseException, args: Sequence[Any], kwargs: Mapping[str, Any], lane: Lane) -> None:
        code, reason = _describe(error)
        log.error("message given up", code=code, error=reason)
        letter = DeadLetter(
            kind=LetterKind.MESSAGE,
            code=code,
            reason=reason,
            raw=raw_message(args, kwargs),
            lane=lane,
            worker=self._worker,
        )
        self._until_back(lambda: self._dead_letters.add(letter), "the dead letters")

    def _until_back(self, call: Callable[[], T], what: str) -> T:
        return until_back(call, what, self._drain)


def _job_id_from(message_id: str) -> str:
    """A Celery task id, if it can be a job id; clients may choose any string."""
    try:
        return check_job_id(message_id)
    except ValueError:
        return hashlib.sha256(message_id.encode()).hexdigest()[:32]


def _describe(error: BaseException) -> tuple[str, str]:
    """Code and reason for a dead letter."""
    if isinstance(error, ArnoError):
        return error.code, redact(str(error))
    return "internal_error", redact(f"{type(error).__name__}: {error}")
