"""Text of any length, a line at a time; and the manifests that are nothing but lines."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from arno_producer.sources.columns import Columns, image_at
from arno_producer.sources.events import images_of_event, is_event
from arno_shared.errors import InvalidRequest
from arno_shared.messages import ImageRef

_MAX_LINE_BYTES = 2**20


def read_lines(file: BinaryIO, name: str, columns: Columns) -> Iterator[ImageRef]:
    """A line is a URI, or JSON: a string, an object, or an S3 event, which may name several images or none.

    Blank lines, and those that begin with `#`, are passed over.

    Raises InvalidRequest, which names the line.
    """
    for number, line in enumerate(decoded_lines(file, name), start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            where = f"{name}, line {number}"
            yield from _images(text, where, columns)


def decoded_lines(file: BinaryIO, name: str) -> Iterator[str]:
    """Lines with their ends, without a byte order mark. Raises InvalidRequest for what is not text."""
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) == _MAX_LINE_BYTES:
            raise InvalidRequest(f"{name}, line {number}: longer than {_MAX_LINE_BYTES} bytes; is it a manifest?")
        try:
            yield line.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{name}, line {number}: not UTF-8; save the file as UTF-8 text") from None


def _images(text: str, where: str, columns: Columns) -> list[ImageRef]:
    value = _json(text, where) if text.startswith(("{", '"')) else text
    if isinstance(value, str):
        return [image_at(where, {"uri": value})]
    if columns.uri not in value and is_event(value):
        try:
            return images_of_event(value)
        except InvalidRequest as error:
            raise InvalidRequest(f"{where}: {error}") from None
    return [image_at(where, {field: value[column] for field, column in columns.found_in(value, where).items()})]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{where}: not JSON: {error}; each object stands on a line of its own") from None
