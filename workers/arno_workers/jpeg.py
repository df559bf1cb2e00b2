"""JPEGs that come out smaller than they are: halved block by block while they are decoded, which is less work."""

from PIL.JpegImagePlugin import JpegImageFile

_SCALABLE = {0xC0, 0xC1, 0xC2}
"""Frames that are baseline, extended or progressive."""
_SEGMENTS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}
"""What may stand before the frame: tables of Huffman and of quantization, restarts, comments, applications' data."""


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
