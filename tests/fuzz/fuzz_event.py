"""A line that may be an S3 event: images that can be asked for come out, or an InvalidRequest, and nothing else."""

import io
from pathlib import Path

from arno_producer.sources.columns import Columns
from arno_producer.sources.lines import read_lines
from arno_shared.errors import InvalidRequest
from arno_shared.messages import ImageRef
from arno_shared.uris import scheme_of

_EVENTS = Path(__file__).parent.parent / "producer" / "sources" / "events"

SEEDS: list[bytes] = [b"".join(path.read_bytes().split(b"\n")) for path in sorted(_EVENTS.iterdir())]


def test_one_input(data: bytes) -> None:
    """Raises when the lines do anything else than name images, or be refused with the number of a line."""
    images, refused = [], "events, line 1: nothing yet"
    try:
        images.extend(read_lines(io.BytesIO(data), "events", Columns()))
    except InvalidRequest as error:
        refused = str(error)
    assert refused.startswith("events, line ")
    for image in images:
        assert scheme_of(image.uri)
        assert ImageRef.model_validate_json(image.model_dump_json()) == image
