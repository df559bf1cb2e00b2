"""What lies behind an image's name and is none, or is something else as well."""

import io
import random
import zipfile
from collections.abc import Iterator

from tests.zoo.specimens.build import quarters, saved


def specimens() -> Iterator[tuple[str, bytes]]:
    jpeg, png, gif = (saved(quarters(), format) for format in ("JPEG", "PNG", "GIF"))
    yield "png-behind.jpg", png
    yield "jpeg-behind.png", jpeg
    yield "gif-behind.tif", gif
    yield "jpeg-without-a-suffix", jpeg
    yield "jpeg-and-zip.jpg", jpeg + _zip()
    yield "jpeg-and-html.jpg", jpeg + b"<html><script>alert(1)</script></html>"
    yield "jpeg-and-a-film.jpg", jpeg + b"\0\0\0\x18ftypmp42" + random.Random(1).randbytes(100_000)
    yield "gif-and-javascript.gif", _javascript(gif)
    yield "html-before-jpeg.jpg", b"<html></html>" + jpeg
    yield "pdf-with-jpeg.jpg", b"%PDF-1.7\n1 0 obj<</Filter/DCTDecode>>stream\n" + jpeg + b"\nendstream endobj\n%%EOF"
    yield "drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='24' height='16'><rect/></svg>"
    yield "entities.svg", b"<!DOCTYPE svg [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><svg>&x;</svg>"
    yield "login-page.jpg", b"<!DOCTYPE html><html><title>Log in</title></html>"
    yield "error.png", b'{"error": {"code": 404, "message": "no such image"}}'
    yield "empty.png", b""
    yield "zeros.jpg", bytes(10_000)
    for seed in range(3):
        yield f"random-{seed}.jpg", random.Random(seed).randbytes(5_000)
    yield "words.txt", "Ein Bild sagt mehr als tausend Wörter.\n".encode()
    yield from _other_formats()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("hello.txt"), "hello")
    return file.getvalue()


def _javascript(gif: bytes) -> bytes:
    """A GIF that a browser runs as a script: its width reads `/*`, and the comment ends behind the picture."""
    script = b"*/=1;alert(1)//"
    return gif[:6] + b"/*" + gif[8:-1] + b";" + script


def _other_formats() -> Iterator[tuple[str, bytes]]:
    """Pictures that other programs read. Some are but the beginnings of files: no more of them is looked at."""
    for format, suffix in (("ICO", "ico"), ("PPM", "ppm"), ("TGA", "tga"), ("PCX", "pcx"), ("ICNS", "icns")):
        yield f"other.{suffix}", saved(quarters().resize((32, 32)), format)
    yield "other.eps", saved(quarters(), "EPS")
    yield "other.avif", b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf" + bytes(500)
    yield "other.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)
    yield "other.jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(500)
    yield "other.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(500)
    yield "other.psd", b"8BPS\0\1" + bytes(500)
    yield "sound.wav", b"RIFF\x24\0\0\0WAVEfmt " + bytes(500)
