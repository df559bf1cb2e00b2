"""The producer: puts images on the queues, and hands out jobs to follow them by."""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from itertools import count, takewhile
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from arno_producer.chunks import Image, are_at_hand, at_least_one, cut
from arno_producer.house import House
from arno_producer.intake import Intake, SubmittedJob
from arno_producer.job import Job, ResumedJob, Sent
from arno_producer.manifest import JobRecord, JobTerms, Listed, Manifest, read_record
from arno_producer.room import check_room
from arno_producer.submission import Submission
from arno_shared.broker import Sender, celery_app, message_bytes
from arno_shared.dead_letters import DeadLetters, FiledLetter, LetterKind
from arno_shared.delayed import release_due
from arno_shared.errors import InvalidRequest, JobNotFound
from arno_shared.ledger import Ledger
from arno_shared.logs import get_logger
from arno_shared.messages import (
    Chunk,
    GenerationOptions,
    ImageRef,
    Images,
    JobId,
    Output,
    Prompt,
    Prompts,
    describe_invalid,
)
from arno_shared.names import Lane, check_lane, job_keys
from arno_shared.redis_client import connect, redis_away
from arno_shared.redis_server import check_server
from arno_shared.settings import Settings
from arno_shared.storage import ObjectStore
from arno_shared.storage.arbiter import RedisArbiter

PromptLike: TypeAlias = Prompt | str | Mapping[str, Any]
OutputLike: TypeAlias = Output | str | Mapping[str, Any]
GenerationLike: TypeAlias = GenerationOptions | Mapping[str, Any]

T = TypeVar("T")

_IMAGES: TypeAdapter[tuple[ImageRef, ...]] = TypeAdapter(Images)
_PROMPTS: TypeAdapter[tuple[Prompt, ...]] = TypeAdapter(Prompts)
_OUTPUT = TypeAdapter(Output)
_GENERATION = TypeAdapter(GenerationOptions)
_LANE: TypeAdapter[Lane] = TypeAdapter(Annotated[Lane, BeforeValidator(check_lane)])
_JOB_ID: TypeAdapter[str] = TypeAdapter(JobId)

log = get_logger(__name__)


class Producer:
    """Submits jobs. Connects when it is first used; safe to share between threads.

    job = Producer().submit(["s3://photos/a.jpg"], ["<OD>"], output="s3://results/run-7/")
    for row in job.results(): ...
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.redis = connect(self.settings)
        self.store = ObjectStore(arbiter=RedisArbiter(self.redis))
        self.ledger = Ledger(self.redis, self.settings)
        self.dead_letters = DeadLetters(self.redis, self.settings.dead_letters.max_letters)
        self.app = celery_app(self.settings)
        self._sender = Sender(self.app)
        # Once it has answered; what it raises is not kept.
        self._check_server = cache(partial(check_server, self.redis))
        self._house = House(self.settings, self.redis, self.store, self.ledger, self._sender)

    def submit(
        self,
        images: Iterable[Image],
        prompts: PromptLike | Sequence[PromptLike],
        *,
        output: OutputLike | None = None,
        generation: GenerationLike | None = None,
        job_id: str | None = None,
        lane: Lane | str = Lane.BULK,
        wait_for_room: bool = True,
        request_sha256: str | None = None,
    ) -> SubmittedJob:
        """Enqueues every image, in chunks; returns when all are enqueued.

        `images` may be any iterable, of any length: memory stays constant, and submission pauses while the lane's
        queue is above a high-water mark. A list is looked through first: nothing is enqueued when an image in it is
        none. Without `wait_for_room` it is refused at once when the queue is, and else goes above the mark of messages
        rather than wait.

        The same `job_id` submitted again is found, and stays as it is: running, paused, cancelled or done. One that was
        not submitted whole goes on, and so does one that Redis has lost: what is committed, was given up, or has result
        objects is not sent again. `request_sha256`: of all that the caller's caller asked for, where the job's id says
        nothing but that it is the same.

        Raises InvalidRequest (the call cannot be right), OutputRefused (nothing can be written where it wants results),
        JobConflict (the id or the output belongs to other work), HouseError (Redis or storage is away, at the start, or
        later for longer than `producer.patience_s`: submit again with the same job id), StorageRefused; without
        `wait_for_room`, LaneFull.
        """
        lane = _valid(_LANE, lane, "lane")
        job_id = _valid(_JOB_ID, job_id, "job_id") if job_id else new_job_id()
        terms = JobTerms(
            prompts=_valid(_PROMPTS, prompts, "prompts"),
            output=self._output(output, job_id),
            generation=_valid(_GENERATION, {} if generation is None else generation, "generation"),
            chunk_images=self.settings.producer.chunk_images,
            request_sha256=request_sha256,
        )

        def chunks() -> Iterator[Chunk]:
            return cut(images, terms.prompts, terms.output, terms.generation, job_id, terms.chunk_images)

        at_hand = are_at_hand(images)
        listed = Listed.of(at_least_one(chunks())) if at_hand else None
        self._check_server()
        # What was let in is let in whole, and found when it is asked for again.
        if not (wait_for_room or self._is_known(job_id)):
            own_bytes = sum(message_bytes(chunk.to_wire()) for chunk in chunks()) if at_hand else 0
            check_room(self._house, lane, own_bytes)
        intake = Intake(self._house, job_id, terms, lane, wait_for_room=wait_for_room)
        return intake.take(at_least_one(chunks()), listed)

    def send(
        self,
        images: Sequence[Image],
        prompts: PromptLike | Sequence[PromptLike],
        *,
        output: OutputLike | None = None,
        generation: GenerationLike | None = None,
        job_id: str | None = None,
        lane: Lane | str = Lane.INTERACTIVE,
    ) -> Sent:
        """Enqueues a few images as a job of one chunk that carries itself: there is no manifest.

        It is for an event or a call whose sender keeps it until this returns, and sends it again when it does not. What
        is sent again with the same `job_id` is found sent. Such jobs are not among the latest jobs.

        Raises InvalidRequest, JobConflict, LaneFull (nothing was sent), HouseError (it may have been sent).
        """
        lane = _valid(_LANE, lane, "lane")
        job_id = _valid(_JOB_ID, job_id, "job_id") if job_id else new_job_id()
        chunk = Chunk(
            images=_valid(_IMAGES, images, "images"),
            prompts=_valid(_PROMPTS, prompts, "prompts"),
            output=self._output(output, job_id),
            generation=_valid(_GENERATION, {} if generation is None else generation, "generation"),
            job_id=job_id,
            index=0,
        )
        self._check_server()
        self.check_room(lane)
        to_send = self.ledger.expect(chunk, lane)
        if to_send:
            self._sender.send_chunk(chunk, lane)
            self.ledger.was_sent(job_id)
        return Sent(self.job(job_id), duplicate=not to_send)

    def check_room(self, lane: Lane) -> None:
        """Raises LaneFull when the lane is at a high-water mark, HouseError."""
        check_room(self._house, lane)

    def resume(self, job_id: str, *, output: str | None = None, lane: Lane | str | None = None) -> ResumedJob:
        """Continues a job from its manifest, without its images at hand, whatever Redis has lost of it.

        Of a job that was sent, or came in messages, there is no manifest: what the ledger keeps of it is sent again.
        Else chunks that are committed, or whose result objects stand, are not run again, and all others are enqueued.
        What was still in a queue is then there twice, and dropped where it comes second. A cancelled job goes on.
        `output` is the job's prefix, by default where the ledger says or where jobs go when nobody says; `lane` is by
        default the one that the job was in, if the ledger knows, or bulk.

        Raises JobNotFound (nothing of the job stands at its prefix), InvalidRequest (also when the job was not
        submitted whole: what is known of it is enqueued all the same), JobConflict, HouseError, StorageRefused.
        """
        job_id = _valid(_JOB_ID, job_id, "job_id")
        known_prefix, known_lane = self._known(job_id)
        try:
            record = self._record(job_id, self._output(output or known_prefix, job_id).prefix)
        except JobNotFound:
            if self.ledger.resend(job_id):
                return self._resent(job_id)
            raise
        lane = _valid(_LANE, lane or known_lane or Lane.BULK, "lane")
        terms = record.terms
        manifest = Manifest(self.store, job_id, terms)
        opened = self.ledger.revive(job_id, terms.text(), terms.output, lane)
        all_chunks = record.chunks
        if all_chunks is None and opened.sealed:
            # Storage was away when its record was to say so.
            all_chunks = self.ledger.status(job_id).chunks
        submission = Submission(self._house, job_id, terms.output, lane)
        # Behind the seal lies what others tried to add.
        for number in takewhile(lambda _: manifest.chunks != all_chunks, count()):
            block = self._house.until_back(partial(manifest.block, number))
            if block is None:
                break
            if not submission.add(block):
                log.info("job cancelled while it was resumed", job=job_id)
                return ResumedJob(job_id, self.ledger, self.store, submission.done_chunks, submission.sent_chunks)
        if manifest.chunks != all_chunks:
            raise InvalidRequest(
                f"job {job_id!r} was not submitted whole: its manifest names {manifest.images} images, of which "
                "those that are not done were enqueued; submit the same images again, with the same job id"
            )
        manifest.check_whole(record)
        submission.seal(manifest.images_sha256)
        self._house.until_back(partial(manifest.seal, record))
        return ResumedJob(job_id, self.ledger, self.store, submission.done_chunks, submission.sent_chunks)

    def _resent(self, job_id: str) -> ResumedJob:
        sent = release_due(self.ledger, self._sender)
        return ResumedJob(job_id, self.ledger, self.store, done_chunks=int(not sent), sent_chunks=int(sent > 0))

    def job(self, job_id: str) -> Job:
        """A job submitted before, perhaps by another process."""
        return Job(job_id, self.ledger, self.store)

    def replay(self, filed: FiledLetter) -> bool:
        """Puts a dead letter back to work; whether it was still there. Raises InvalidRequest when it cannot be."""
        letter = filed.letter
        if letter.kind is not LetterKind.MESSAGE:
            replayed = self.ledger.replay(filed)
            release_due(self.ledger, self._sender)
            return replayed
        arguments = _arguments(letter.raw)
        if arguments is None:
            raise InvalidRequest(f"dead letter {filed.entry_id} cannot be read as a task's arguments; purge it")
        # Under its own id, by which workers know one that names no job.
        self._sender.send_raw(letter.lane, letter.task, *arguments, letter.message_id)
        return self.dead_letters.remove(filed.entry_id)

    def _is_known(self, job_id: str) -> bool:
        with redis_away():
            return bool(self.redis.exists(job_keys(job_id).job))

    def _known(self, job_id: str) -> tuple[str | None, str | None]:
        """The job's output prefix and its lane, where the ledger has them."""
        with redis_away():
            prefix, lane = self.redis.hmget(job_keys(job_id).job, "prefix", "lane")
        return prefix and prefix.decode(), lane and lane.decode()

    def _record(self, job_id: str, prefix: str) -> JobRecord:
        record = read_record(self.store, prefix)
        if record is None:
            raise JobNotFound(
                f"there is no job's record at {prefix}, where that of {job_id!r} would be: give the output prefix that "
                "the job was submitted with"
            )
        if record.job_id != job_id:
            raise JobNotFound(f"{prefix} holds the results of job {record.job_id!r}, not of job {job_id!r}")
        return record

    def _output(self, output: OutputLike | None, job_id: str) -> Output:
        return _valid(_OUTPUT, output or f"{self.settings.output_prefix}{job_id}/", "output")


def _valid(adapter: TypeAdapter[T], value: Any, name: str) -> T:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(describe_invalid(error, name)) from None


def new_job_id() -> str:
    """An id that no other job has, and that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(8)}"


def _arguments(raw: str) -> tuple[list[Any], dict[str, Any]] | None:
    """The `args` and `kwargs` of a dead letter, if it holds any: as they were read, or in a body of Celery's."""
    try:
        message = json.loads(raw)
        args, kwargs = message[:2] if isinstance(message, list) else (message["args"], message["kwargs"])
        return list(args), dict(kwargs)
    except (ValueError, TypeError, KeyError):
        return None
