"""Bytes that may be anything: a picture comes out, or an ItemError."""

import random
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from arno_shared import errors
from arno_workers.decode.picture import FORMATS, Picture, _to_rgb, decode

MAX_PIXELS = 1_000_000
WIDTH, HEIGHT = 24, 16


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _exact(format: str) -> dict[str, Any]:
    """How to save so that as little as possible is lost."""
    options: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    return options.get(format, {})


def _corners(mode: str = "RGB") -> Image.Image:
    """Red, green, blue and black quarters: every turn and every mix-up of channels shows."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "black")
    image.paste("red", (0, 0, WIDTH // 2, HEIGHT // 2))
    image.paste("lime", (WIDTH // 2, 0, WIDTH, HEIGHT // 2))
    image.paste("blue", (0, HEIGHT // 2, WIDTH // 2, HEIGHT))
    return image.convert(mode)


def _noise(size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), np.uint8))


def _close(image: Image.Image, expected: Image.Image, tolerance: int) -> bool:
    assert (image.mode, image.size) == ("RGB", expected.size)
    difference = np.asarray(image, np.int16) - np.asarray(expected.convert("RGB"), np.int16)
    return int(np.abs(difference).max()) <= tolerance


# -- formats and modes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_formats(format: str) -> None:
    options = _exact(format)
    picture = decode(_saved(_corners(), format, **options), MAX_PIXELS)
    assert (picture.format, picture.width, picture.height) == (format, WIDTH, HEIGHT)
    assert _close(picture.image, _corners(), tolerance=60 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_frame_counts(format: str) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = _saved(Image.new("RGB", (WIDTH, HEIGHT), "red"), format, save_all=True, append_images=frames, **options)
    picture = decode(data, MAX_PIXELS)
    assert picture.format == ("JPEG" if format == "MPO" else format)
    assert _close(picture.image, Image.new("RGB", (WIDTH, HEIGHT), "red"), tolerance=3)


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        *[("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
        *[("TIFF", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")],
        *[("JPEG", mode) for mode in ("L", "RGB", "CMYK", "YCbCr")],
        *[("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")],
        *[("GIF", mode) for mode in ("1", "L", "P", "RGB")],
        *[("WEBP", mode) for mode in ("L", "RGB", "RGBA")],
    ],
)
def test_modes(format: str, mode: str) -> None:
    options = _exact(format)
    source = _corners(mode)
    picture = decode(_saved(source, format, **options), MAX_PIXELS)
    assert _close(picture.image, source, tolerance=60 if format == "JPEG" else 2)


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("La", (0, 128), (127, 127, 127)),
        ("RGBa", (128, 0, 0, 128), (255, 127, 127)),
        ("PA", (0, 0), (255, 255, 255)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("I;16L", 32768, (128, 128, 128)),
        ("I;16N", 32768, (128, 128, 128)),
    ],
)
def test_modes_that_pillow_writes_to_no_file(mode: str, pixel: Any, expected: tuple[int, int, int]) -> None:
    image: Any = Image.new(mode, (2, 2))
    image.putpixel((0, 0), pixel)
    assert _to_rgb(image).getpixel((0, 0)) == expected


def test_lab() -> None:
    white = Image.new("LAB", (4, 4), (255, 128, 128))
    assert _close(decode(_saved(white, "TIFF"), MAX_PIXELS).image, Image.new("RGB", (4, 4), "white"), tolerance=2)
    red = Image.new("LAB", (4, 4), (138, 208, 195))
    assert _close(decode(_saved(red, "TIFF"), MAX_PIXELS).image, Image.new("RGB", (4, 4), "red"), tolerance=12)


def test_a_cmyk_jpeg_that_adobe_inverted() -> None:
    """Red is (0, 255, 255, 0); the file says it is Adobe's, whose CMYK counts backwards."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = _saved(red, "JPEG", quality=95)
    assert b"Adobe" in data
    assert _close(decode(data, MAX_PIXELS).image, Image.new("RGB", (16, 16), "red"), tolerance=4)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_clipped(format: str) -> None:
    samples = np.array([[0, 255, 256, 1000], [32768, 40000, 65279, 65535]], np.uint16)
    picture = decode(_saved(Image.fromarray(samples), format), MAX_PIXELS)
    assert np.asarray(picture.image)[..., 0].tolist() == (samples >> 8).tolist()


def test_16_bits_in_the_other_order() -> None:
    samples = np.array([[0, 256], [32768, 65535]], np.uint16)
    big = Image.frombytes("I;16B", (2, 2), samples.astype(">u2").tobytes())
    assert np.asarray(decode(_saved(big, "TIFF"), MAX_PIXELS).image)[..., 1].tolist() == [[0, 1], [128, 255]]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 128, 255]], np.float32), [0, 128, 255]),
        (np.array([[0, 32768, 65535]], np.float32), [0, 128, 255]),
        (np.array([[-1, 0, 1]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, 1, np.inf]], np.float32), [0, 255, 0]),
        (np.array([[-3e38, 0, 3e38]], np.float32), [0, 128, 255]),
        (np.array([[-5, -5, -5]], np.float32), [0, 0, 0]),
        (np.array([[0, 128, 255]], np.int32), [0, 128, 255]),
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[-1000, 0, 1000]], np.int32), [0, 128, 255]),
    ],
)
def test_whole_and_real_numbers(samples: Any, expected: list[int]) -> None:
    picture = decode(_saved(Image.fromarray(samples), "TIFF"), MAX_PIXELS)
    assert np.asarray(picture.image)[0, :, 2].tolist() == pytest.approx(expected, abs=1)


# -- transparency ------------------------------------------------------------------------------------------------------


def test_transparent_parts_become_white() -> None:
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(255, 0, 0, 0), (255, 0, 0, 128), (255, 0, 0, 255)])
    expected = [(255, 255, 255), (255, 127, 127), (255, 0, 0)]
    for format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        picture = decode(_saved(rgba, format, **options), MAX_PIXELS)
        assert [picture.image.getpixel((x, 0)) for x in range(3)] == expected


def test_transparent_grey() -> None:
    grey = Image.new("LA", (2, 1))
    grey.putdata([(0, 0), (0, 255)])
    for format in ("PNG", "TIFF"):
        picture = decode(_saved(grey, format), MAX_PIXELS)
        assert [picture.image.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (0, 0, 0)]


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_colour(format: str) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    picture = decode(_saved(palette, format, transparency=0), MAX_PIXELS)
    assert [picture.image.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (0, 0, 255)]


def test_a_transparent_colour_without_a_palette() -> None:
    for mode, clear, solid in (("RGB", (255, 0, 0), (0, 0, 255)), ("L", 7, 0)):
        image = Image.new(mode, (2, 1), solid)
        image.putpixel((0, 0), clear)
        picture = decode(_saved(image, "PNG", transparency=clear), MAX_PIXELS)
        assert picture.image.getpixel((0, 0)) == (255, 255, 255)
        assert picture.image.getpixel((1, 0)) == ((0, 0, 255) if mode == "RGB" else (0, 0, 0))


# -- orientation -------------------------------------------------------------------------------------------------------

# Where the colours of the corners end up, reading from the top left, when a picture is stored in this orientation.
_STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda upright: upright.transpose(Image.Transpose.ROTATE_180),
    4: lambda upright: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda upright: upright.transpose(Image.Transpose.TRANSPOSE),
    6: lambda upright: upright.transpose(Image.Transpose.ROTATE_90),
    7: lambda upright: upright.transpose(Image.Transpose.TRANSVERSE),
    8: lambda upright: upright.transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("orientation", _STORED)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = _exact(format)
    picture = decode(_saved(_STORED[orientation](_corners()), format, exif=exif, **options), MAX_PIXELS)
    assert (picture.width, picture.height) == picture.image.size == (WIDTH, HEIGHT)
    assert _close(picture.image, _corners(), tolerance=60 if format == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0" + b"\xff" * 40])
def test_broken_exif_breaks_nothing(exif: bytes) -> None:
    assert decode(_saved(_corners(), "JPEG", exif=exif), MAX_PIXELS).width == WIDTH


def test_an_orientation_that_does_not_exist() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert decode(_saved(_corners(), "JPEG", exif=exif), MAX_PIXELS).width == WIDTH


# -- scaled down while they are decoded --------------------------------------------------------------------------------


def _smooth(size: tuple[int, int]) -> Image.Image:
    """Its corners in different colours, and what lies between them without edges: scaled down, it stays the same."""
    return _corners().resize((2, 2), Image.Resampling.NEAREST).resize(size, Image.Resampling.BICUBIC)


def _outcome(data: bytes, scaled_to: tuple[int, int] | None) -> Picture | str:
    """The picture, or the error."""
    try:
        return decode(data, MAX_PIXELS, scaled_to)
    except errors.ItemError as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("orientation", _STORED)
def test_a_scaled_jpeg_is_upright_and_knows_its_full_size(orientation: int) -> None:
    """The picture is three times as wide and four times as high as the model's input, however it is stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = _smooth((330, 160))
    data = _saved(_STORED[orientation](upright), "JPEG", quality=95, exif=exif)
    picture = decode(data, MAX_PIXELS, (110, 40))
    assert (picture.width, picture.height) == (330, 160)
    assert picture.image.size == (165, 80)
    assert _close(picture.image, upright.resize(picture.image.size), tolerance=16)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_scaled_jpeg_is_never_smaller_than_the_models_input(mode: str, progressive: bool) -> None:
    dice = random.Random(3)
    scaled = 0
    for _ in range(60):
        width, height = dice.randint(1, 240), dice.randint(1, 240)
        least = dice.choice((31, 45, 60)), dice.choice((31, 45, 60))
        source = _smooth((width, height)).convert(mode)
        picture = decode(_saved(source, "JPEG", quality=95, progressive=progressive), MAX_PIXELS, least)
        assert (picture.width, picture.height) == (width, height)
        assert min(width, least[0]) <= picture.image.width <= width
        assert min(height, least[1]) <= picture.image.height <= height
        if picture.image.size != (width, height):
            scaled += 1
            assert min(picture.image.width / least[0], picture.image.height / least[1]) < 2.2
            if min(picture.image.size) > 8:
                assert _close(picture.image, source.convert("RGB").resize(picture.image.size), tolerance=50)
    assert scaled > 10


def test_a_jpeg_that_cannot_be_smaller_is_what_it_always_was() -> None:
    data = _saved(_noise((64, 48)), "JPEG")
    for least in ((64, 48), (768, 768), (1, 48), (64, 1), (60, 45), (1, 49)):
        assert _outcome(data, least) == _outcome(data, None)


@pytest.mark.parametrize("format", [format for format in FORMATS if format != "JPEG"])
def test_other_formats_are_not_scaled(format: str) -> None:
    data = _saved(_noise((64, 48)), format)
    assert _outcome(data, (8, 8)) == _outcome(data, None)


def test_the_first_frame_is_scaled() -> None:
    second = Image.new("RGB", (64, 48), "blue")
    data = _saved(Image.new("RGB", (64, 48), "red"), "MPO", save_all=True, append_images=[second])
    picture = decode(data, MAX_PIXELS, (8, 6))
    assert picture.image.size == (8, 6)
    assert _close(picture.image, Image.new("RGB", (8, 6), "red"), tolerance=3)


def test_pixels_are_counted_before_scaling() -> None:
    data = _saved(_noise((64, 48)), "JPEG")
    assert decode(data, 64 * 48, (8, 6)).image.size == (8, 6)
    with pytest.raises(errors.TooManyPixels, match="64×48"):
        decode(data, 64 * 48 - 1, (8, 6))


def _lossless(size: tuple[int, int]) -> bytes:
    """A grey JPEG of the lossless process: each sample is the one before it, and the first is 128."""

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    table = segment(0xC4, bytes([0, 1, *[0] * 15, 0]))
    frame = segment(0xC3, struct.pack(">BHHBBBB", 8, size[1], size[0], 1, 1, 0x11, 0))
    scan = segment(0xDA, bytes([1, 1, 0, 1, 0, 0])) + bytes(size[0] * size[1] // 8)
    return b"\xff\xd8" + table + frame + scan + b"\xff\xd9"


def _padded(data: bytes) -> bytes:
    """With a byte more before its first marker, which the standard allows and few write."""
    return data[:2] + b"\xff" + data[2:]


def _disguised(data: bytes) -> bytes:
    """Behind a marker without a length: who takes what follows for its length finds a baseline frame after the end."""
    start = data[:2] + b"\xff\xd0"
    length = int.from_bytes(data[2:4], "big")
    return (start + data[2:]).ljust(len(start) + length, b"\0") + b"\xff\xc0\0\x02"


@pytest.mark.parametrize(
    "data",
    [_lossless((320, 240)), _disguised(_lossless((320, 240))), _padded(_saved(_noise(), "JPEG"))],
    ids=["lossless", "disguised", "padded"],
)
def test_jpegs_that_cannot_be_scaled_are_decoded_whole(data: bytes) -> None:
    whole = _outcome(data, None)
    assert isinstance(whole, Picture)
    assert _outcome(data, (20, 15)) == whole


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_fails_scaled_as_it_fails_whole(progressive: bool) -> None:
    data = _saved(_noise((200, 120)), "JPEG", progressive=progressive)
    for length in [*range(0, len(data), 97), *range(len(data) - 30, len(data) + 1)]:
        scaled, whole = _outcome(data[:length], (50, 40)), _outcome(data[:length], None)
        assert isinstance(scaled, Picture) == isinstance(whole, Picture), length
        if isinstance(whole, str):
            assert scaled == whole


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_broken_jpeg_fails_scaled_as_it_fails_whole(mode: str) -> None:
    data = _saved(_noise((200, 120)).convert(mode), "JPEG", quality=60, restart_marker_rows=2)
    dice = random.Random(5)
    failed = 0
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(dice.choice((1, 2, 8))):
            changed[min(int(dice.expovariate(1 / 400)), len(data) - 1)] = dice.randrange(256)
        scaled, whole = _outcome(bytes(changed), (50, 30)), _outcome(bytes(changed), None)
        assert isinstance(scaled, Picture) == isinstance(whole, Picture)
        if isinstance(scaled, Picture) and isinstance(whole, Picture):
            assert (scaled.width, scaled.height) == (whole.width, whole.height)
        else:
            failed += 1
    assert 40 < failed < 360


def test_a_scaled_picture_does_not_hold_on_to_its_file() -> None:
    image = decode(_saved(_noise(), "JPEG"), MAX_PIXELS, (8, 6)).image
    assert getattr(image, "fp", None) is None


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_too_many_pixels(format: str) -> None:
    data = _saved(_corners(), format)
    assert decode(data, WIDTH * HEIGHT).width == WIDTH
    with pytest.raises(errors.TooManyPixels, match="ARNO_LIMITS__MAX_PIXELS"):
        decode(data, WIDTH * HEIGHT - 1)


@pytest.mark.parametrize("format", FORMATS)
def test_pixels_are_counted_before_they_are_decoded(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _saved(_corners(), format)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    with pytest.raises(errors.TooManyPixels):
        decode(data, 1)


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (width + 1) * height) if width * height < 10**6 else b""
    all_chunks = ((b"IHDR", header), *chunks, (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in all_chunks)


def test_pillows_own_limit_neither_warns_nor_raises() -> None:
    """Pillow warns from 89 and raises from 179 million pixels on, whatever its caller allows."""
    assert Image.MAX_IMAGE_PIXELS is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for width in (10_000, 20_000):
            with pytest.raises(errors.TooManyPixels, match="at most 50000000"):
                decode(_png(width, 10_000), 50_000_000)
            with pytest.raises(errors.BrokenImage):
                decode(_png(width, 10_000), 10**9)
    before = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = 10
        assert decode(_png(100, 100), MAX_PIXELS).width == 100
    finally:
        Image.MAX_IMAGE_PIXELS = before


@pytest.mark.parametrize(
    "chunk",
    [
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 50_000_000)),
        (b"iTXt", b"Comment\0\x01\0\0\0" + zlib.compress(b"x" * 50_000_000)),
        (b"iCCP", b"profile\0\0" + zlib.compress(b"x" * 50_000_000)),
    ],
    ids=lambda chunk: chunk[0].decode(),
)
def test_bombs_in_chunks(chunk: tuple[bytes, bytes]) -> None:
    with pytest.raises(errors.BrokenImage):
        decode(_png(4, 4, chunk), MAX_PIXELS)


def test_many_small_bombs() -> None:
    text = (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (PngImagePlugin.MAX_TEXT_CHUNK - 1)))
    with pytest.raises(errors.BrokenImage):
        decode(_png(4, 4, *[text] * 70), MAX_PIXELS)


def test_a_gif_whose_frame_is_larger_than_its_screen() -> None:
    data = bytearray(_saved(Image.new("P", (4, 4)), "GIF"))
    frame = data.index(b",\0\0\0\0") + 5
    data[frame : frame + 4] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(errors.TooManyPixels):
        decode(bytes(data), MAX_PIXELS)


def test_one_pixel() -> None:
    for format in FORMATS:
        picture = decode(_saved(Image.new("RGB", (1, 1), "white"), format), 1)
        assert (picture.width, picture.height, picture.image.getpixel((0, 0))) == (1, 1, (255, 255, 255))


def test_no_pixels() -> None:
    for width, height in ((0, 5), (5, 0), (0, 0)):
        with pytest.raises(errors.BrokenImage):
            decode(_png(width, height), MAX_PIXELS)


# -- what is no picture ------------------------------------------------------------------------------------------------


def test_empty() -> None:
    with pytest.raises(errors.NotAnImage, match="empty"):
        decode(b"", MAX_PIXELS)


@pytest.mark.parametrize(
    "data",
    [
        b"<html>not found</html>",
        b"\0" * 1000,
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0\0\0\x1cftypavif",
        b"RIFF\0\0\0\0WAVE",
        b"P6 1 1 255 abc",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\xff",
    ],
)
def test_not_an_image(data: bytes) -> None:
    with pytest.raises(errors.NotAnImage, match="JPEG, PNG, WEBP, GIF, TIFF, BMP"):
        decode(data, MAX_PIXELS)


@pytest.mark.parametrize("format", FORMATS)
def test_truncated(format: str) -> None:
    """Cut anywhere, a file is an ItemError or, where only its tail is gone, still a picture; half of it never is."""
    data = _saved(_noise(), format)
    for length in sorted({*range(min(len(data), 200)), *range(0, len(data), max(1, len(data) // 60)), len(data) - 1}):
        try:
            picture = decode(data[:length], MAX_PIXELS)
        except (errors.NotAnImage, errors.BrokenImage):
            continue
        assert length > len(data) // 2, f"{length} of {len(data)} bytes passed for a picture"
        assert picture.image.size == (64, 48)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("format", [*FORMATS, "MPO", "TIFF-lzw", "TIFF-jpeg", "WEBP-animated"])
def test_fuzzed(format: str) -> None:
    """Whatever is changed in a file, a picture or an ItemError comes out."""
    kinds: dict[str, dict[str, Any]] = {
        "MPO": {"save_all": True, "append_images": [_noise()]},
        "TIFF-lzw": {"compression": "tiff_lzw"},
        "TIFF-jpeg": {"compression": "jpeg"},
        "WEBP-animated": {"save_all": True, "append_images": [_corners().resize((64, 48))]},
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _saved(_noise(), format.partition("-")[0], exif=exif, **kinds.get(format, {}))
    dice = random.Random(format)
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(dice.choice((1, 2, 8, 50))):
            changed[min(int(dice.expovariate(1 / 200)), len(data) - 1)] = dice.randrange(256)
        try:
            picture = decode(bytes(changed), MAX_PIXELS)
        except errors.ItemError:
            continue
        assert picture.image.mode == "RGB"
        assert picture.image.size == (picture.width, picture.height)


@pytest.mark.parametrize("format", FORMATS)
def test_garbage_after_a_signature(format: str) -> None:
    dice = random.Random(1)
    start = _saved(_corners(), format)[:16]
    for length in (0, 1, 10, 1000):
        with pytest.raises((errors.NotAnImage, errors.BrokenImage, errors.TooManyPixels)):
            decode(start + dice.randbytes(length), MAX_PIXELS)


# -- house-keeping -----------------------------------------------------------------------------------------------------


def test_threads_do_not_disturb_each_other() -> None:
    files = [(_saved(_noise((64, 40 + number)), format), 40 + number) for number in range(6) for format in FORMATS]

    def height(file: tuple[bytes, int]) -> bool:
        return decode(file[0], MAX_PIXELS).height == file[1]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(height, files * 3))


def test_every_format_is_known_from_the_start() -> None:
    """In a fresh process: Pillow itself loads WebP and TIFF only after the first unknown file."""
    webp = _saved(_corners(), "WEBP")
    code = f"from arno_workers.decode.picture import decode; print(decode({webp!r}, 10**6).format)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "WEBP\n"


def test_a_picture_does_not_hold_on_to_its_file() -> None:
    for format in FORMATS:
        image = decode(_saved(_corners(), format), MAX_PIXELS).image
        assert getattr(image, "fp", None) is None
