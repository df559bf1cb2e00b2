"""The manifest: what a job was asked to do, in storage under `PREFIX/_arno/`, before any of it is promised.

Redis may forget; the manifest and the result objects together say what is still to be done.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError

from arno_shared.errors import JobConflict, NotFound
from arno_shared.messages import (
    SCHEMA_VERSION,
    Chunk,
    GenerationOptions,
    ImageRef,
    Output,
    Prompt,
    WireModel,
    describe_invalid,
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

    def text(self) -> str:
        """As the ledger keeps it, and compares it to the byte: what was opened before there were generation options
        must still be the same."""
        return self.model_dump_json(exclude={"generation"} if self.generation == GenerationOptions() else None)


class JobRecord(WireModel):
    """The object that says which job a prefix belongs to."""

    job_id: str
    terms: JobTerms
    created_at: datetime
    chunks: int | None = None
    """How many there are; None until everything is submitted."""
    images: int | None = None
    schema_version: int = SCHEMA_VERSION


class ManifestLine(WireModel):
    """A chunk, as a block lists it."""

    index: int
    images: tuple[ImageRef, ...]


def read_record(store: ObjectStore, prefix: str) -> JobRecord | None:
    """The record of the job that a prefix belongs to. Raises JobConflict when it cannot be read, and as
    `ObjectStore.get` does, but for NotFound."""
    uri = job_record_uri(prefix)
    standing = _get(store, uri)
    return None if standing is None else _parse(JobRecord, standing, uri)


class Manifest:
    """A job's record and blocks. Raises as `ObjectStore` does, but for NotFound."""

    def __init__(self, store: ObjectStore, job_id: str, terms: JobTerms) -> None:
        self._store, self._job_id, self._terms = store, job_id, terms
        self._prefix = terms.output.prefix
        self._created_at = datetime.now(UTC)

    def claim_prefix(self) -> bool:
        """Whether the prefix was this job's before.

        Raises JobConflict when another job, or other terms, have it: results would overwrite each other.
        """
        record = read_record(self._store, self._prefix)
        if record is not None:
            if record.job_id != self._job_id:
                raise JobConflict(
                    f"{self._prefix} holds the results of job {record.job_id!r}; "
                    f"choose another output for job {self._job_id!r}"
                )
            if record.terms != self._terms:
                raise JobConflict(
                    f"job {self._job_id!r} was submitted with other terms (see {job_record_uri(self._prefix)}): "
                    "submit it as it was, or choose another job id and output"
                )
            self._created_at = record.created_at
        self._write_record(None, None)
        return record is not None

    def keep_block(self, number: int, chunks: Sequence[Chunk]) -> None:
        """Stores a block, or finds it stored as it is. Raises JobConflict when it stands with other images."""
        uri = manifest_uri(self._prefix, number)
        lines = "".join(
            json.dumps(
                {"index": chunk.index, "images": [image.model_dump(exclude_none=True) for image in chunk.images]},
                ensure_ascii=False,
            )
            + "\n"
            for chunk in chunks
        ).encode()
        standing = _get(self._store, uri)
        if standing is None:
            self._store.put(uri, lines, "application/x-ndjson")
        elif standing != lines:
            raise JobConflict(
                f"job {self._job_id!r} was submitted with other images ({uri} differs): "
                "submit the same images in the same order, or choose another job id and output"
            )

    def block(self, number: int) -> list[Chunk] | None:
        """The chunks of a block, None when there is no such block. Raises JobConflict when it cannot be read."""
        uri = manifest_uri(self._prefix, number)
        standing = _get(self._store, uri)
        if standing is None:
            return None
        return [self._chunk(_parse(ManifestLine, line, uri)) for line in standing.splitlines()]

    def seal(self, chunks: int, images: int) -> None:
        """Records that everything was submitted."""
        self._write_record(chunks, images)

    def _write_record(self, chunks: int | None, images: int | None) -> None:
        record = JobRecord(
            job_id=self._job_id, terms=self._terms, created_at=self._created_at, chunks=chunks, images=images
        )
        self._store.put(job_record_uri(self._prefix), record.model_dump_json().encode(), "application/json")

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
