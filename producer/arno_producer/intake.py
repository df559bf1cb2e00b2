"""How a job is taken in: it is claimed in storage, opened in the ledger or found there, and what is missing of it sent.

Of several that submit at the same time, the record in storage says whose an output prefix is, and of which images, the
blocks of the manifest what was asked first, and the ledger who has opened the job, and with what it was sealed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from time import monotonic, sleep

from arno_producer.chunks import blocks
from arno_producer.house import House
from arno_producer.job import Job
from arno_producer.manifest import Claim, JobTerms, Listed, Manifest
from arno_producer.submission import Submission, still_there
from arno_producer.turn import Turn
from arno_shared.errors import CredentialsRefused, ItemError, JobConflict, OutputRefused, StorageRefused
from arno_shared.ledger import JobState, Opened
from arno_shared.logs import get_logger
from arno_shared.messages import Chunk
from arno_shared.names import Lane
from arno_shared.uris import redact

log = get_logger(__name__)

_POLL_S = 0.1


class SubmittedJob(Job):
    """A job that was just submitted; `created` is False when it was there before."""

    def __init__(self, job_id: str, house: House, *, created: bool) -> None:
        super().__init__(job_id, house.ledger, house.store)
        self.created = created


class Intake:
    """Of one submission. Raises as `Producer.submit` does."""

    def __init__(self, house: House, job_id: str, terms: JobTerms, lane: Lane, *, wait_for_room: bool) -> None:
        self._house, self._job_id, self._terms, self._lane = house, job_id, terms, lane
        self._wait_for_room = wait_for_room
        self._manifest = self._new_manifest()

    def take(self, chunks: Iterator[Chunk], listed: Listed | None) -> SubmittedJob:
        """`listed`: all images, where they are known."""
        with self._blames_the_caller():
            claim = self._manifest.claim(listed)
            if claim.stood and listed is None:
                chunks = self._compared(chunks, claim)
            # A claim that nothing came of gives no right to a place.
            owns = claim.stood and self._manifest.has_blocks()
        opened = self._open(claim, owns)
        if opened.sealed and opened.state is not JobState.INCOMPLETE:
            self._find(chunks, claim, listed)
        elif opened.state is not JobState.CANCELLED:
            self._submit(chunks, claim, opened, listed)
        return SubmittedJob(self._job_id, self._house, created=opened.created and not claim.record.sealed)

    def _compared(self, chunks: Iterator[Chunk], claim: Claim) -> Iterator[Chunk]:
        """Chunks that come but once: where the record knows what they were, nothing is opened or sent before they were
        compared with that. Raises JobConflict when they are others."""
        record = claim.record
        if record.sealed:
            for _ in self._kept(chunks, claim):
                pass
            self._manifest = self._new_manifest()
            return self._new_manifest().sealed_chunks(record)
        if record.listed_chunks is None:
            return chunks
        # They were a list once, so that they are no more than can be held.
        held = list(islice(chunks, record.listed_chunks + 1))
        self._manifest.check_list(record, Listed.of(held))
        return iter(held)

    def _new_manifest(self) -> Manifest:
        return Manifest(self._house.store, self._job_id, self._terms)

    def _open(self, claim: Claim, owns: bool) -> Opened:
        digest = claim.record.images_sha256 or ""
        terms = self._terms
        try:
            return self._house.ledger.open(
                self._job_id, terms.text(), terms.output, self._lane, digest=digest, owns=owns
            )
        except JobConflict:
            if not claim.stood:
                self._manifest.release()
            raise

    def _find(self, chunks: Iterator[Chunk], claim: Claim, listed: Listed | None) -> None:
        """All of it was submitted before; whether it was the same."""
        if claim.record.sealed and listed is not None and listed.sha256 == claim.record.images_sha256:
            return
        house, manifest = self._house, self._manifest

        def passed() -> tuple[str, int, int]:
            return self._job_id, manifest.chunks, manifest.images

        with still_there(self._job_id):
            for _ in self._kept(chunks, claim):
                house.until_back(lambda: house.ledger.announce(*passed()))
            house.until_back(lambda: house.ledger.seal(*passed(), manifest.images_sha256))
        house.until_back(partial(manifest.seal, claim.record))

    def _submit(self, chunks: Iterator[Chunk], claim: Claim, opened: Opened, listed: Listed | None) -> None:
        with Turn(self._house.redis, self._job_id) as turn:
            if self._is_sealed_by_its_turn(turn) and not opened.sealed:
                self._find(chunks, claim, listed)
                return
            submission = Submission(
                self._house,
                self._job_id,
                self._terms.output,
                self._lane,
                fresh=opened.created and not claim.stood,
                wait_for_room=self._wait_for_room,
                turn=turn,
            )
            for block in self._kept(chunks, claim):
                if not submission.add(block):
                    log.info("job cancelled while it was submitted", job=self._job_id)
                    return
            submission.seal(self._manifest.images_sha256)
            self._house.until_back(partial(self._manifest.seal, claim.record))

    def _is_sealed_by_its_turn(self, turn: Turn) -> bool:
        """Its turn comes when others are done with it, or the producer's patience is."""
        give_up_s = monotonic() + self._house.settings.producer.patience_s
        while not turn.take() and monotonic() < give_up_s:
            sleep(_POLL_S)
        with still_there(self._job_id):
            status = self._house.ledger.status(self._job_id)
        return status.sealed and status.origin == "producer"

    def _kept(self, chunks: Iterator[Chunk], claim: Claim) -> Iterator[list[Chunk]]:
        """The blocks, each once it stands in the manifest. Raises JobConflict when they are not what stands there."""
        manifest = self._manifest
        for number, block in enumerate(blocks(chunks, self._house.settings.producer.block_chunks)):
            manifest.check_seal(claim.record, len(block))
            with self._blames_the_caller():
                self._house.until_back(partial(manifest.keep_block, number, block))
            yield block
        manifest.check_whole(claim.record)

    @contextmanager
    def _blames_the_caller(self) -> Iterator[None]:
        """Where storage refuses an output for good that does not lie below the house's own prefix, the call is wrong,
        and not the house. Raises OutputRefused in place of StorageRefused and of what is said of one object."""
        prefix = self._terms.output.prefix
        try:
            yield
        except (StorageRefused, ItemError) as error:
            houses = prefix.startswith(self._house.settings.output_prefix)
            if houses or error.retryable or isinstance(error, CredentialsRefused):
                raise
            raise OutputRefused(f"results cannot go to {redact(prefix)}: {error}") from error
