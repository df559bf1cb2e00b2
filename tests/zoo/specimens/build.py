"""The parts that specimens are put together from, down to formats that Pillow itself would not write."""

import struct
import zlib
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 24, 16

SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "TIFF": "tif", "BMP": "bmp"}
"""Every format that is accepted, and how its files end."""


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def quarters(mode: str = "RGB") -> Image.Image:
    """Red, green, blue and black, 24×16 pixels: every turn of it looks different."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "black")
    image.paste("red", (0, 0, WIDTH // 2, HEIGHT // 2))
    image.paste("lime", (WIDTH // 2, 0, WIDTH, HEIGHT // 2))
    image.paste("blue", (0, HEIGHT // 2, WIDTH // 2, HEIGHT))
    return image.convert(mode)


def noise(size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), np.uint8))


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    width: int,
    height: int,
    *chunks: tuple[bytes, bytes],
    rows: bytes | None = None,
    bits: int = 8,
    interlaced: bool = False,
) -> bytes:
    """A black, grey PNG with `chunks` before its pixels, which are `rows`, compressed, where they are given."""
    if rows is None:
        rows = deflated(b"\0", (width * bits // 8 + 1) * height)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, interlaced)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def deflated(piece: bytes, times: int) -> bytes:
    """`piece`, so many times, compressed, without ever holding all of it."""
    stream = zlib.compressobj(9)
    at_once = max(1, 2**20 // len(piece))
    packed = [stream.compress(piece * min(at_once, times - done)) for done in range(0, times, at_once)]
    return b"".join(packed) + stream.flush()


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(jpeg: bytes, segments: bytes) -> bytes:
    """The JPEG with more segments right after its start."""
    return jpeg[:2] + segments + jpeg[2:]


def resized_frame(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG, whose frame now says that it is of another size."""
    changed = bytearray(jpeg)
    at = frame_of(jpeg) + 5
    changed[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(changed)


def frame_of(jpeg: bytes) -> int:
    """Where the marker of its frame stands."""
    return next(at for at in range(len(jpeg)) if jpeg[at] == 0xFF and jpeg[at + 1] in (0xC0, 0xC1, 0xC2))


def run_length_bmp(width: int, height: int, codes: bytes) -> bytes:
    """A BMP of 8 bits whose pixels are `codes`; all its colours are red."""
    palette = bytes((0, 0, 255, 0)) * 256
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(codes), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(codes), 0, 0, 54 + 1024) + header + palette + codes


SHORT, LONG, RATIONAL = 3, 4, 5
_STRUCT = {SHORT: "H", LONG: "I", RATIONAL: "II"}

Tag = tuple[int, int, Sequence[int]]
"""Number, type, values. Of a RATIONAL, numerators and denominators in turn."""


def tiff(tags: Iterable[Tag], body: bytes = b"", next_page: int = 0) -> bytes:
    """A little-endian TIFF of one page: header, `body` (from byte 8 on), values, directory."""
    values = bytearray(body)
    entries = []
    for number, kind, numbers in sorted(tags):
        unit = _STRUCT[kind]
        packed = struct.pack(f"<{len(numbers)}{unit[0]}", *numbers)
        count = len(numbers) // len(unit)
        if len(packed) <= 4:
            entries.append(struct.pack("<HHI4s", number, kind, count, packed))
        else:
            entries.append(struct.pack("<HHII", number, kind, count, 8 + len(values)))
            values += packed
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", next_page)
    return b"II*\0" + struct.pack("<I", 8 + len(values)) + bytes(values) + directory


def grey_tiff(width: int, height: int, *more: Tag, body: bytes = b"", without: Iterable[int] = ()) -> bytes:
    """A grey TIFF of 8 bits with one strip, `body`, uncompressed; `more` tags replace and add, `without` removes."""
    tags: dict[int, Tag] = {
        tag[0]: tag
        for tag in (
            (256, LONG, [width]),
            (257, LONG, [height]),
            (258, SHORT, [8]),
            (259, SHORT, [1]),
            (262, SHORT, [1]),
            (273, LONG, [8]),
            (277, SHORT, [1]),
            (278, LONG, [height]),
            (279, LONG, [len(body)]),
            *more,
        )
        if tag[0] not in without
    }
    return tiff(tags.values(), body)
