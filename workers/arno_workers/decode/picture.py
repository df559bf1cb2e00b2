"""From bytes that may be anything to an RGB picture."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from arno_shared.errors import BrokenImage, ItemError, NotAnImage, TooManyPixels
from arno_workers.decode import tiff
from arno_workers.decode.jpeg import check_effort, load_smaller

_PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, GifImagePlugin, TiffImagePlugin, BmpImagePlugin)
"""Imported so that they are registered: Pillow loads some only when an unknown file makes it try them all."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation."""
_SIDEWAYS = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}
"""The turns that swap width and height."""

_MAX_READS = 100_000
"""What Pillow may read of a file before its pixels: a few reads for each segment, chunk, block or tag."""
_MAX_EXIF_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: RGB, upright.

    `width` and `height` are those of the whole upright picture, in pixels; `image` is smaller where it was scaled down.
    """

    image: Image.Image
    width: int
    height: int
    format: str


def decode(data: bytes, max_pixels: int, scaled_to: tuple[int, int] | None = None) -> Picture:
    """The picture in `data`: JPEG, PNG, WebP, GIF (its first frame), TIFF (its first page) or BMP.

    Transparent parts become white. The EXIF orientation is applied. Samples of 16 bits keep their upper 8; whole and
    real numbers are taken as 0–1, 0–255 or 0–65535 where they fit, and are stretched to their own range elsewhere.

    A JPEG may be scaled down while it is decoded, but not below `scaled_to`, width and height of the upright picture.

    Raises NotAnImage, BrokenImage, and TooManyPixels (more than `max_pixels`, seen before any pixel is decoded).
    """
    name = _format_of(data)
    try:
        image = _open(name, data)
        _check_pixels(image.size, max_pixels)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_pixels(tiff.tile_size(image), max_pixels)
            tiff.forget_groups(image)
        if scaled_to is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
            return _scaled(image, data, scaled_to)
        image.load()
        upright = _upright(_to_rgb(image), image)
    except ItemError:
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"{name}: {error}") from error
    except Exception as error:
        # Decoders meet hostile bytes with whatever their code happens to raise, KeyError and MemoryError included.
        raise BrokenImage(f"broken {name}: {str(error)[:200] or type(error).__name__}") from error
    return Picture(upright, upright.width, upright.height, name)


def _format_of(data: bytes) -> str:
    if not data:
        raise NotAnImage("empty: there are no bytes")
    for name in FORMATS:
        accepts = Image.OPEN[name][1]
        if accepts is not None and accepts(data[:16]) is True:
            return name
    raise NotAnImage(f"not an image that can be read: {', '.join(FORMATS)} are accepted")


class _Frugal(BytesIO):
    """A file that is read only so many times while it is opened, which takes a handful in all but hostile ones."""

    reads_left = _MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise BrokenImage(f"more than {_MAX_READS} pieces before the picture")
        return super().read(size)


def _open(name: str, data: bytes) -> ImageFile.ImageFile:
    # Not Image.open: it warns and raises by a limit on pixels that is global to the process.
    file = _Frugal(data)
    if name == "JPEG":
        check_effort(data)
    elif name == "TIFF":
        tiff.check_directory(data)
    image = Image.OPEN[name][0](file, "")
    assert isinstance(image, ImageFile.ImageFile)
    file.reads_left = sys.maxsize
    return image


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BrokenImage(f"the picture is {width}×{height} pixels")
    if width * height > max_pixels:
        raise TooManyPixels(f"{width}×{height} pixels; at most {max_pixels} are allowed (ARNO_LIMITS__MAX_PIXELS)")


def _scaled(image: JpegImagePlugin.JpegImageFile, data: bytes, scaled_to: tuple[int, int]) -> Picture:
    (width, height), (least_width, least_height) = image.size, scaled_to
    if _turn(image) in _SIDEWAYS:
        width, height, least_width, least_height = height, width, least_height, least_width
    load_smaller(image, data, (least_width, least_height))
    return Picture(_upright(_to_rgb(image), image), width, height, "JPEG")


def _upright(rgb: Image.Image, source: Image.Image) -> Image.Image:
    turn = _turn(source)
    return rgb if turn is None else rgb.transpose(turn)


def _turn(source: Image.Image) -> Image.Transpose | None:
    # A picture with unreadable EXIF is shown as it is stored, as everywhere else; so is one with absurdly much of it.
    if len(source.info.get("exif", b"")) > _MAX_EXIF_BYTES:
        return None
    with suppress(Exception):
        return _UPRIGHT.get(source.getexif().get(_ORIENTATION, 1))
    return None


def _to_rgb(image: ImageFile.ImageFile) -> Image.Image:
    mode = image.mode
    if mode == "LAB":
        return _from_lab(image)
    if mode == "F" or mode.startswith("I"):
        return Image.fromarray(_to_bytes(np.asarray(image))).convert("RGB")
    if mode == "La":
        return _over_white(image.convert("LA").convert("RGBA"))
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    if mode == "RGB" and image.fp is None:
        # The decoder is done with its file: no need for a copy, which would double the memory of a large picture.
        return image
    return image.convert("RGB")


def _over_white(rgba: Image.Image) -> Image.Image:
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _from_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None
    return converted


def _to_bytes(samples: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Samples of any depth as 0–255."""
    if samples.dtype.itemsize == 2:
        return (samples.astype(np.uint16) >> 8).astype(np.uint8)
    values = np.nan_to_num(samples.astype(np.float32), copy=False, posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if samples.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0, 1
    elif low >= 0 and high <= 255:
        low, high = 0, 255
    elif low >= 0 and high <= 65535:
        low, high = 0, 65535
    if high - low < 1e-30:
        return np.zeros(values.shape, np.uint8)
    scale = 255 / (high - low)
    # In place: a large picture has no room for a copy with each step.
    values *= scale
    values -= low * scale
    return values.clip(0, 255, out=values).round(out=values).astype(np.uint8)
