"""The manifest: what a job was asked to do, in storage under `PREFIX/_arno/`, before any of it is promised.

Redis may forget; the manifest and the result objects together say what is still to be done.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from arno_shared.errors import JobConflict, NotFound
from arno_shared.messages import SCHEMA_VERSION, Chunk, GenerationOptions, Output, Prompt, WireModel
from arno_shared.names import job_record_uri, manifest_uri
from arno_shared.storage import ObjectStore


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


class Manifest:
    """A job's record and blocks. Raises HouseError and StorageRefused as `ObjectStore` does."""

    def __init__(self, store: ObjectStore, job_id: str, terms: JobTerms) -> None:
        self._store, self._job_id, self._terms = store, job_id, terms
        self._prefix = terms.output.prefix
        self._created_at = datetime.now(UTC)

    def claim_prefix(self) -> None:
        """Raises JobConflict when another job, or other terms, have this prefix: results would overwrite each other."""
        standing = self._read(job_record_uri(self._prefix))
        if standing is not None:
            record = JobRecord.model_validate_json(standing)
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
        standing = self._read(uri)
        if standing is None:
            self._store.put(uri, lines, "application/x-ndjson")
        elif standing != lines:
            raise JobConflict(
                f"job {self._job_id!r} was submitted with other images ({uri} differs): "
                "submit the same images in the same order, or choose another job id and output"
            )

    def seal(self, chunks: int, images: int) -> None:
        """Records that everything was submitted."""
        self._write_record(chunks, images)

    def _write_record(self, chunks: int | None, images: int | None) -> None:
        record = JobRecord(
            job_id=self._job_id, terms=self._terms, created_at=self._created_at, chunks=chunks, images=images
        )
        self._store.put(job_record_uri(self._prefix), record.model_dump_json().encode(), "application/json")

    def _read(self, uri: str) -> bytes | None:
        try:
            return self._store.get(uri)
        except NotFound:
            return None
