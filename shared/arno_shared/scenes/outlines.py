"""The outline of every shape: the drawing and the segmentation answers share it."""

from math import cos, pi, sin

from arno_shared.scenes.scene import Box, SceneObject

Point = tuple[float, float]

_CIRCLE_POINTS = 48
_STAR_INNER = 0.45
_CROSS_ARM = 1 / 3


def outline(item: SceneObject) -> tuple[Point, ...]:
    """Corners as fractions of the picture's side; they touch all four edges of the box."""
    return _fit(_UNIT[item.shape], item.box)


def coarse_outline(item: SceneObject) -> tuple[Point, ...]:
    """The same outline with few enough corners to be written as an answer."""
    corners = outline(item)
    return corners[::4] if item.shape == "circle" else corners


def _wheel(count: int, radii: tuple[float, ...]) -> tuple[Point, ...]:
    """Corners around the origin, the first on top, their radii taken in turn."""
    turns = [(2 * pi * step / count, radii[step % len(radii)]) for step in range(count)]
    return tuple((radius * sin(angle), -radius * cos(angle)) for angle, radius in turns)


def _fit(corners: tuple[Point, ...], box: Box) -> tuple[Point, ...]:
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    wide, high = (box.right - box.left) / (max(xs) - min(xs)), (box.bottom - box.top) / (max(ys) - min(ys))
    return tuple((box.left + (x - min(xs)) * wide, box.top + (y - min(ys)) * high) for x, y in corners)


def _cross() -> tuple[Point, ...]:
    low, high = _CROSS_ARM, 1 - _CROSS_ARM
    return (
        (low, 0.0), (high, 0.0), (high, low), (1.0, low), (1.0, high), (high, high),
        (high, 1.0), (low, 1.0), (low, high), (0.0, high), (0.0, low), (low, low),
    )  # fmt: skip


_UNIT: dict[str, tuple[Point, ...]] = {
    "circle": _wheel(_CIRCLE_POINTS, (1.0,)),
    "square": ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),
    "triangle": ((0.5, 0.0), (1.0, 1.0), (0.0, 1.0)),
    "diamond": _wheel(4, (1.0,)),
    "star": _wheel(10, (1.0, _STAR_INNER)),
    "cross": _cross(),
}
