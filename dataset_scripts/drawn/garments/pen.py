"""Drawing primitives of products: curves, cloth, seams, buttons.

The image is 0.45 units wide and 0.6 units high; `x` runs right from its middle, `y` down from its upper edge. Products
of every kind fill it, so that patterns have the same size in all images.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..persons.drawing import Array, Canvas, Cloth, Point, Surface
from .attributes import Product, shade_of


WIDTH, HEIGHT = 0.45, 0.60
"""Size of the image in units."""
WHITE = np.array([0.93, 0.93, 0.91], dtype=np.float32)
METAL = np.array([0.72, 0.70, 0.66], dtype=np.float32)
SOLE = np.array([0.20, 0.17, 0.15], dtype=np.float32)

_BLACK = 0.18


def bend(start: Point, control: Point, end: Point, steps: int = 14) -> list[Point]:
    """Returns: points of a quadratic Bezier curve."""
    curve = []
    for index in range(steps + 1):
        t = index / steps
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
        curve.append((a * start[0] + b * control[0] + c * end[0], a * start[1] + b * control[1] + c * end[1]))
    return curve


def both_sides(right: Sequence[Point]) -> list[Point]:
    """Returns: the symmetric outline whose right half is given from top to bottom."""
    return [*right, *((-x, y) for x, y in reversed(right))]


def flipped(points: Sequence[Point]) -> list[Point]:
    """Returns: the points flipped horizontally."""
    return [(-x, y) for x, y in points]


def band(points: Sequence[Point], width: float) -> list[Point]:
    """Returns: the outline of a line with a width."""
    line = np.asarray(points, dtype=np.float64)
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal *= width / 2 / np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-9)[:, None]
    outline = np.concatenate([line + normal, (line - normal)[::-1]])
    return [(float(x), float(y)) for x, y in outline]


class Pen:
    """Draws one product on a canvas."""

    def __init__(self, canvas: Canvas, product: Product) -> None:
        rng = np.random.default_rng(product.style_seed)
        self.canvas, self.product, self.details = canvas, product, product.details
        color = shade_of(product.color, rng)
        self.second = None if product.color2 == "none" else shade_of(product.color2, rng)
        self.cloth = Cloth(color, self.second, product.pattern, folds=0.05, offset=float(rng.random()))
        self.lining = replace(self.cloth, color=color * 0.5, pattern="plain")
        self.plain = replace(self.cloth, pattern="plain")
        # Colour of buttons, in contrast to the cloth.
        self.ink = WHITE if color.mean() < 0.45 else SOLE

    def fill(self, points: Sequence[Point], cloth: Cloth | None = None, *, edge: float = 0.35) -> None:
        """Draw a piece of cloth, by default the product's own, with a darker edge."""
        points = list(points)
        self.canvas.polygon(points, replace(cloth or self.cloth, finish=self._drape))
        if edge:
            self.seam([*points, points[0], points[1]], 0.0035, edge)

    def seam(self, points: Sequence[Point], width: float = 0.004, depth: float = 0.35) -> None:
        """Draw a seam: a darker line, or a lighter one on black cloth."""
        if self.plain.color.mean() < _BLACK:
            self.canvas.polygon(band(points, width), Cloth(self.plain.color + 0.5 * depth, folds=0.0))
        else:
            self.canvas.polygon(band(points, width), self.cloth, shadow=depth)

    def shadow(self, points: Sequence[Point], depth: float = 0.2) -> None:
        """Darken an area."""
        self.canvas.polygon(list(points), self.cloth, shadow=depth)

    def stroke(self, points: Sequence[Point], width: float, color: Array) -> None:
        """Draw a coloured line, such as a string or a strap."""
        self.canvas.polygon(band(points, width), Cloth(color, folds=0.03))

    def dot(self, x: float, y: float, radius: float, color: Array | None = None) -> None:
        """Draw a button or a ball."""
        cloth = Cloth(self.ink if color is None else color, folds=0.05)
        self.canvas.ellipse((x, y), radius, radius, cloth, ambient=0.8)

    def buttons(self, x: float, top: float, bottom: float, count: int, radius: float = 0.0065) -> None:
        """Draw a column of buttons."""
        for y in np.linspace(top, bottom, count):
            self.dot(x, float(y), radius)

    def zip(self, points: Sequence[Point]) -> None:
        """Draw a zip: a dark tape with metal teeth and a puller at its start."""
        self.stroke(points, 0.015, self.plain.color * 0.45)
        self.stroke(points, 0.006, METAL)
        x, y = points[0]
        self.stroke([(x, y), (x, y + 0.012), (x, y + 0.024)], 0.009, METAL * 0.8)

    def pocket(self, x: float, y: float, width: float, height: float) -> None:
        """Draw a patch pocket with its upper left corner at (x, y)."""
        right, bottom, middle = x + width, y + height, x + width / 2
        outline = [(x, y), (right, y), (right, bottom - 0.2 * height), (middle, bottom), (x, bottom - 0.2 * height)]
        self.shadow(outline, 0.10)
        self.seam([*outline, outline[0], outline[1]], 0.0045, 0.45)
        self.seam([(x, y + 0.012), (right, y + 0.012)], 0.004, 0.35)

    def _drape(self, color: Array, surface: Surface) -> None:
        color *= (1.0 + 0.10 * self.canvas.light * surface.across - 0.09 * surface.across**4)[..., None]
