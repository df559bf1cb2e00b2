"""Pictures that are unusual and sound."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.zoo.specimens.build import (
    SHORT,
    SUFFIXES,
    deflated,
    grey_tiff,
    jpeg_segment,
    noise,
    png,
    quarters,
    run_length_bmp,
    saved,
    with_segments,
)


def specimens() -> Iterator[tuple[str, bytes]]:
    for format, suffix in SUFFIXES.items():
        yield f"plain.{suffix}", saved(quarters(), format)
        yield f"one-pixel.{suffix}", saved(Image.new("RGB", (1, 1), "red"), format)
        if format != "WEBP":
            yield f"wide.{suffix}", saved(Image.new("L", (30_000, 1)), format)
            yield f"high.{suffix}", saved(Image.new("L", (1, 30_000)), format)
    yield from _jpegs()
    yield from _pngs()
    yield from _tiffs()
    yield from _animations()
    yield "palette-transparent.gif", saved(quarters("P"), "GIF", transparency=0)
    yield "lossless-alpha.webp", saved(quarters("RGBA"), "WEBP", lossless=True)
    yield "one-bit.bmp", saved(quarters("1"), "BMP")
    yield "run-lengths.bmp", run_length_bmp(24, 16, b"\x18\x07\0\0" * 16 + b"\0\1")


def _jpegs() -> Iterator[tuple[str, bytes]]:
    yield "progressive.jpg", saved(noise(), "JPEG", progressive=True)
    yield "grey.jpg", saved(quarters("L"), "JPEG")
    yield "restarts.jpg", saved(noise(), "JPEG", restart_marker_blocks=1)
    cmyk = saved(quarters("CMYK"), "JPEG")
    adobe = cmyk.index(b"\xff\xee")
    yield "cmyk-adobe.jpg", cmyk
    yield "cmyk-plain.jpg", cmyk[:adobe] + cmyk[adobe + 2 + int.from_bytes(cmyk[adobe + 2 : adobe + 4], "big") :]
    nothing_listed = b"MPF\0II*\0\x08\0\0\0" + bytes(6)
    yield "list-of-no-pictures.jpg", with_segments(saved(quarters(), "JPEG"), jpeg_segment(0xE2, nothing_listed))
    yield "two-pictures.jpg", saved(quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (24, 16))])


def _pngs() -> Iterator[tuple[str, bytes]]:
    samples = np.arange(24 * 16, dtype=np.uint16).reshape(16, 24) * 170
    yield "sixteen-bits.png", saved(Image.fromarray(samples), "PNG")
    yield "sixteen-bits.tif", saved(Image.fromarray(samples), "TIFF")
    yield "palette-transparent.png", saved(quarters("P"), "PNG", transparency=0)
    yield "grey-alpha.png", saved(quarters("LA"), "PNG")
    yield "one-bit.png", saved(quarters("1"), "PNG")
    yield "interlaced.png", _interlaced(16, 16)
    yield "many-pixel-chunks.png", png(24, 16, *[(b"IDAT", b"")] * 5000)


def _interlaced(width: int, height: int) -> bytes:
    """A black PNG whose pixels come in Adam7's seven passes."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(
        b"\0" * (len(range(x, width, step_x)) + 1) * len(range(y, height, step_y)) for x, y, step_x, step_y in passes
    )
    return png(width, height, rows=deflated(rows, 1), interlaced=True)


def _tiffs() -> Iterator[tuple[str, bytes]]:
    pages = [Image.new("RGB", (8, 8), "blue")] * 2
    yield "three-pages.tif", saved(quarters(), "TIFF", save_all=True, append_images=pages)
    yield "cmyk.tif", saved(quarters("CMYK"), "TIFF")
    for compression in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits"):
        yield f"packed-{compression}.tif", saved(quarters(), "TIFF", compression=compression)
    yield "fax.tif", saved(quarters("1"), "TIFF", compression="group4")
    yield "real-numbers.tif", saved(Image.fromarray(np.linspace(-1, 1, 384, dtype=np.float32).reshape(16, 24)), "TIFF")
    yield "minimal.tif", grey_tiff(24, 16, body=bytes(24 * 16))
    yield "odd-predictor.tif", grey_tiff(24, 16, (317, SHORT, [9]), body=bytes(24 * 16))


def _animations() -> Iterator[tuple[str, bytes]]:
    second = [Image.new("RGB", (24, 16), "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        yield f"animated.{SUFFIXES[format]}", saved(quarters(), format, save_all=True, append_images=second)
