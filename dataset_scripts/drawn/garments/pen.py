"""What drawn products are drawn with: outlines of curves, cloth, seams, buttons.

The picture is 0.45 units wide and 0.6 high; `x` runs right from its middle, `y` down from its upper edge. Every kind
fills it, a hat as much as a coat, so that a pattern has the same size in all pictures.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..persons.drawing import Array, Canvas, Cloth, Painter, Point, Surface
from .attributes import Product, shade_of


WIDTH, HEIGHT = 0.45, 0.60
"""Of the picture, in units."""
WHITE = np.array([0.93, 0.93, 0.91], dtype=np.float32)
METAL = np.array([0.72, 0.70, 0.66], dtype=np.float32)
SOLE = np.array([0.20, 0.17, 0.15], dtype=np.float32)

_BLACK = 0.18


def bend(start: Point, control: Point, end: Point, steps: int = 14) -> list[Point]:
    """Points of a curve that leaves `start` towards `control` and comes from there to `end` (a quadratic Bezier)."""
    curve = []
    for index in range(steps + 1):
        t = index / steps
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
        curve.append((a * start[0] + b * control[0] + c * end[0], a * start[1] + b * control[1] + c * end[1]))
    return curve


def both_sides(right: Sequence[Point]) -> list[Point]:
    """The outline whose right half runs from the top of the middle to its bottom."""
    return [*right, *((-x, y) for x, y in reversed(right))]


def flipped(points: Sequence[Point]) -> list[Point]:
    """The same on the left."""
    return [(-x, y) for x, y in points]


def band(points: Sequence[Point], width: float) -> list[Point]:
    """The outline of a line of that width."""
    line = np.asarray(points, dtype=np.float64)
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal *= width / 2 / np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-9)[:, None]
    outline = np.concatenate([line + normal, (line - normal)[::-1]])
    return [(float(x), float(y)) for x, y in outline]


class Pen:
    """Draws one product.

    Args:
        canvas (`Canvas`): to draw on.
        product (`Product`)
    """

    def __init__(self, canvas: Canvas, product: Product) -> None:
        rng = np.random.default_rng(product.style_seed)
        self.canvas, self.product, self.details = canvas, product, product.details
        color = shade_of(product.color, rng)
        self.second = None if product.color2 == "none" else shade_of(product.color2, rng)
        self.cloth = Cloth(color, self.second, product.pattern, folds=0.05, offset=float(rng.random()))
        self.lining = replace(self.cloth, color=color * 0.5, pattern="plain")
        self.plain = replace(self.cloth, pattern="plain")
        # Buttons and threads stand out from the cloth.
        self.ink = WHITE if color.mean() < 0.45 else SOLE

    def fill(self, points: Sequence[Point], cloth: Cloth | None = None, *, edge: float = 0.35) -> None:
        """A piece of cloth, with a darker edge of that depth; of the product's own where no other is given."""
        points = list(points)
        self.canvas.polygon(points, self._draped(cloth or self.cloth))
        if edge:
            self.seam([*points, points[0], points[1]], 0.0035, edge)

    def seam(self, points: Sequence[Point], width: float = 0.004, depth: float = 0.35) -> None:
        """A line that darkens what is there, or on black cloth, where that would not be seen, lightens it."""
        if self.plain.color.mean() < _BLACK:
            self.canvas.polygon(band(points, width), Cloth(self.plain.color + 0.5 * depth, folds=0.0))
        else:
            self.canvas.polygon(band(points, width), self.cloth, shadow=depth)

    def shadow(self, points: Sequence[Point], depth: float = 0.2) -> None:
        """A darker area."""
        self.canvas.polygon(list(points), self.cloth, shadow=depth)

    def stroke(self, points: Sequence[Point], width: float, color: Array) -> None:
        """A line of a colour: a string, a zip, a strap."""
        self.canvas.polygon(band(points, width), Cloth(color, folds=0.03))

    def dot(self, x: float, y: float, radius: float, color: Array | None = None) -> None:
        """A button, or a ball."""
        cloth = Cloth(self.ink if color is None else color, folds=0.05)
        self.canvas.ellipse((x, y), radius, radius, cloth, ambient=0.8)

    def buttons(self, x: float, top: float, bottom: float, count: int, radius: float = 0.0065) -> None:
        """A column of buttons."""
        for y in np.linspace(top, bottom, count):
            self.dot(x, float(y), radius)

    def zip(self, points: Sequence[Point]) -> None:
        """A zip: a dark tape with metal teeth, and a puller at its beginning."""
        self.stroke(points, 0.015, self.plain.color * 0.45)
        self.stroke(points, 0.006, METAL)
        x, y = points[0]
        self.stroke([(x, y), (x, y + 0.012), (x, y + 0.024)], 0.009, METAL * 0.8)

    def pocket(self, x: float, y: float, width: float, height: float) -> None:
        """A patch pocket, its upper left corner at (x, y)."""
        right, bottom, middle = x + width, y + height, x + width / 2
        outline = [(x, y), (right, y), (right, bottom - 0.2 * height), (middle, bottom), (x, bottom - 0.2 * height)]
        self.shadow(outline, 0.10)
        self.seam([*outline, outline[0], outline[1]], 0.0045, 0.45)
        self.seam([(x, y + 0.012), (right, y + 0.012)], 0.004, 0.35)

    def _draped(self, cloth: Cloth) -> Painter:
        light = self.canvas.light

        def paint(surface: Surface) -> Array:
            bright = 1.0 + 0.10 * light * surface.across - 0.09 * surface.across**4
            return cloth(surface) * bright[..., None]

        return paint
