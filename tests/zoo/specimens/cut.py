"""Files that lost a part on their way, or had one changed."""

import struct
from collections.abc import Iterator

from tests.zoo.specimens.build import SUFFIXES, frame_of, grey_tiff, noise, png, quarters, resized_frame, saved


def specimens() -> Iterator[tuple[str, bytes]]:
    for format, suffix in SUFFIXES.items():
        whole = saved(noise(), format)
        yield f"cut-in-signature.{suffix}", whole[:1]
        yield f"cut-after-signature.{suffix}", whole[:16]
        yield f"cut-early.{suffix}", whole[: len(whole) // 20]
        yield f"cut-in-the-middle.{suffix}", whole[: len(whole) // 2]
        yield f"cut-at-nine-tenths.{suffix}", whole[: len(whole) * 9 // 10]
        yield f"garbage-after-signature.{suffix}", whole[:16] + b"\xa5" * 500
    progressive = saved(noise(), "JPEG", progressive=True)
    yield "cut-progressive.jpg", progressive[: len(progressive) // 2]
    yield from _frames()
    yield from _pngs()
    yield "gif-without-a-picture.gif", saved(quarters(), "GIF")[:13] + b";"
    yield "strips-outside-the-file.tif", grey_tiff(24, 16, (273, 4, [10**9]), body=bytes(24 * 16))
    yield "no-size.tif", grey_tiff(24, 16, body=bytes(24 * 16), without=(256, 257))
    yield "directory-outside-the-file.tif", b"II*\0\xff\xff\xff\x7f" + bytes(100)


def _frames() -> Iterator[tuple[str, bytes]]:
    """JPEGs whose frame says what is not so."""
    baseline = saved(noise(), "JPEG")
    yield "says-too-high.jpg", resized_frame(baseline, 64, 480)
    yield "says-too-small.jpg", resized_frame(baseline, 32, 24)
    yield "says-nothing-wide.jpg", resized_frame(baseline, 0, 48)
    yield "says-nothing-high.jpg", resized_frame(baseline, 64, 0)
    at = frame_of(baseline)
    yield "arithmetic.jpg", baseline[: at + 1] + b"\xc9" + baseline[at + 2 :]
    yield "twelve-bits.jpg", baseline[: at + 1] + b"\xc1" + baseline[at + 2 : at + 4] + b"\x0c" + baseline[at + 5 :]
    yield "hierarchical.jpg", baseline[: at + 1] + b"\xc5" + baseline[at + 2 :]
    tables = baseline.index(b"\xff\xc4")
    scan = baseline.index(b"\xff\xda")
    yield "no-tables.jpg", baseline[:tables] + baseline[scan:]
    yield "no-pixels.jpg", baseline[:scan] + b"\xff\xd9"


def _pngs() -> Iterator[tuple[str, bytes]]:
    whole = saved(noise(), "PNG")
    pixels = whole.index(b"IDAT")
    yield "bad-crc-of-header.png", whole[:29] + b"\0\0\0\0" + whole[33:]
    end = pixels + 4 + int.from_bytes(whole[pixels - 4 : pixels], "big")
    yield "bad-crc-of-pixels.png", whole[:end] + b"\0\0\0\0" + whole[end + 4 :]
    yield "flipped-bytes.png", whole[: pixels + 100] + bytes(60) + whole[pixels + 160 :]
    yield "no-pixels.png", whole[: pixels - 4] + whole[end + 4 :]
    yield "no-width.png", png(0, 16, rows=b"")
    yield "no-height.png", png(24, 0, rows=b"")
    yield "rows-missing.png", png(24, 16, rows=b"x\x9c\x63\0\0\0\x01\0\x01")
    yield "chunk-longer-than-the-file.png", whole[:33] + struct.pack(">I", 2**31 - 1) + b"tEXt" + b"a\0b"
