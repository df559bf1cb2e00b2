"""EXIF: what says which way up a picture is, and what else may stand there."""

import struct
from collections.abc import Iterator

from PIL import Image

from tests.zoo.specimens.build import jpeg_segment, quarters, saved, with_segments

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright picture is turned to be stored in each orientation."""


def stored(orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return quarters() if turn is None else quarters().transpose(turn)


def specimens() -> Iterator[tuple[str, bytes]]:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = stored(orientation)
        yield f"orientation-{orientation}.jpg", saved(picture, "JPEG", quality=95, subsampling=0, exif=exif)
        yield f"orientation-{orientation}.png", saved(picture, "PNG", exif=exif)
        yield f"orientation-{orientation}.webp", saved(picture, "WEBP", lossless=True, exif=exif)
        yield f"orientation-{orientation}.tif", saved(picture, "TIFF", exif=exif)
    plain = saved(quarters(), "JPEG")
    for name, body in _BROKEN.items():
        yield f"exif-{name}.jpg", with_segments(plain, jpeg_segment(0xE1, b"Exif\0\0" + body))
    piece = jpeg_segment(0xE1, b"Exif\0\0" + _BROKEN["empty-directory"] + bytes(60_000))
    yield "exif-giant.jpg", with_segments(plain, piece * 20)
    yield "exif-boundless.png", saved(quarters(), "PNG", exif=_ON_ITS_SIDE + bytes(9 * 2**20))
    yield "exif-giant.png", saved(quarters(), "PNG", exif=_BROKEN["empty-directory"] + bytes(2_000_000))


_ON_ITS_SIDE = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)

_BROKEN = {
    "empty": b"",
    "cut": b"MM\0*\0\0\0\x08\xff\xff",
    "garbage": b"\xff" * 40,
    "empty-directory": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
    "points-at-itself": b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8),
    "no-such-orientation": b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 77, 0, 0),
    "divides-by-zero": b"II*\0\x08\0\0\0" + struct.pack("<HHHIIIII", 1, 0x011A, 5, 1, 26, 0, 0, 0),
}
