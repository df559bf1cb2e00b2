"""Manifests that are tables: CSV and Parquet."""

import csv
from collections.abc import Iterator
from typing import BinaryIO

from arno_producer.sources.columns import Columns, image_at
from arno_producer.sources.lines import decoded_lines
from arno_shared.errors import InvalidRequest
from arno_shared.messages import ImageRef
from arno_shared.parts import import_parquet

_BATCH_ROWS = 1000


def read_csv(file: BinaryIO, name: str, columns: Columns) -> Iterator[ImageRef]:
    """Its first line names the columns. Raises InvalidRequest, which names the line."""
    rows = csv.DictReader(decoded_lines(file, name), strict=True)
    try:
        taken = columns.found_in(rows.fieldnames or (), f"{name}, line 1,")
        for row in rows:
            where = f"{name}, line {rows.line_num}"
            if None in row:
                raise InvalidRequest(f"{where}: more values than columns; put values that hold commas in quotes")
            yield image_at(where, {field: row[column] for field, column in taken.items()})
    except csv.Error as error:
        raise InvalidRequest(f"{name}, line {rows.reader.line_num}: not CSV: {error}") from None


def read_parquet(file: BinaryIO, name: str, columns: Columns) -> Iterator[ImageRef]:
    """Raises MissingExtra without pyarrow, and InvalidRequest, which names the row."""
    import_parquet()
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        table = pq.ParquetFile(file)
        taken = columns.found_in(table.schema_arrow.names, name)
        # In this thread: pyarrow's own abort a process that ends soon after.
        for batch in table.iter_batches(_BATCH_ROWS, columns=sorted({*taken.values()}), use_threads=False):
            for row in batch.to_pylist():
                number += 1
                yield image_at(f"{name}, row {number}", {field: row[column] for field, column in taken.items()})
    except (pa.ArrowException, OSError) as error:
        raise InvalidRequest(f"{name} is not Parquet, or is broken after row {number}: {error}") from None
