"""JPEGs that come out smaller than they are: scaled down block by block while they are decoded, which is less work.

Pillow halves: 1/2, 1/4, 1/8. simplejpeg, where it is installed, also knows the eighths between them, and is given only
what it decodes as Pillow would: whole baseline pictures in YCbCr or grey.
"""

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

_BASELINE = {0xC0, 0xC1}
_SCALABLE = _BASELINE | {0xC2}  # progressive
_SEGMENTS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}
"""What may stand before the frame: tables of Huffman and of quantization, restarts, comments, applications' data."""


def load_smaller(image: JpegImageFile, data: bytes, least: tuple[int, int]) -> Image.Image:
    """The picture in `data`, which `image` has opened: `image` itself, loaded, or another one, in RGB.

    Not smaller than `least` (width, height, as stored) unless it always was. Raises what Pillow raises.
    """
    frame = _frame(data)
    if frame in _BASELINE and simplejpeg is not None:
        smaller = _by_simplejpeg(image, data, least)
        if smaller is not None:
            return smaller
    if frame in _SCALABLE:
        image.draft(None, least)
    image.load()
    return image


def _frame(data: bytes) -> int | None:
    """The marker of the frame, which says how the picture is coded; None where scaling would not work.

    It looks no further than at what all decoders read alike. A lossless frame must not slip through: Pillow fails when
    it is to scale one, and simplejpeg 1.9.0 then writes the full-sized picture into the memory of the smaller one.
    """
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _SCALABLE:
            return marker
        if marker not in _SEGMENTS or size < 2:
            return None
        at += 2 + size
    return None


def _by_simplejpeg(image: JpegImageFile, data: bytes, least: tuple[int, int]) -> Image.Image | None:
    # At 7/8 and above, less is resized afterwards, but decoding takes longer than the whole picture does.
    if any(full * 3 < wanted * 4 for full, wanted in zip(image.size, least, strict=True)):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        if (width, height) != image.size or colours not in ("YCbCr", "Gray"):
            return None
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=least[0], min_height=least[1], strict=True)
    except Exception:
        # Whether this is an error, and which one, is for Pillow to say: it forgives more.
        return None
    return Image.fromarray(pixels)
