"""Small valid pictures of each format and kind of compression, for changing them at random."""

from PIL import Image

from tests.zoo.specimens.build import SUFFIXES, quarters, saved


def seeds() -> list[bytes]:
    """Some of 100 to 3,000 bytes, with EXIF where it can be had, so that there is something to break."""
    exif = Image.Exif()
    exif[0x0112] = 6
    second = [Image.new("RGB", (24, 16), "blue")]
    return [
        *(saved(quarters(), format, exif=exif) for format in SUFFIXES),
        saved(quarters(), "JPEG", progressive=True, exif=exif),
        saved(quarters("CMYK"), "JPEG"),
        saved(quarters(), "MPO", save_all=True, append_images=second),
        saved(quarters("P"), "PNG", transparency=0),
        saved(quarters("LA"), "PNG"),
        *(saved(quarters(), "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")),
        saved(quarters("1"), "TIFF", compression="group4"),
        saved(quarters("RGBA"), "WEBP", lossless=True),
        *(saved(quarters(), format, save_all=True, append_images=second) for format in ("GIF", "WEBP", "PNG")),
    ]
