"""TIFF: what a small file of it may cost before a pixel is decoded."""

import ctypes
import struct
from contextlib import suppress

from PIL import TiffImagePlugin, TiffTags, _imaging

from arno_shared.errors import BrokenImage

# libtiff tells stderr of every row that it cannot read: a hostile TIFF fills the log with many times its own size.
with suppress(AttributeError, OSError):
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)

_MAX_TAGS = 100_000
_MAX_TAG_VALUES = 2**18
"""Of one tag, unless it holds plain bytes: Pillow makes objects of them. Enough for pages of 262,144 tiles."""
_STRIP_OFFSETS, _TILE_OFFSETS, _TILE_WIDTH, _TILE_HEIGHT = 273, 324, 322, 323
_PLAIN_TYPES = {1, 2, 7}
"""Bytes, texts, and bytes of unknown meaning."""


def check_directory(data: bytes) -> None:
    """Raises BrokenImage when the first page has tags with more values than any page needs."""
    order, is_big = "<" if data.startswith(b"II") else ">", data[2] == 43
    start, count, entry = ("Q", "Q", "HHQ8x") if is_big else ("I", "H", "HHI4x")
    (at,) = struct.unpack_from(order + start, data, 8 if is_big else 4)
    (entries,) = struct.unpack_from(order + count, data, at)
    at, size = at + struct.calcsize(order + count), struct.calcsize(order + entry)
    whole = min(entries, _MAX_TAGS, (len(data) - at) // size)
    for tag, kind, values in struct.iter_unpack(order + entry, memoryview(data)[at : at + whole * size]):
        is_plain = kind in _PLAIN_TYPES and tag not in (_STRIP_OFFSETS, _TILE_OFFSETS)
        if values > _MAX_TAG_VALUES and not is_plain:
            raise BrokenImage(f"broken TIFF: tag {tag} has {values} values")


def tile_size(image: TiffImagePlugin.TiffImageFile) -> tuple[int, int]:
    """Width and height of a tile, which is decoded whole, however little of it the picture shows."""
    return image.tag_v2.get(_TILE_WIDTH, 1), image.tag_v2.get(_TILE_HEIGHT, 1)


def forget_groups(image: TiffImagePlugin.TiffImageFile) -> None:
    """What hangs on the page, which Pillow would read as well, makes an object of each value."""
    for tag in TiffTags.TAGS_V2_GROUPS:
        image.getexif().pop(tag, None)
