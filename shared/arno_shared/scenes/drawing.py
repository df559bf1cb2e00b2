"""Draws a scene with Pillow, at any size."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from arno_shared.scenes.outlines import outline
from arno_shared.scenes.scene import Scene, SceneWord

# Drawn larger and reduced, so that edges come out smooth.
_OVERSAMPLING = 2
_NOISE = 6


def draw(scene: Scene, size_px: int = 128) -> Image.Image:
    """An RGB picture of `size_px` by `size_px` pixels, always the same for the same scene and size."""
    side = size_px * _OVERSAMPLING
    canvas = _background(scene, side)
    pencil = ImageDraw.Draw(canvas)
    for item in scene.objects:
        pencil.polygon([(x * side, y * side) for x, y in outline(item)], fill=item.rgb)
    for word in scene.words:
        _write(pencil, word, scene.ink, side)
    return _grain(canvas.reduce(_OVERSAMPLING), scene.seed)


def _background(scene: Scene, side: int) -> Image.Image:
    mask = Image.fromarray(_pattern(scene.texture, scene.period, side))
    canvas = Image.new("RGB", (side, side), scene.ground)
    canvas.paste(scene.pattern, mask=mask)
    return canvas


def _pattern(texture: str, period: float, side: int) -> NDArray[np.uint8]:
    """A mask of shape (side, side): 255 where the pattern covers the ground."""
    phase = (np.arange(side) + 0.5) / (side * period)
    column, row = phase[None, :] % 1, phase[:, None] % 1
    slanted = (phase[None, :] + phase[:, None]) * 0.35 % 1
    covered = {
        "plain": np.zeros((side, side), dtype=bool),
        "striped": slanted < 0.5,
        "checkered": (row < 0.5) ^ (column < 0.5),
        "dotted": (row - 0.5) ** 2 + (column - 0.5) ** 2 < 0.09,
    }[texture]
    return covered.astype(np.uint8) * np.uint8(255)


def _write(pencil: ImageDraw.ImageDraw, word: SceneWord, ink: tuple[int, int, int], side: int) -> None:
    font = _font(round(word.font_size * side))
    left, top, _, _ = font.getbbox(word.text)
    pencil.text((word.box.left * side - left, word.box.top * side - top), word.text, fill=ink, font=font)


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType: its scalable font is needed")
    return font


def _grain(picture: Image.Image, seed: int) -> Image.Image:
    """Adds a little brightness noise, as a camera would."""
    pixels = np.asarray(picture, dtype=np.int16)
    noise = np.random.default_rng(seed).integers(-_NOISE, _NOISE + 1, size=(*pixels.shape[:2], 1), dtype=np.int16)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
