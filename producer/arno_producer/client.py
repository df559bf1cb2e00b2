"""The producer: puts images on the queues, and hands out jobs to follow them by."""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from time import sleep
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from arno_producer.chunks import Image, blocks, cut
from arno_producer.job import Job
from arno_producer.manifest import JobTerms, Manifest
from arno_shared.broker import Sender, celery_app, queue_length
from arno_shared.delayed import release_due
from arno_shared.dead_letters import DeadLetters, FiledLetter, LetterKind
from arno_shared.errors import InvalidRequest, JobConflict
from arno_shared.ledger import JobState, Ledger
from arno_shared.logs import get_logger
from arno_shared.messages import Chunk, GenerationOptions, Output, Prompt, Prompts, describe_invalid
from arno_shared.names import Lane, check_job_id
from arno_shared.redis_client import connect
from arno_shared.settings import Settings
from arno_shared.storage import ObjectStore

PromptLike: TypeAlias = Prompt | str | Mapping[str, Any]
OutputLike: TypeAlias = Output | str | Mapping[str, Any]
GenerationLike: TypeAlias = GenerationOptions | Mapping[str, Any]

log = get_logger(__name__)

_POLL_S = 0.2


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

    def submit(
        self,
        images: Iterable[Image],
        prompts: PromptLike | Sequence[PromptLike],
        *,
        output: OutputLike | None = None,
        generation: GenerationLike | None = None,
        job_id: str | None = None,
        lane: Lane | str = Lane.BULK,
    ) -> Job:
        """Enqueues every image, in chunks; returns when all are enqueued.

        `images` may be any iterable, of any length: memory stays constant, and submission pauses while the lane's
        queue is above its high-water mark. Submitting the same `job_id` again continues the job: chunks that are
        committed are not done again.

        Raises InvalidRequest (the call cannot be right), JobConflict (the id or the output belongs to other work),
        HouseError (Redis or storage is away: submit again with the same job id), StorageRefused.
        """
        lane = _lane(lane)
        job_id = _valid_job_id(job_id) if job_id else new_job_id()
        terms = JobTerms(
            prompts=_valid_prompts(prompts),
            output=self._output(output, job_id),
            generation=_valid_generation(generation),
            chunk_images=self.settings.producer.chunk_images,
        )
        chunks = cut(images, terms.prompts, terms.output, terms.generation, job_id, terms.chunk_images)
        first = next(chunks, None)
        if first is None:
            raise InvalidRequest("no images were given")
        manifest = Manifest(self.store, job_id, terms)
        manifest.claim_prefix()
        resumed = self.ledger.open(job_id, terms.text(), terms.output, lane)
        self._enqueue(chain([first], chunks), manifest, lane, resumed=resumed)
        return self.job(job_id)

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

    def _enqueue(self, chunks: Iterable[Chunk], manifest: Manifest, lane: Lane, *, resumed: bool) -> None:
        total_chunks = total_images = room = 0
        for number, block in enumerate(blocks(chunks, self.settings.producer.block_chunks)):
            manifest.keep_block(number, block)
            job_id = block[0].job_id
            total_chunks += len(block)
            total_images += sum(len(chunk.images) for chunk in block)
            self.ledger.announce(job_id, total_chunks, total_images, sealed=False)
            done = self.ledger.committed_indices(job_id, block[0].index, len(block)) if resumed else set()
            for chunk in block:
                if chunk.index in done:
                    continue
                if not room:
                    room = self._wait_for_room(job_id, lane)
                    if not room:
                        log.info("job cancelled while it was submitted", job=job_id)
                        return
                self._sender.send_chunk(chunk, lane)
                room -= 1
        if self.ledger.status(job_id).chunks > total_chunks:
            raise JobConflict(f"job {job_id!r} was submitted with more images; submit all of them again")
        self.ledger.announce(job_id, total_chunks, total_images, sealed=True)
        manifest.seal(total_chunks, total_images)

    def _wait_for_room(self, job_id: str, lane: Lane) -> int:
        """How many messages the lane takes before its high-water mark; 0 once the job is cancelled."""
        high_water = self.settings.producer.high_water_messages
        while self.ledger.status(job_id).state is not JobState.CANCELLED:
            room = high_water - queue_length(self.redis, lane)
            if room > 0:
                return min(room, 1000)
            sleep(_POLL_S)
        return 0

    def _output(self, output: OutputLike | None, job_id: str) -> Output:
        try:
            return Output.model_validate(output or f"{self.settings.output_prefix}{job_id}/")
        except ValidationError as error:
            raise InvalidRequest(f"output: {describe_invalid(error)}") from None


def _lane(lane: Lane | str) -> Lane:
    try:
        return Lane(lane)
    except ValueError:
        raise InvalidRequest(f"{lane!r} is not a lane; the lanes are {', '.join(Lane)}") from None


def _valid_job_id(job_id: str) -> str:
    try:
        return check_job_id(job_id)
    except ValueError as error:
        raise InvalidRequest(f"{job_id!r}: {error}") from None


def new_job_id() -> str:
    """An id that no other job has, and that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _valid_prompts(prompts: PromptLike | Sequence[PromptLike]) -> tuple[Prompt, ...]:
    try:
        valid: tuple[Prompt, ...] = TypeAdapter(Prompts).validate_python(prompts)
    except ValidationError as error:
        raise InvalidRequest(f"prompts: {describe_invalid(error)}") from None
    return valid


def _valid_generation(generation: GenerationLike | None) -> GenerationOptions:
    try:
        return GenerationOptions.model_validate({} if generation is None else generation)
    except ValidationError as error:
        raise InvalidRequest(f"generation: {describe_invalid(error)}") from None


def _arguments(raw: str) -> tuple[list[Any], dict[str, Any]] | None:
    """The `args` and `kwargs` of a dead letter, if it holds any."""
    try:
        message = json.loads(raw)
        return list(message["args"]), dict(message["kwargs"])
    except (ValueError, TypeError, KeyError):
        return None
