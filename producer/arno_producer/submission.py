"""The way of one job's chunks onto their lane's queue."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import sleep
from typing import TypeVar

from arno_producer.patience import until_back
from arno_producer.recovery import Recovery
from arno_shared.broker import Sender, queue_length
from arno_shared.errors import HouseError, JobConflict, JobNotFound
from arno_shared.ledger import JobState, JobStatus, Ledger
from arno_shared.messages import Chunk
from arno_shared.names import Lane
from arno_shared.redis_client import RedisClient
from arno_shared.settings import ProducerSettings

T = TypeVar("T")

_POLL_S = 0.2


class Submission:
    """Of a job that was just opened: its blocks are added in their order.

    Raises HouseError when Redis or storage stays away beyond the producer's patience, or when Redis has lost the job
    meanwhile. The job is then not sealed, and neither is one that was cancelled.
    """

    def __init__(
        self,
        job_id: str,
        lane: Lane,
        settings: ProducerSettings,
        *,
        ledger: Ledger,
        redis: RedisClient,
        sender: Sender,
        recovery: Recovery | None,
        wait_for_room: bool = True,
    ) -> None:
        """`recovery` is None when nothing of the job can be done yet."""
        self._wait = wait_for_room
        self._job_id, self._lane, self._settings = job_id, lane, settings
        self._ledger, self._redis, self._sender, self._recovery = ledger, redis, sender, recovery
        self._opened_at = ledger.status(job_id).created_at
        self._room = 0
        self.chunks = self.images = 0
        """Those that were added."""
        self.done_chunks = self.sent_chunks = 0

    def add(self, block: Sequence[Chunk]) -> bool:
        """Sends the chunks of a block that are not done. False when the job is cancelled."""
        self.chunks += len(block)
        self.images += sum(len(chunk.images) for chunk in block)
        self._announce(sealed=False)
        done = self._recovery.done(block) if self._recovery else set()
        self.done_chunks += len(done)
        return all(self._send(chunk) for chunk in block if chunk.index not in done)

    def seal(self) -> None:
        """Says that everything was added. Raises JobConflict when the ledger knows of more."""
        if self._status().chunks > self.chunks:
            raise JobConflict(f"job {self._job_id!r} was submitted with more images; submit all of them again")
        self._announce(sealed=True)

    def _send(self, chunk: Chunk) -> bool:
        if not self._room:
            self._room = self._wait_for_room()
            if not self._room:
                return False
        # Sent twice, because the answer was lost, is harmless.
        self._until_back(lambda: self._sender.send_chunk(chunk, self._lane))
        self._room -= 1
        self.sent_chunks += 1
        return True

    def _wait_for_room(self) -> int:
        """How many messages the lane takes before its high-water mark; 0 once the job is cancelled. While the job is
        paused, none are sent."""
        while (state := self._status().state) is not JobState.CANCELLED:
            waiting = self._until_back(lambda: queue_length(self._redis, self._lane))
            room = self._settings.high_water_messages - waiting
            if not self._wait or (room > 0 and state is not JobState.PAUSED):
                return min(max(room, 1), 1000)
            sleep(_POLL_S)
        return 0

    def _announce(self, *, sealed: bool) -> None:
        with self._still_there():
            self._until_back(lambda: self._ledger.announce(self._job_id, self.chunks, self.images, sealed=sealed))

    def _status(self) -> JobStatus:
        with self._still_there():
            status = self._until_back(lambda: self._ledger.status(self._job_id))
            # Opened anew, by messages that were in hand: what was queued before is lost.
            if status.created_at != self._opened_at:
                raise JobNotFound
        return status

    @contextmanager
    def _still_there(self) -> Iterator[None]:
        try:
            yield
        except JobNotFound:
            raise HouseError(
                f"Redis has lost its data while job {self._job_id!r} was submitted: do the same again, with the same "
                "job id; what has results is not run again"
            ) from None

    def _until_back(self, call: Callable[[], T]) -> T:
        return until_back(call, self._settings.patience_s)
