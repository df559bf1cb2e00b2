"""What is peculiar to JPEGs: they come out smaller, halved block by block while they are decoded, which is less work;
and a few bytes of them can make a decoder busy for hours."""

import re
from collections.abc import Iterator

from PIL.JpegImagePlugin import MARKER, JpegImageFile

from arno_shared.errors import BrokenImage

_SCALABLE = {0xC0, 0xC1, 0xC2}
"""Frames that are baseline, extended or progressive."""
_SEGMENTS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}
"""What may stand before the frame: tables of Huffman and of quantization, restarts, comments, applications' data."""

_MAX_MARKERS, _MAX_EXIF_PIECES, _MAX_SCANS = 10_000, 100, 100
"""Large profiles come in some hundred segments, EXIF in one piece, and progressive pictures in about ten scans."""
_WITH_LENGTH = {code & 0xFF for code, (_, _, handler) in MARKER.items() if handler is not None}
"""Markers that a length follows, and are skipped by it."""
_SCAN, _END = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Neither a sample that happens to be 255 nor a restart."""


def check_effort(data: bytes) -> None:
    """Raises BrokenImage when reading it would take far longer than its size: each scan goes over all of the picture,
    be it empty, and each piece of EXIF is joined to those before it."""
    pieces = scans = 0
    for markers, (marker, at) in enumerate(_markers(data), start=1):
        pieces += data.startswith(b"Exif\0\0", at + 2)
        scans += marker == _SCAN
        if markers > _MAX_MARKERS or pieces > _MAX_EXIF_PIECES or scans > _MAX_SCANS:
            raise BrokenImage(f"broken JPEG: {markers} segments, {pieces} pieces of EXIF, {scans} scans, and more")


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Each marker, and where what follows it begins; as Pillow reads to the first scan, and libjpeg from there on."""
    at, wanted = 0, _MARKER
    while found := wanted.search(data, at):
        at = found.end()
        marker = data[at - 1]
        yield marker, at
        if marker in _WITH_LENGTH:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        if marker == _SCAN:
            wanted = _MARKER_IN_SCAN
        elif marker == _END and wanted is _MARKER_IN_SCAN:
            return


def load_smaller(image: JpegImageFile, data: bytes, least: tuple[int, int]) -> None:
    """Loads the picture in `data`, which `image` has opened; not smaller than `least` (width, height, as stored) unless
    it always was. Raises what Pillow raises."""
    if _scales(data):
        image.draft(None, least)
    image.load()


def _scales(data: bytes) -> bool:
    """Whether its frame is one that can be scaled. It looks no further than at what all decoders read alike: Pillow
    fails when it is to scale a lossless one, which must not slip through."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _SCALABLE:
            return True
        if marker not in _SEGMENTS or size < 2:
            return False
        at += 2 + size
    return False
