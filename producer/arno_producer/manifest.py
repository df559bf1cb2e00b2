"""The manifest: what a job was asked to do, in storage under `PREFIX/_arno/`, before any of it is promised.

Redis may forget; the manifest and the result objects together say what is still to be done.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count, takewhile
from typing import NamedTuple, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from arno_shared.errors import ArnoError, HouseError, JobConflict, NotFound
from arno_shared.messages import (
    Chunk,
    GenerationOptions,
    ImageRef,
    Output,
    Prompt,
    WireModel,
    describe_invalid,
    schema_version_of,
)
from arno_shared.names import job_record_uri, manifest_uri
from arno_shared.storage import ObjectStore

Model = TypeVar("Model", bound=WireModel)


class JobTerms(WireModel):
    """What must be the same when a job is submitted again."""

    prompts: tuple[Prompt, ...]
    output: Output
    generation: GenerationOptions = GenerationOptions()
    chunk_images: int
    request_sha256: str | None = None
    """Of all that was asked for, where a key stands for it."""

    def text(self) -> str:
        """As the ledger keeps it, and compares it to the byte: what was opened before there were these options must
        still be the same."""
        return self.model_dump_json(exclude=self.unsaid())

    def unsaid(self) -> set[str]:
        unsaid = {"generation"} if self.generation == GenerationOptions() else set()
        return unsaid | ({"request_sha256"} if self.request_sha256 is None else set())


class JobRecord(WireModel):
    """The object that says which job a prefix belongs to."""

    # Newer versions may say more of a job; what was asked for is told by its terms alone.
    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: str
    terms: JobTerms
    created_at: datetime
    chunks: int | None = None
    """How many there are; None until everything is submitted."""
    images: int | None = None
    images_sha256: str | None = None
    """Of all lines of the manifest, which name all images; None until they are known."""
    listed_chunks: int | None = Field(default=None, exclude_if=lambda chunks: chunks is None)
    """How many there were when it was claimed, where that was known."""
    schema_version: int = Field(default_factory=lambda said: schema_version_of({"prompts": said["terms"].prompts}))

    @property
    def sealed(self) -> bool:
        """Everything was submitted."""
        return self.chunks is not None

    def encoded(self) -> bytes:
        return self.model_dump_json(exclude={"terms": self.terms.unsaid() - {"generation"}}).encode()


class ManifestLine(WireModel):
    """A chunk, as a block lists it."""

    index: int
    images: tuple[ImageRef, ...]


class Claim(NamedTuple):
    record: JobRecord
    """As it stands."""
    stood: bool
    """Before this claim."""


def read_record(store: ObjectStore, prefix: str) -> JobRecord | None:
    """The record of the job that a prefix belongs to. Raises JobConflict when it cannot be read, and as
    `ObjectStore.get` does, but for NotFound."""
    uri = job_record_uri(prefix)
    standing = _get(store, uri)
    return None if standing is None else _parse(JobRecord, standing, uri)


class Listed(NamedTuple):
    """A job's images, where they are known before they are submitted."""

    sha256: str
    """Of all lines of the manifest that they make."""
    chunks: int

    @classmethod
    def of(cls, chunks: Iterable[Chunk]) -> "Listed":
        passed, listed = hashlib.sha256(), 0
        for chunk in chunks:
            passed.update(_line(chunk))
            listed += 1
        return cls(passed.hexdigest(), listed)


class Manifest:
    """A job's record and blocks. Raises as `ObjectStore` does, but for NotFound."""

    def __init__(self, store: ObjectStore, job_id: str, terms: JobTerms) -> None:
        self._store, self._job_id, self._terms = store, job_id, terms
        self._prefix = terms.output.prefix
        self._passed = hashlib.sha256()
        self.chunks = self.images = 0
        """In the blocks that were kept, or read: each once, and in their order."""

    @property
    def images_sha256(self) -> str:
        """Of the same."""
        return self._passed.hexdigest()

    def claim(self, listed: Listed | None) -> Claim:
        """Makes the prefix this job's, or finds that it is; what stands there is left as it is. `listed`: all its
        images, where they are known.

        Raises JobConflict when another job has it, or this one with other terms or images: results would overwrite each
        other.
        """
        mine = JobRecord(
            job_id=self._job_id,
            terms=self._terms,
            created_at=datetime.now(UTC),
            images_sha256=listed and listed.sha256,
            listed_chunks=listed and listed.chunks,
        )
        wrote = self._store.put_new(job_record_uri(self._prefix), mine.encoded(), "application/json")
        # Read even so: where nothing can be read, results cannot be either.
        standing = read_record(self._store, self._prefix)
        if standing is None:
            raise HouseError(f"{job_record_uri(self._prefix)} was removed while it was read: submit again")
        if standing.job_id != self._job_id:
            raise JobConflict(
                f"{self._prefix} holds the results of job {standing.job_id!r}; "
                f"choose another output for job {self._job_id!r}"
            )
        if standing.terms != self._terms:
            raise JobConflict(
                f"job {self._job_id!r} was submitted with other terms (see {job_record_uri(self._prefix)}): "
                "submit it as it was, or choose another job id and output",
                asked_otherwise=True,
            )
        if listed:
            self.check_list(standing, listed)
        return Claim(standing, stood=not wrote)

    def check_list(self, record: JobRecord, listed: Listed) -> None:
        """Raises JobConflict when the record knows that its images are others."""
        if record.images_sha256 not in (None, listed.sha256):
            raise self._of_other_images(job_record_uri(self._prefix))

    def release(self) -> None:
        """Takes the claim back: nothing came of it."""
        with suppress(ArnoError):
            self._store.delete(job_record_uri(self._prefix))

    def has_blocks(self) -> bool:
        return self._store.exists(manifest_uri(self._prefix, 0))

    def keep_block(self, number: int, chunks: Sequence[Chunk]) -> None:
        """Stores a block, or finds it stored as it is. Raises JobConflict when it stands with other images."""
        uri = manifest_uri(self._prefix, number)
        lines = b"".join(map(_line, chunks))
        if not self._store.put_new(uri, lines, "application/x-ndjson") and _get(self._store, uri) != lines:
            raise self._of_other_images(uri)
        self._count(lines, chunks)

    def block(self, number: int) -> list[Chunk] | None:
        """The chunks of a block, None when there is no such block. Raises JobConflict when it cannot be read."""
        uri = manifest_uri(self._prefix, number)
        standing = _get(self._store, uri)
        if standing is None:
            return None
        chunks = [self._chunk(_parse(ManifestLine, line, uri)) for line in standing.splitlines()]
        self._count(standing, chunks)
        return chunks

    def sealed_chunks(self, record: JobRecord) -> Iterator[Chunk]:
        """All chunks of a job that was submitted whole. Behind the seal lies what others tried to add."""
        for number in takewhile(lambda _: self.chunks != record.chunks, count()):
            block = self.block(number)
            if block is None:
                return
            yield from block

    def seal(self, record: JobRecord) -> None:
        """Writes into the record that the blocks so far are all of them, where it does not say so."""
        seal = {"chunks": self.chunks, "images": self.images, "images_sha256": self.images_sha256}
        sealed = record.model_copy(update=seal)
        if sealed != record:
            self._store.put(job_record_uri(self._prefix), sealed.encoded(), "application/json")

    def check_seal(self, record: JobRecord, more_chunks: int = 0) -> None:
        """Raises JobConflict when the blocks so far, and so many chunks more, are more than were sealed."""
        if record.chunks is not None and self.chunks + more_chunks > record.chunks:
            raise self._of_other_images(job_record_uri(self._prefix))

    def check_whole(self, record: JobRecord) -> None:
        """Raises JobConflict when the blocks so far are not what was sealed."""
        if record.sealed and self.chunks != record.chunks:
            raise self._of_other_images(job_record_uri(self._prefix))
        if record.images_sha256 not in (None, self.images_sha256):
            raise self._of_other_images(job_record_uri(self._prefix))

    def _count(self, lines: bytes, chunks: Sequence[Chunk]) -> None:
        self._passed.update(lines)
        self.chunks += len(chunks)
        self.images += sum(len(chunk.images) for chunk in chunks)

    def _of_other_images(self, uri: str) -> JobConflict:
        return JobConflict(
            f"job {self._job_id!r} was submitted with other images ({uri} differs): "
            "submit the same images in the same order, or choose another job id and output",
            asked_otherwise=True,
        )

    def _chunk(self, line: ManifestLine) -> Chunk:
        terms = self._terms
        return Chunk.model_construct(
            images=line.images,
            prompts=terms.prompts,
            output=terms.output,
            generation=terms.generation,
            job_id=self._job_id,
            index=line.index,
        )


def _line(chunk: Chunk) -> bytes:
    line = {"index": chunk.index, "images": [image.model_dump(exclude_none=True) for image in chunk.images]}
    return f"{json.dumps(line, ensure_ascii=False)}\n".encode()


def _get(store: ObjectStore, uri: str) -> bytes | None:
    try:
        return store.get(uri)
    except NotFound:
        return None


def _parse(model: type[Model], data: bytes, uri: str) -> Model:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise JobConflict(
            f"{uri} is not what this version writes there ({describe_invalid(error)}): choose another output, "
            "or use the version that wrote it"
        ) from None
