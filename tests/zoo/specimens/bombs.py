"""Small files that are to cost much memory, or to keep a decoder busy for hours."""

import random
import struct
from collections.abc import Iterator

from PIL import Image

from tests.zoo.specimens.build import (
    LONG,
    RATIONAL,
    SHORT,
    deflated,
    grey_tiff,
    jpeg_segment,
    noise,
    png,
    quarters,
    resized_frame,
    run_length_bmp,
    saved,
    with_segments,
)

_ZEROS = 64 * 2**20
"""Bytes that each compressed bomb becomes."""


def specimens() -> Iterator[tuple[str, bytes]]:
    yield from _too_large()
    yield from _png_bombs()
    yield from _tiff_bombs()
    yield from _jpeg_bombs()
    yield from _gif_bombs()
    yield "bomb-run-lengths.bmp", run_length_bmp(30_000, 30_000, b"\1\0\0\0" * 30_000)
    yield "bomb-lines.bmp", run_length_bmp(1_000, 1_000, b"\1\0\0\0" * 1_000)


def _too_large() -> Iterator[tuple[str, bytes]]:
    """More pixels than are allowed: one that has them all, and those that but say so."""
    yield "large-and-whole.png", png(20_000, 10_000, bits=1)
    yield "says-large.png", png(65_000, 65_000, rows=deflated(b"\0", 1000))
    yield "says-largest.png", png(2**31 - 1, 2**31 - 1, rows=deflated(b"\0", 1000))
    yield "says-large.jpg", resized_frame(saved(noise(), "JPEG"), 65_500, 65_500)
    yield "says-large-progressive.jpg", resized_frame(saved(noise(), "JPEG", progressive=True), 65_500, 65_500)
    gif = saved(quarters(), "GIF")
    yield "says-large.gif", gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:]
    webp = saved(Image.new("RGBA", (8, 8)), "WEBP", lossless=True)
    yield "says-large.webp", webp[:21] + struct.pack("<I", 16_382 | 16_382 << 14) + webp[25:]
    canvas = (65_534).to_bytes(3, "little")
    yield "says-large-canvas.webp", webp[:12] + b"VP8X\x0a\0\0\0\x10\0\0\0" + canvas + canvas + webp[12:]
    yield "says-large.tif", grey_tiff(60_000, 60_000, body=bytes(100))
    bmp = saved(quarters(), "BMP")
    yield "says-large.bmp", bmp[:18] + struct.pack("<ii", 60_000, 60_000) + bmp[26:]
    yield "says-negative.bmp", bmp[:18] + struct.pack("<ii", -24, 16) + bmp[26:]


def _png_bombs() -> Iterator[tuple[str, bytes]]:
    zeros = deflated(b"\0", _ZEROS)
    letters = deflated(b"x", _ZEROS)
    yield "bomb-text.png", png(4, 4, (b"zTXt", b"Comment\0\0" + letters))
    yield "bomb-unicode-text.png", png(4, 4, (b"iTXt", b"Comment\0\x01\0\0\0" + letters))
    yield "bomb-profile.png", png(4, 4, (b"iCCP", b"profile\0\0" + zeros))
    yield "bomb-texts.png", png(4, 4, *[(b"zTXt", b"Comment\0\0" + deflated(b"x", 2**20 - 1))] * 70)
    yield "bomb-pixels.png", png(4, 4, rows=zeros)
    yield "bomb-chunks.png", png(4, 4, *[(b"abCd", b"")] * 100_000)


def _tiff_bombs() -> Iterator[tuple[str, bytes]]:
    tile = deflated(b"\0", 16_000 * 16_000)
    tiled = [(322, LONG, [16_000]), (323, LONG, [16_000]), (324, LONG, [8]), (325, LONG, [len(tile)])]
    yield "bomb-tile.tif", grey_tiff(4, 4, (259, SHORT, [8]), *tiled, body=tile, without=(273, 278, 279))
    strips = 300_000
    many = [(273, LONG, [8] * strips), (279, LONG, [1] * strips), (278, LONG, [1])]
    yield "bomb-strips.tif", grey_tiff(1, strips, *many, body=b"x")
    yield "bomb-fractions.tif", grey_tiff(4, 4, (282, RATIONAL, [7, 3] * 300_000), body=bytes(16))
    yield "bomb-fractions-in-exif.tif", _exif_fractions(600_000)
    yield "bomb-samples.tif", grey_tiff(4, 4, (277, LONG, [2**31]), body=bytes(16))
    yield "bomb-overlapping-tags.tif", _overlapping(4_000, 500_000)
    yield "bomb-strip.tif", grey_tiff(4, 4, (259, SHORT, [8]), (278, LONG, [2**32 - 1]), body=deflated(b"\0", _ZEROS))
    garbage = random.Random(1).randbytes(100_000)
    fax = [(258, SHORT, [1]), (259, SHORT, [3]), (262, SHORT, [0])]
    yield "bomb-complaints.tif", grey_tiff(20, 30_000, *fax, body=garbage)
    yield "pages-in-a-circle.tif", _circle()


def _exif_fractions(count: int) -> bytes:
    """A TIFF whose EXIF has one tag of so many fractions."""
    values = bytes(16) + struct.pack("<II", 7, 3) * count
    exif = struct.pack("<HHHIII", 1, 33_434, RATIONAL, count, 8 + 16, 0)
    return grey_tiff(4, 4, (34_665, LONG, [8 + len(values)]), body=values + exif)


def _overlapping(tags: int, size: int) -> bytes:
    """A TIFF of 4×4 pixels with so many tags, all of which have the same so many bytes as their value."""
    plain = grey_tiff(4, 4, body=bytes(size))
    at = int.from_bytes(plain[4:8], "little")
    (count,) = struct.unpack_from("<H", plain, at)
    more = b"".join(struct.pack("<HHII", 40_000 + number, 7, size, 8) for number in range(tags))
    return plain[:at] + struct.pack("<H", count + tags) + plain[at + 2 : at + 2 + 12 * count] + more + bytes(4)


def _circle() -> bytes:
    plain = grey_tiff(4, 4, body=bytes(16))
    return plain[:-4] + plain[4:8]


def _jpeg_bombs() -> Iterator[tuple[str, bytes]]:
    progressive = saved(Image.new("L", (2000, 2000)), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    yield "bomb-scans.jpg", progressive[:-2] + scan * 5_000 + progressive[-2:]
    empty = scan[: 2 + int.from_bytes(scan[2:4], "big")]
    yield "bomb-empty-scans.jpg", progressive[:-2] + empty * 20_000 + progressive[-2:]
    plain = saved(quarters(), "JPEG")
    large = jpeg_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + bytes(65_000))
    small = jpeg_segment(0xE1, b"Exif\0\0x")
    yield "bomb-exif-in-pieces.jpg", with_segments(plain, large * 40 + small * 10_000)
    yield "bomb-segments.jpg", with_segments(plain, b"\xff\xe5\0\2" * 500_000)
    yield "bomb-markers.jpg", with_segments(plain, b"\xff\xd0" * 500_000)


def _gif_bombs() -> Iterator[tuple[str, bytes]]:
    gif = saved(quarters(), "GIF")
    frame = gif.index(b",\0\0\0\0")
    yield "bomb-comment.gif", gif[:frame] + b"!\xfe" + b"\2ab" * 500_000 + b"\0" + gif[frame:]
    yield "bomb-comments.gif", gif[:frame] + b"!\xfe\2ab\0" * 500_000 + gif[frame:]
    yield "bomb-frame.gif", gif[: frame + 5] + struct.pack("<HH", 60_000, 60_000) + gif[frame + 9 :]
    codes = b"".join(b"\xff" + random.Random(number).randbytes(255) for number in range(2_000))
    yield "more-codes-than-pixels.gif", gif[: frame + 10] + b"\x08" + codes + b"\0;"
