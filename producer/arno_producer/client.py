"""The producer: puts images on the queues, and hands out jobs to follow them by."""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from itertools import chain, count
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from arno_producer.chunks import Image, blocks, cut
from arno_producer.job import Job, ResumedJob, Sent
from arno_producer.manifest import JobRecord, JobTerms, Manifest, read_record
from arno_producer.patience import until_back
from arno_producer.recovery import Recovery
from arno_producer.submission import Submission
from arno_shared.broker import Sender, celery_app, queue_length
from arno_shared.dead_letters import DeadLetters, FiledLetter, LetterKind
from arno_shared.delayed import release_due
from arno_shared.errors import (
    CredentialsRefused,
    InvalidRequest,
    ItemError,
    JobNotFound,
    LaneFull,
    OutputRefused,
    StorageRefused,
)
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
from arno_shared.uris import redact

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
        self.store = ObjectStore()
        self.ledger = Ledger(self.redis, self.settings)
        self.dead_letters = DeadLetters(self.redis, self.settings.dead_letters.max_letters)
        self.app = celery_app(self.settings)
        self._sender = Sender(self.app)
        # Once it has answered; what it raises is not kept.
        self._check_server = cache(partial(check_server, self.redis))

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
    ) -> Job:
        """Enqueues every image, in chunks; returns when all are enqueued.

        `images` may be any iterable, of any length: memory stays constant, and submission pauses while the lane's
        queue is above its high-water mark. Without `wait_for_room` it is refused at once when the queue is, and else
        goes above the mark rather than wait. Submitting the same `job_id` again continues the job: chunks that are
        committed are not done again, and after a loss of Redis neither are those that have result objects.

        Raises InvalidRequest (the call cannot be right), OutputRefused (nothing can be written where it wants results),
        JobConflict (the id or the output belongs to other work), HouseError (Redis or storage is away, at the start, or
        later for longer than `producer.patience_s`: submit again with the same job id), StorageRefused; without
        `wait_for_room`, LaneFull.
        """
        lane = _valid(_LANE, lane, "lane")
        if not wait_for_room:
            self.check_room(lane)
        job_id = _valid(_JOB_ID, job_id, "job_id") if job_id else new_job_id()
        terms = JobTerms(
            prompts=_valid(_PROMPTS, prompts, "prompts"),
            output=self._output(output, job_id),
            generation=_valid(_GENERATION, {} if generation is None else generation, "generation"),
            chunk_images=self.settings.producer.chunk_images,
        )
        chunks = cut(images, terms.prompts, terms.output, terms.generation, job_id, terms.chunk_images)
        first = next(chunks, None)
        if first is None:
            raise InvalidRequest("no images were given")
        self._check_server()
        manifest = Manifest(self.store, job_id, terms)
        with self._blames_the_caller(terms.output):
            stood = manifest.claim_prefix()
        resumed = self.ledger.open(job_id, terms.text(), terms.output, lane)
        submission = self._submission(
            job_id, terms.output, lane, fresh=not (stood or resumed), wait_for_room=wait_for_room
        )
        for number, block in enumerate(blocks(chain([first], chunks), self.settings.producer.block_chunks)):
            with self._blames_the_caller(terms.output):
                self._until_back(partial(manifest.keep_block, number, block))
            if not submission.add(block):
                log.info("job cancelled while it was submitted", job=job_id)
                return self.job(job_id)
        submission.seal()
        self._until_back(lambda: manifest.seal(submission.chunks, submission.images))
        return self.job(job_id)

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
        """Raises LaneFull when the lane's queue is at its high-water mark, HouseError."""
        most = self.settings.producer.high_water_messages
        if queue_length(self.redis, lane) >= most:
            raise LaneFull(f"{most:,} messages or more wait in the lane {lane.value}: come again later")

    def resume(self, job_id: str, *, output: str | None = None, lane: Lane | str | None = None) -> ResumedJob:
        """Continues a job from its manifest, without its images at hand, whatever Redis has lost of it.

        Chunks that are committed, or whose result objects stand, are not run again; all others are enqueued. What was
        still in a queue is then there twice, and dropped where it comes second. A cancelled job goes on. `output` is
        the job's prefix, by default where the ledger says or where jobs go when nobody says; `lane` is by default the
        one that the job was in, if the ledger knows, or bulk.

        Raises JobNotFound (nothing of the job stands at its prefix), InvalidRequest (also when the job was not
        submitted whole: what is known of it is enqueued all the same), JobConflict, HouseError, StorageRefused.
        """
        job_id = _valid(_JOB_ID, job_id, "job_id")
        known_prefix, known_lane = self._known(job_id)
        record = self._record(job_id, self._output(output or known_prefix, job_id).prefix)
        lane = _valid(_LANE, lane or known_lane or Lane.BULK, "lane")
        terms = record.terms
        manifest = Manifest(self.store, job_id, terms)
        self.ledger.open(job_id, terms.text(), terms.output, lane)
        submission = self._submission(job_id, terms.output, lane, fresh=False)
        for number in count():
            block = self._until_back(partial(manifest.block, number))
            if block is None:
                break
            if not submission.add(block):
                log.info("job cancelled while it was resumed", job=job_id)
                return ResumedJob(job_id, self.ledger, self.store, submission.done_chunks, submission.sent_chunks)
        if submission.chunks != record.chunks:
            raise InvalidRequest(
                f"job {job_id!r} was not submitted whole: its manifest names {submission.images} images, of which "
                "those that are not done were enqueued; submit the same images again, with the same job id"
            )
        submission.seal()
        return ResumedJob(job_id, self.ledger, self.store, submission.done_chunks, submission.sent_chunks)

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
        self._sender.send_raw(letter.lane, letter.task, *arguments)
        return self.dead_letters.remove(filed.entry_id)

    def _submission(
        self, job_id: str, output: Output, lane: Lane, *, fresh: bool, wait_for_room: bool = True
    ) -> Submission:
        """Of a job that is open. `fresh`: it never was before."""
        settings = self.settings.producer
        recovery = Recovery(
            job_id,
            output,
            lane,
            ledger=self.ledger,
            redis=self.redis,
            store=self.store,
            patience_s=settings.patience_s,
        )
        return Submission(
            job_id,
            lane,
            settings,
            ledger=self.ledger,
            redis=self.redis,
            sender=self._sender,
            recovery=None if fresh else recovery,
            wait_for_room=wait_for_room,
        )

    def _until_back(self, call: Callable[[], T]) -> T:
        return until_back(call, self.settings.producer.patience_s)

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

    @contextmanager
    def _blames_the_caller(self, output: Output) -> Iterator[None]:
        """Where storage refuses an output for good that does not lie below the house's own prefix, the call is wrong,
        and not the house. Raises OutputRefused in place of StorageRefused and of what is said of one object."""
        try:
            yield
        except (StorageRefused, ItemError) as error:
            houses = output.prefix.startswith(self.settings.output_prefix)
            if houses or error.retryable or isinstance(error, CredentialsRefused):
                raise
            raise OutputRefused(f"results cannot go to {redact(output.prefix)}: {error}") from error


def _valid(adapter: TypeAdapter[T], value: Any, name: str) -> T:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(describe_invalid(error, name)) from None


def new_job_id() -> str:
    """An id that no other job has, and that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _arguments(raw: str) -> tuple[list[Any], dict[str, Any]] | None:
    """The `args` and `kwargs` of a dead letter, if it holds any."""
    try:
        message = json.loads(raw)
        return list(message["args"]), dict(message["kwargs"])
    except (ValueError, TypeError, KeyError):
        return None
