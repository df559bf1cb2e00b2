"""The ledger by hand: chunks, what becomes of them, and what it says then."""

import secrets
from datetime import UTC, datetime

from arno_shared.dead_letters import DeadLetter, DeadLetters, LetterKind
from arno_shared.ledger import JobState, Ledger, Message, Outcome, Verdict
from arno_shared.messages import Chunk, ImageRef, Output, Prompt
from arno_shared.names import Lane, event_id, job_keys, task_id
from arno_shared.redis_client import RedisClient
from arno_shared.topic import ChunkCompleted, ChunkEvent, Counts

OUTPUT = Output(prefix="s3://results/run-7/")
DIGEST = "of all images"
TERMS = '{"prompts": "<OD>"}'
WHEN = datetime(2026, 1, 2, tzinfo=UTC)
RETENTION_S = 3600


def output_of(job_id: str) -> Output:
    return Output(prefix=f"s3://results/{job_id}/")


def chunk_of(images: int, *, job_id: str = "run-7", index: int = 0, attempt: int = 1) -> Chunk:
    return Chunk(
        images=tuple(ImageRef(uri=f"s3://photos/{index}/{number}.jpg") for number in range(images)),
        prompts=(Prompt(task="<OD>"),),
        output=output_of(job_id),
        job_id=job_id,
        index=index,
        attempt=attempt,
    )


def outcome(
    chunk: Chunk,
    *,
    ok: int | None = None,
    failed: int = 0,
    put_off: int = 0,
    gives_up: bool = False,
    delay_s: float = 0,
) -> Outcome:
    """What a worker commits; all images are `ok` unless it is said otherwise. Failed ones are `not_found`, or
    `timeout` when the chunk gives them up."""
    ok = len(chunk.images) - failed - put_off if ok is None else ok
    code = "timeout" if gives_up else "not_found"
    return Outcome(
        event=ChunkEvent(
            id=event_id(chunk.job_id, chunk.index, chunk.attempt),
            source="/arno/gpu0",
            subject=chunk.job_id,
            time=WHEN,
            data=ChunkCompleted(
                job_id=chunk.job_id,
                index=chunk.index,
                attempt=chunk.attempt,
                result_uri=f"{chunk.output.prefix}part",
                counts=Counts(ok=ok, failed=failed, put_off=put_off),
            ),
        ),
        failed_by_code={code: failed} if failed else {},
        put_off=chunk.retry_of(chunk.images[:put_off]) if put_off else None,
        put_off_delay_s=delay_s,
        letter=letter_of(LetterKind.IMAGES, chunk.model_copy(update={"images": chunk.images[:failed]}))
        if gives_up
        else None,
    )


def letter_of(kind: LetterKind, chunk: Chunk) -> DeadLetter:
    failed_by_code = {"timeout": len(chunk.images)} if kind is LetterKind.IMAGES else {}
    return DeadLetter.of_chunk(
        kind, chunk, code="timeout", reason="too slow", worker="gpu0", failed_by_code=failed_by_code
    )


def bury(ledger: Ledger, chunk: Chunk) -> bool:
    return ledger.bury(chunk, letter_of(LetterKind.CHUNK, chunk))


def open_job(ledger: Ledger, *sizes: int, job_id: str = "run-7", sealed: bool = True) -> list[Chunk]:
    """A job of chunks of these sizes."""
    ledger.open(job_id, TERMS, output_of(job_id), Lane.BULK)
    announce(ledger, job_id, len(sizes), sum(sizes), sealed=sealed)
    return [chunk_of(size, job_id=job_id, index=index) for index, size in enumerate(sizes)]


def announce(ledger: Ledger, job_id: str, chunks: int, images: int, *, sealed: bool) -> None:
    ledger.announce(job_id, chunks, images)
    if sealed:
        ledger.seal(job_id, chunks, images, DIGEST)


def begin(ledger: Ledger, chunk: Chunk) -> Verdict:
    return ledger.begin(chunk.job_id, chunk.index, chunk.attempt, sent(chunk), chunk.output).verdict


def sent(chunk: Chunk, tag: str = "") -> Message:
    """The house's own message of a chunk, in the hands of somebody who is gone."""
    return Message(task_id(chunk.job_id, chunk.index, chunk.attempt), chunk.digest, tag or secrets.token_hex(4))


def foreign(message_id: str = "message", asks: str = "asked", tag: str = "") -> Message:
    """Somebody else's."""
    return Message(message_id, asks, tag or secrets.token_hex(4))


def counted(ledger: Ledger, job_id: str = "run-7") -> dict[str, int]:
    """The counters that are not zero."""
    status = ledger.status(job_id)
    fields = ("chunks", "chunks_committed", "images", "ok", "failed", "put_off", "dead")
    return {field: getattr(status, field) for field in fields if getattr(status, field)}


def state(ledger: Ledger, job_id: str = "run-7") -> JobState:
    return ledger.status(job_id).state


def send_due(ledger: Ledger) -> list[Chunk]:
    """Takes what is due, as whoever sends it does."""
    due = ledger.due()
    for message in due:
        ledger.sent(message)
    return [Chunk.model_validate(message.message) for message in due]


def replay(ledger: Ledger, letters: DeadLetters) -> list[Chunk]:
    """Replays every letter there is; the chunks that are due for it."""
    for filed in list(letters.list()):
        assert ledger.replay(filed)
    return send_due(ledger)


def keys_of(redis: RedisClient, job_id: str = "run-7") -> list[str]:
    return [key for key in job_keys(job_id) if redis.exists(key)]
