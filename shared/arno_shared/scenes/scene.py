"""A picture's content, before it is drawn. Lengths are fractions of the picture's side."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from PIL import ImageFont

from arno_shared.scenes.lexicon import COLOURS, PLACES, SHADES, SHAPES, SIZES, TEXTURES, WORDS, Rgb

MARGIN = 0.02
# Answers name objects from left to right and words from top to bottom: these gaps keep the order visible.
OBJECT_STEP = 0.06
WORD_STEP = 0.15
LINE_GAP = 0.002
FONT_SIZES = (0.19, 0.24)
_REFERENCE_PX = 256


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    @property
    def centre(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def overlaps(self, other: "Box", gap: float = 0.0) -> bool:
        return (
            self.left < other.right + gap
            and other.left < self.right + gap
            and self.top < other.bottom + gap
            and other.top < self.bottom + gap
        )


@dataclass(frozen=True)
class SceneObject:
    colour: str
    shape: str
    size: str
    rgb: Rgb
    box: Box

    @property
    def label(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def place(self) -> str:
        x, y = self.box.centre
        return PLACES[min(int(y * 3), 2)][min(int(x * 3), 2)]


@dataclass(frozen=True)
class SceneWord:
    text: str
    box: Box
    font_size: float


@dataclass(frozen=True)
class Scene:
    """Objects stand from left to right, words from top to bottom; colours are distinct."""

    seed: int
    objects: tuple[SceneObject, ...]
    words: tuple[SceneWord, ...]
    texture: str
    shade: str
    ground: Rgb
    pattern: Rgb
    ink: Rgb
    period: float


def make_scene(seed: int) -> Scene:
    """The one scene of this seed."""
    rng = random.Random(seed)
    shade = rng.choice(SHADES)
    tone = rng.randint(196, 232) if shade == "light" else rng.randint(44, 84)
    ground = _jitter(rng, (tone, tone, tone), 10)
    step = rng.choice((-1, 1)) * rng.randint(22, 30)
    objects, words = _arrange(rng)
    return Scene(
        seed=seed,
        objects=objects,
        words=words,
        texture=rng.choice(TEXTURES),
        shade=shade,
        ground=ground,
        pattern=(ground[0] + step, ground[1] + step, ground[2] + step),
        ink=(16, 16, 16) if shade == "light" else (248, 248, 248),
        period=rng.uniform(0.08, 0.13),
    )


@cache
def text_extent(text: str) -> tuple[float, float]:
    """Width and height of the drawn letters, for a font size of one."""
    left, top, right, bottom = ImageFont.load_default(_REFERENCE_PX).getbbox(text)
    return (right - left) / _REFERENCE_PX, (bottom - top) / _REFERENCE_PX


def _arrange(rng: random.Random) -> tuple[tuple[SceneObject, ...], tuple[SceneWord, ...]]:
    """Draws contents anew until everything finds its place."""
    while True:
        colours = rng.sample(sorted(COLOURS), rng.choice((1, 2, 2, 3, 3)))
        texts = rng.sample(WORDS, rng.choice((0, 1, 1, 1, 2)))
        objects = tuple(sorted((_object(rng, colour) for colour in colours), key=lambda item: item.box.centre[0]))
        words = tuple(sorted((_word(rng, text) for text in texts), key=lambda item: item.box.centre[1]))
        boxes = [item.box for item in objects] + [word.box for word in words]
        if _apart(boxes) and _ordered(objects, words) and all(_off_diagonal(box) for box in boxes):
            return objects, words


def _object(rng: random.Random, colour: str) -> SceneObject:
    size = rng.choice(sorted(SIZES))
    side = rng.uniform(*SIZES[size])
    rgb = _jitter(rng, COLOURS[colour], 10)
    return SceneObject(colour, rng.choice(SHAPES), size, rgb, _somewhere(rng, side, side))


def _word(rng: random.Random, text: str) -> SceneWord:
    font_size = rng.uniform(*FONT_SIZES)
    width, height = text_extent(text)
    return SceneWord(text, _somewhere(rng, width * font_size, height * font_size), font_size)


def _somewhere(rng: random.Random, width: float, height: float) -> Box:
    left = rng.uniform(MARGIN, 1 - MARGIN - width)
    top = rng.uniform(MARGIN, 1 - MARGIN - height)
    return Box(left, top, left + width, top + height)


def _apart(boxes: Sequence[Box]) -> bool:
    return not any(box.overlaps(other, MARGIN) for place, box in enumerate(boxes) for other in boxes[:place])


def _off_diagonal(box: Box) -> bool:
    """Whether no vertical line of an outline has the coordinate of a horizontal one (crosses have lines at thirds).

    Outlines on the diagonal would repeat three coordinates in a row, which generation forbids.
    """
    across = [box.left + (box.right - box.left) * third / 3 for third in range(4)]
    down = [box.top + (box.bottom - box.top) * third / 3 for third in range(4)]
    return all(abs(x - y) > LINE_GAP for x in across for y in down)


def _ordered(objects: Sequence[SceneObject], words: Sequence[SceneWord]) -> bool:
    across = [item.box.centre[0] for item in objects]
    down = [item.box.centre[1] for item in words]
    return _spaced(across, OBJECT_STEP) and _spaced(down, WORD_STEP)


def _spaced(ascending: Sequence[float], step: float) -> bool:
    return all(after - before >= step for before, after in pairwise(ascending))


def _jitter(rng: random.Random, rgb: Rgb, amount: int) -> Rgb:
    red, green, blue = (min(max(channel + rng.randint(-amount, amount), 0), 255) for channel in rgb)
    return red, green, blue
