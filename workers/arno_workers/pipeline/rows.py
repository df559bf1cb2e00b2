"""Turns a settled chunk into its result rows, its topic event and its next attempt."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime

from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.errors import ItemError, WorkerLost
from arno_shared.ledger import Outcome
from arno_shared.messages import Chunk, Prompt
from arno_shared.names import Lane, event_id
from arno_shared.places import GIVEN_UP
from arno_shared.results import Failure, ImageFacts, PromptResult, ResultRow, Status, Timings
from arno_shared.settings import Settings
from arno_shared.topic import ChunkCompleted, ChunkEvent, Counts, FailedImage, bounded_failures, dataschema
from arno_shared.uris import redact
from arno_workers.engine import Answer, Answered, Engine
from arno_workers.pipeline.chunk_run import ChunkRun, Item

_LONGEST_PUT_OFF_S = 86_400.0

_LEAST_CONFIDENCE = 0.0001
"""What a smaller one becomes in place of 0, which would say that the model cannot have meant it."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a chunk's images."""

    rows: Sequence[ResultRow]
    """Of the images that nothing more is tried for."""
    put_off: Chunk | None
    """The next attempt, of the images that failed transiently."""
    given_up: Chunk | None
    """The images that failed transiently for the last time, and those that workers died of; they have rows."""

    @property
    def failures(self) -> list[ResultRow]:
        return [row for row in self.rows if row.status is Status.FAILED]


def settle(run: ChunkRun, engine: Engine, max_attempts: int, worker: str) -> Settled:
    chunk, now = run.chunk, datetime.now(UTC)
    transient = {item.position for item in run.items if item.error is not None and item.error.retryable}
    fatal = {item.position for item in run.items if isinstance(item.error, WorkerLost)}
    # A chunk has one next attempt: where images are given up, to be replayed, none can be put off as well.
    last = chunk.attempt >= max_attempts or bool(fatal)
    put_off = set() if last else transient
    return Settled(
        rows=[_row(item, engine, worker, now) for item in run.items if item.position not in put_off],
        put_off=_next_attempt(chunk, put_off),
        given_up=_only(chunk, transient | fatal if last else set()),
    )


def settled_from(chunk: Chunk, rows: Sequence[ResultRow], places: Sequence[int]) -> Settled:
    """What became of a chunk, as the rows say that stand in its result object already, each at its place."""
    given_up = {place for place, row in zip(places, rows, strict=True) if row.error and row.error.code in GIVEN_UP}
    return Settled(
        rows=rows,
        put_off=_next_attempt(chunk, set(range(len(chunk.images))) - set(places)),
        given_up=_only(chunk, given_up),
    )


def _only(chunk: Chunk, places: Set[int]) -> Chunk | None:
    return chunk.only(sorted(places)) if places else None


def _next_attempt(chunk: Chunk, places: Set[int]) -> Chunk | None:
    only = _only(chunk, places)
    return only and only.retry_of(only.images, only.positions)


def outcome(chunk: Chunk, settled: Settled, result_uri: str, lane: Lane, worker: str, settings: Settings) -> Outcome:
    """What the ledger commits. `result_uri` is where the rows lie."""
    failures = settled.failures
    put_off = len(settled.put_off.images) if settled.put_off else 0
    inline = _inline(chunk, settled.rows, settings.topic.inline_max_bytes)
    event = ChunkEvent(
        id=event_id(chunk.job_id, chunk.index, chunk.attempt),
        source=f"arno/{worker}",
        subject=f"{chunk.job_id}/{chunk.index}",
        time=datetime.now(UTC),
        dataschema=dataschema(max((row.schema_version for row in inline or ()), default=1)),
        data=ChunkCompleted(
            job_id=chunk.job_id,
            index=chunk.index,
            attempt=chunk.attempt,
            result_uri=result_uri,
            counts=Counts(ok=len(settled.rows) - len(failures), failed=len(failures), put_off=put_off),
            failed=bounded_failures(_failed_image(row) for row in failures),
            results=inline,
        ),
    )
    return Outcome(
        event=event,
        failed_by_code=_count_codes(failures),
        put_off=settled.put_off,
        put_off_delay_s=_delay_s(settings.retries.put_off_s, chunk.attempt),
        lane=lane,
        letter=_letter(settled, lane, worker),
    )


def _delay_s(put_off_s: float, attempt: int) -> float:
    """Before the next attempt: four times as long with each, and a day at most."""
    delay_s = put_off_s
    for _ in range(attempt - 1):
        if delay_s >= _LONGEST_PUT_OFF_S:
            break
        delay_s *= 4
    return min(delay_s, max(_LONGEST_PUT_OFF_S, put_off_s))


def _row(item: Item, engine: Engine, worker: str, now: datetime) -> ResultRow:
    chunk = item.run.chunk
    answers: tuple[PromptResult, ...] = ()
    error = item.error
    if item.answered is not None:
        try:
            answers = _answers(item, item.answered, engine)
        except Exception as cause:
            error = ItemError(f"the model's answer cannot be read: {type(cause).__name__}: {cause}")
    image = item.image
    return ResultRow(
        job_id=chunk.job_id,
        index=chunk.index,
        position=chunk.position(item.position),
        attempts=chunk.attempt,
        image=ImageFacts(
            uri=image.uri,
            id=image.id,
            version_id=image.version_id,
            etag=image.etag,
            sha256=item.sha256,
            width=item.width,
            height=item.height,
            format=item.format,
        ),
        status=Status.FAILED if error else Status.OK,
        error=Failure.of(error) if error else None,
        prompts=answers,
        model=engine.model,
        generation=engine.generation(chunk.generation),
        timings=Timings(
            fetch_ms=round(item.fetch_ms, 2),
            decode_ms=round(item.decode_ms, 2),
            wait_ms=round(item.answered.wait_ms, 2) if item.answered else 0.0,
            model_ms=round(item.answered.model_ms, 2) if item.answered else 0.0,
        ),
        worker=worker,
        finished_at=now,
    )


def _answers(item: Item, answered: Answered, engine: Engine) -> tuple[PromptResult, ...]:
    return tuple(
        _prompt_result(item, prompt, answer, engine)
        for prompt, answer in zip(item.run.chunk.prompts, answered.answers, strict=True)
    )


def _prompt_result(item: Item, prompt: Prompt, answer: Answer, engine: Engine) -> PromptResult:
    width, height = item.width or 0, item.height or 0
    parsed = engine.parse(prompt, answer, width, height)
    return PromptResult(
        task=prompt.task,
        parse=prompt.parse,
        text=prompt.text,
        region=prompt.region,
        prompt=engine.ask(prompt, width, height, item.run.chunk.generation).sentence,
        raw=parsed.raw,
        parsed=parsed.value,
        tokens=len(answer.ids),
        truncated=answer.truncated,
        # The sum makes a rounded -0.0 a 0.0.
        score=None if answer.score is None else round(answer.score, 4) + 0.0,
        confidences=(
            None
            if parsed.confidences is None
            else tuple(max(round(confidence, 4), _LEAST_CONFIDENCE) for confidence in parsed.confidences)
        ),
        repetitive=parsed.repetitive,
    )


def _failed_image(row: ResultRow) -> FailedImage:
    code = row.error.code if row.error else ItemError.code
    return FailedImage(uri=redact(row.image.uri), id=row.image.id, code=code)


def _count_codes(failures: Sequence[ResultRow]) -> dict[str, int]:
    return dict(Counter(row.error.code for row in failures if row.error))


def _inline(chunk: Chunk, rows: Sequence[ResultRow], max_bytes: int) -> tuple[ResultRow, ...] | None:
    """Rows with their URIs redacted: events are read by more people than results are."""
    if not chunk.output.inline or sum(len(row.model_dump_json()) for row in rows) > max_bytes:
        return None
    return tuple(
        row.model_copy(update={"image": row.image.model_copy(update={"uri": redact(row.image.uri)})}) for row in rows
    )


def _letter(settled: Settled, lane: Lane, worker: str) -> DeadLetter | None:
    chunk = settled.given_up
    if chunk is None:
        return None
    rows = [row for row in settled.failures if row.error and row.error.code in GIVEN_UP]
    by_code = _count_codes(rows)
    return DeadLetter.of_chunk(
        LetterKind.IMAGES,
        chunk,
        code=max(by_code, key=lambda code: by_code[code]),
        reason=f"{len(chunk.images)} images failed {chunk.attempt} times, last: "
        + (rows[-1].error.message if rows[-1].error else ""),
        lane=lane,
        failed_by_code=by_code,
        worker=worker,
    )
