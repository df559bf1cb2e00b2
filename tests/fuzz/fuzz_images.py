"""Bytes that are to be an image: a picture or an ItemError comes out, and nothing else."""

from arno_shared.errors import ItemError
from arno_workers.decode.picture import FORMATS, decode
from tests.zoo.seeds import seeds

SEEDS: list[bytes] = seeds()

_MAX_PIXELS = 1_000_000


def test_one_input(data: bytes) -> None:
    """Raises when `decode` raises anything but an ItemError, or gives what is no RGB picture of the size it says."""
    for scaled_to in (None, (8, 8)):
        try:
            picture = decode(data, _MAX_PIXELS, scaled_to)
        except ItemError:
            continue
        assert picture.format in FORMATS
        assert picture.image.mode == "RGB"
        assert 0 < picture.width * picture.height <= _MAX_PIXELS
        assert scaled_to is not None or picture.image.size == (picture.width, picture.height)
