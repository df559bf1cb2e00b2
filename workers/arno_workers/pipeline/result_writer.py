"""Writes result objects, each once, and never over another's.

Two workers may do the same chunk: one was thought dead, or the answer to a write was lost. The object that stands
first is the truth; what is committed is what it says. Two jobs may want the same place: what stands there belongs to
whose rows it holds, and the other one is refused.
"""

import json

from arno_shared.errors import ArnoError, CredentialsRefused, HouseError, JobConflict, NotFound, StorageRefused
from arno_shared.logs import get_logger
from arno_shared.messages import Chunk, Output
from arno_shared.names import index_of_part, part_uri
from arno_shared.parts import CONTENT_TYPES, decode_part, encode_part
from arno_shared.places import places_of
from arno_shared.results import ResultRow
from arno_shared.storage import ObjectStore
from arno_workers.pipeline.rows import Settled, settled_from

log = get_logger(__name__)


class ResultWriter:
    def __init__(self, store: ObjectStore, max_attempts: int) -> None:
        self._store, self._max_attempts = store, max_attempts

    def write(self, chunk: Chunk, settled: Settled) -> tuple[str, Settled]:
        """The URI of the chunk's result object, durable when this returns, and what it says became of the chunk.

        Raises HouseError for what may pass; StorageRefused or MissingExtra for what will not; JobConflict when what
        stands there is not this chunk's.
        """
        uri = part_uri(chunk.output.prefix, chunk.index, chunk.attempt, chunk.output.format)
        data, content_type = encode_part(settled.rows, chunk.output.format), CONTENT_TYPES[chunk.output.format]
        try:
            if self._store.put_new(uri, data, content_type):
                return uri, settled
            standing = self._standing(uri, chunk)
            if standing is not None:
                return uri, standing
            # No row of anybody else's is in it: a write that broke off, where storage lets one do so.
            log.warning("an object that is not whole is replaced", uri=uri)
            self._store.put(uri, data, content_type)
        except NotFound as error:
            raise HouseError(f"{uri} vanished while it was looked at") from error
        except CredentialsRefused as error:
            # Arno's own are wrong or missing: no chunk is to blame, and none may be given up for it.
            raise HouseError(str(error)) from error
        return uri, settled

    def has_written(self, chunk: Chunk) -> bool:
        """Whether what stands in the chunk's place is the chunk's; whose nobody can say is not. Raises HouseError."""
        try:
            return bool(self._is_own(chunk))
        except CredentialsRefused as error:
            raise HouseError(str(error)) from error
        except NotFound:
            # Deleted since, by whoever may.
            return True

    def next_index(self, output: Output) -> int:
        """One more than the highest index of a part below the output prefix. Raises HouseError."""
        try:
            indices = (index_of_part(stored.uri, output.prefix) for stored in self._store.list(output.prefix))
            return max((index for index in indices if index is not None), default=-1) + 1
        except (HouseError, CredentialsRefused) as error:
            raise HouseError(str(error)) from error
        except ArnoError as error:
            if error.retryable:
                raise HouseError(f"{output.prefix} cannot be looked through just now: {error}") from error
            # Who may not look may write: what stands in a place is met there.
            return 0

    def _standing(self, uri: str, chunk: Chunk) -> Settled | None:
        """What the rows that stand there say; None when there are none. Raises as `write` does, and NotFound."""
        found = self._rows(uri, chunk)
        if found == ([], []) and self._is_own(chunk) is False:
            raise _conflict(uri, chunk)
        # After the last attempt nothing is put off: each image has a row, or the object was cut short.
        if found is None or (chunk.attempt >= self._max_attempts and len(found[0]) < len(chunk.images)):
            return None
        return settled_from(chunk, *found)

    def _is_own(self, chunk: Chunk) -> bool | None:
        """Whether the rows in the chunk's place are the chunk's. Where all images were put off there are none, and
        those of the next attempts tell; None when there are none either. Raises as `_rows` does, but for JobConflict.
        """
        attempt = chunk.attempt
        while True:
            tried = chunk.model_copy(update={"attempt": attempt})
            try:
                found = self._rows(part_uri(chunk.output.prefix, chunk.index, attempt, chunk.output.format), tried)
            except JobConflict:
                return False
            except NotFound:
                if attempt > chunk.attempt:
                    return None
                raise
            if found is None or found[0]:
                return True
            attempt += 1

    def _rows(self, uri: str, chunk: Chunk) -> tuple[list[ResultRow], list[int]] | None:
        """The chunk's rows that stand there, and the place of each; None when the chunk's writer broke off. Raises as
        `write` does, and NotFound."""
        try:
            data = self._store.get(uri)
        except (HouseError, CredentialsRefused, NotFound):
            raise
        except ArnoError as error:
            if error.retryable:
                raise HouseError(f"what stands at {uri} cannot be read just now: {error}") from error
            raise StorageRefused(
                f"what stands at {uri} cannot be read, so that nobody knows whose it is: {error}"
            ) from error
        try:
            rows = decode_part(data, chunk.output.format)
        except Exception:
            if not _was_begun_by(data, chunk):
                raise _conflict(uri, chunk) from None
            return None
        places = places_of(chunk, rows) if all(row.answers(chunk) for row in rows) else None
        if places is None:
            raise _conflict(uri, chunk)
        return rows, places


def _conflict(uri: str, chunk: Chunk) -> JobConflict:
    return JobConflict(
        f"{uri} holds rows that are not of this chunk of job {chunk.job_id!r}: it belongs to other work; choose "
        "another output, or remove what is there"
    )


def _was_begun_by(data: bytes, chunk: Chunk) -> bool:
    """Whether an object that cannot be read whole is the beginning of what this very attempt writes, which broke off.
    It takes proof: nobody knows whose anything else is. An empty one is nobody's."""
    *whole, tail = data.split(b"\n")
    own = f'{{"job_id":{json.dumps(chunk.job_id)},"index":{chunk.index},'.encode()
    length = min(len(own), len(tail))
    return tail[:length] == own[:length] and all(_is_row_of(line, chunk) for line in whole)


def _is_row_of(line: bytes, chunk: Chunk) -> bool:
    try:
        row = json.loads(line)
        identity = (row["job_id"], row["index"], row["attempts"])
    except (ValueError, TypeError, KeyError):
        return False
    return bool(identity == (chunk.job_id, chunk.index, chunk.attempt))
