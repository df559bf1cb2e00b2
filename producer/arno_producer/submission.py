"""The way of one job's chunks onto their lane's queue."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import sleep

from arno_producer.house import House
from arno_producer.recovery import Recovery
from arno_producer.room import NO_ROOM, Room, room_in
from arno_producer.turn import Turn
from arno_shared.broker import message_bytes
from arno_shared.errors import HouseError, JobConflict, JobNotFound
from arno_shared.ledger import JobState, JobStatus
from arno_shared.messages import Chunk, Output
from arno_shared.names import Lane, task_id

_POLL_S = 0.2
_MOST_AT_ONCE = 1000
"""Messages, before the lane is looked at again: others send, too."""


class Submission:
    """Of a job that was just opened: its blocks are added in their order.

    Raises HouseError when Redis or storage stays away beyond the producer's patience, or when Redis has lost the job
    meanwhile, and JobConflict when it was submitted with less before. The job is then not sealed, and neither is one
    that was cancelled.
    """

    def __init__(
        self,
        house: House,
        job_id: str,
        output: Output,
        lane: Lane,
        *,
        fresh: bool = False,
        wait_for_room: bool = True,
        turn: Turn | None = None,
    ) -> None:
        """`fresh`: nothing of the job can be done yet. `turn` is kept meanwhile."""
        self._house, self._job_id, self._lane = house, job_id, lane
        self._wait, self._turn = wait_for_room, turn
        self._recovery = None if fresh else _recovery(house, job_id, output, lane)
        with still_there(job_id):
            self._opened_at = house.ledger.status(job_id).created_at
        # What was given up is put back to work by its letter.
        self._buried = set() if fresh else house.ledger.buried_indices(job_id)
        self._room = NO_ROOM
        self.chunks = self.images = 0
        """Those that were added."""
        self.done_chunks = self.sent_chunks = 0

    def add(self, block: Sequence[Chunk]) -> bool:
        """Sends the chunks of a block that are not done. False when the job is cancelled."""
        self.chunks += len(block)
        self.images += sum(len(chunk.images) for chunk in block)
        self._keep_turn()
        with self._still_this_one():
            self._house.until_back(lambda: self._house.ledger.announce(self._job_id, self.chunks, self.images))
        done = self._recovery.done(block) if self._recovery else set()
        self.done_chunks += len(done)
        ended = done | self._buried
        return all(self._send(chunk) for chunk in block if chunk.index not in ended)

    def seal(self, images_sha256: str) -> None:
        """Says that everything was added."""
        self._status()
        with self._still_this_one():
            self._house.until_back(
                lambda: self._house.ledger.seal(self._job_id, self.chunks, self.images, images_sha256)
            )

    def _send(self, chunk: Chunk) -> bool:
        if not self._room:
            self._room = self._wait_for_room()
            if not self._room:
                return False
        message, id = chunk.to_wire(), task_id(chunk.job_id, chunk.index, chunk.attempt)
        # Sent twice, because the answer was lost, is harmless.
        self._house.until_back(lambda: self._house.sender.send_message(message, self._lane, id))
        self._room = self._room.less(message_bytes(message))
        self.sent_chunks += 1
        return True

    def _wait_for_room(self) -> Room:
        """What the lane takes before it is looked at again; none once the job is cancelled. While the job is paused,
        none is sent."""
        marks = self._house.settings.producer
        at_once = Room(_MOST_AT_ONCE, max(marks.high_water_bytes // 10, 1))
        while (state := self._status().state) is not JobState.CANCELLED:
            if not self._wait:
                return at_once
            room = self._house.until_back(lambda: room_in(self._house, self._lane))
            if room and state is not JobState.PAUSED:
                return Room(*map(min, room, at_once))
            self._keep_turn()
            sleep(_POLL_S)
        return NO_ROOM

    def _keep_turn(self) -> None:
        if self._turn:
            self._house.until_back(self._turn.keep)

    def _status(self) -> JobStatus:
        with still_there(self._job_id):
            status = self._house.until_back(lambda: self._house.ledger.status(self._job_id))
            # Opened anew, by messages that were in hand: what was queued before is lost.
            if status.created_at != self._opened_at:
                raise JobNotFound
        return status

    @contextmanager
    def _still_this_one(self) -> Iterator[None]:
        try:
            with still_there(self._job_id):
                yield
        except JobConflict:
            # Not with what messages have opened since Redis lost it.
            self._status()
            raise


@contextmanager
def still_there(job_id: str) -> Iterator[None]:
    """Raises HouseError when the ledger does not know a job that it knew a moment ago."""
    try:
        yield
    except JobNotFound:
        raise HouseError(
            f"Redis has lost its data while job {job_id!r} was submitted: do the same again, with the same job id; "
            "what has results is not run again"
        ) from None


def _recovery(house: House, job_id: str, output: Output, lane: Lane) -> Recovery:
    return Recovery(
        job_id,
        output,
        lane,
        ledger=house.ledger,
        redis=house.redis,
        store=house.store,
        patience_s=house.settings.producer.patience_s,
    )
