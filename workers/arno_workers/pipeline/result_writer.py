"""Writes result objects, each once.

Two workers may do the same chunk: one was thought dead, or the answer to a write was lost. The object that stands
first is the truth; what is committed is what it says. Where storage cannot write conditionally, the two may write one
after the other within a moment, and the later object stands: the same answers, though perhaps other times.
"""

from collections import Counter
from collections.abc import Sequence

from arno_shared.errors import ArnoError, CredentialsRefused, HouseError
from arno_shared.logs import get_logger
from arno_shared.messages import Chunk
from arno_shared.names import part_uri
from arno_shared.parts import CONTENT_TYPES, decode_part, encode_part
from arno_shared.results import ResultRow
from arno_shared.storage import ObjectStore
from arno_workers.pipeline.rows import Settled, settled_from

log = get_logger(__name__)


class ResultWriter:
    def __init__(self, store: ObjectStore, max_attempts: int) -> None:
        self._store, self._max_attempts = store, max_attempts

    def write(self, chunk: Chunk, settled: Settled) -> tuple[str, Settled]:
        """The URI of the chunk's result object, durable when this returns, and what it says became of the chunk.

        Raises HouseError for what may pass, StorageRefused or MissingExtra for what will not.
        """
        uri = part_uri(chunk.output.prefix, chunk.index, chunk.attempt, chunk.output.format)
        data, content_type = encode_part(settled.rows, chunk.output.format), CONTENT_TYPES[chunk.output.format]
        try:
            if self._store.put_new(uri, data, content_type):
                return uri, settled
            standing = self._rows(uri, chunk)
            if standing is not None:
                return uri, settled_from(chunk, standing)
            # It is not of this chunk: of a job of the same name, whose ledger has been forgotten.
            log.warning("an object is replaced", uri=uri)
            self._store.put(uri, data, content_type)
        except CredentialsRefused as error:
            # Arno's own are wrong or missing: no chunk is to blame, and none may be given up for it.
            raise HouseError(str(error)) from error
        return uri, settled

    def _rows(self, uri: str, chunk: Chunk) -> list[ResultRow] | None:
        """The rows that stand there, if they can be of this chunk. Raises HouseError, CredentialsRefused."""
        try:
            rows = decode_part(self._store.get(uri), chunk.output.format)
        except (HouseError, CredentialsRefused):
            raise
        except ArnoError as error:
            if error.retryable:
                raise HouseError(f"what stands at {uri} cannot be read just now: {error}") from error
            return None
        except Exception:
            return None
        # After the last attempt nothing is put off: each image has a row.
        whole = chunk.attempt < self._max_attempts or len(rows) == len(chunk.images)
        return rows if whole and _is_of(chunk, rows) else None


def _is_of(chunk: Chunk, rows: Sequence[ResultRow]) -> bool:
    others = Counter(row.asked_for for row in rows) - Counter(chunk.images)
    return not others and all(row.answers(chunk) for row in rows)
