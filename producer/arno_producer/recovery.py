"""Rebuilds a job's ledger from its result objects, after Redis lost it, whole or in part. What they hold is not run
again.

A chunk is restored when the ledger does not know it as committed, its first attempt's object stands, and nobody has
that in hand. Later attempts are restored before the first, whose bit says that the chunk is known: broken off at any
moment, it is restored again.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from arno_producer.history import History
from arno_producer.patience import until_back
from arno_shared.errors import ArnoError, NotFound
from arno_shared.ledger import Ledger
from arno_shared.logs import get_logger
from arno_shared.messages import Chunk, Output
from arno_shared.names import Lane, attempt_field, job_keys, part_uri
from arno_shared.parts import decode_part
from arno_shared.redis_client import RedisClient, redis_away
from arno_shared.results import ResultRow
from arno_shared.storage import ObjectStore

log = get_logger(__name__)

_READERS = 16
"""Parts that are read at a time: as many as `ObjectStore` has connections."""


class Recovery:
    """Of one job, block by block, in their order. Holds the names of one block's result objects, and few objects.

    Raises HouseError once its patience is over, StorageRefused, and MissingExtra when results are Parquet and pyarrow
    is not installed.
    """

    def __init__(
        self,
        job_id: str,
        output: Output,
        lane: Lane,
        *,
        ledger: Ledger,
        redis: RedisClient,
        store: ObjectStore,
        patience_s: float,
    ) -> None:
        self._job_id, self._output, self._lane = job_id, output, lane
        self._ledger, self._redis, self._store = ledger, redis, store
        self._patience_s = patience_s
        self._names = _Names(store, output.prefix)

    def done(self, block: Sequence[Chunk]) -> set[int]:
        """Which chunks of a block are done, those included that are restored now."""
        # Without its suffix, a name stands before those of all attempts at its chunk.
        start, stop = (part_uri(self._output.prefix, index, 1, "") for index in (block[0].index, block[-1].index + 1))
        stored = until_back(lambda: self._names.between(start, stop), self._patience_s)
        return until_back(lambda: self._restore(block, stored), self._patience_s)

    def _restore(self, block: Sequence[Chunk], stored: set[str]) -> set[int]:
        """Called again, it goes on with what it did not come to."""
        # Asked in this order, what is committed in between is in one of the two.
        in_hand = self._in_hand()
        done = self._ledger.committed_indices(self._job_id, block[0].index, len(block))

        def stands(attempt: Chunk) -> bool:
            return self._uri(attempt) in stored and attempt_field(attempt.index, attempt.attempt) not in in_hand

        with ThreadPoolExecutor(_READERS) as readers:
            restored = {
                readers.submit(self._restore_chunk, chunk, stands): chunk.index
                for chunk in block
                if chunk.index not in done and stands(chunk)
            }
            try:
                return done | {restored[future] for future in as_completed(restored) if future.result()}
            finally:
                readers.shutdown(cancel_futures=True)

    def _restore_chunk(self, chunk: Chunk, stands: Callable[[Chunk], bool]) -> bool:
        """Whether there was anything to restore."""
        history = History(chunk)
        while stands(history.next):
            rows = self._rows(history.next)
            if rows is None or not history.add(rows):
                log.warning("a result object is not believed: its images run again", uri=self._uri(history.next))
                break
        for attempt, found in history.found(self._lane):
            self._ledger.restore(attempt, found)
        return bool(history)

    def _rows(self, attempt: Chunk) -> list[ResultRow] | None:
        """None when what stands there holds no rows."""
        try:
            return decode_part(self._store.get(self._uri(attempt)), self._output.format)
        except NotFound:  # deleted since it was listed
            return None
        except ArnoError:
            raise
        except Exception:
            return None

    def _in_hand(self) -> set[str]:
        """Attempts that were begun and have not ended: who has them commits them, and publishes their events."""
        with redis_away():
            fields = self._redis.hkeys(job_keys(self._job_id).begun)
        return {field.decode() for field in fields}

    def _uri(self, attempt: Chunk) -> str:
        return part_uri(self._output.prefix, attempt.index, attempt.attempt, self._output.format)


class _Names:
    """The URIs under a prefix, in order, listed page by page as they are asked for."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._uris: Iterator[str] | None = None
        self._ahead: str | None = None

    def between(self, start: str, stop: str) -> set[str]:
        """From `start` to before `stop`; `start` is not before the last call's `stop`."""
        try:
            return set(self._walk(start, stop))
        except BaseException:
            # A listing that broke off does not go on.
            self._uris = None
            raise

    def _walk(self, start: str, stop: str) -> Iterator[str]:
        if self._uris is None:
            self._uris = (stored.uri for stored in self._store.list(self._prefix))
            self._ahead = next(self._uris, None)
        while self._ahead is not None and self._ahead < stop:
            if self._ahead >= start:
                yield self._ahead
            self._ahead = next(self._uris, None)
