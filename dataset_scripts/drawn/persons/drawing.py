"""Drawing primitives: shaded tubes, limbs and shapes with antialiased edges, and patterned cloth.

Coordinates are in body units: one unit is the height of the person, `x` runs right from the middle of the body, `y`
down from the top of the head. Shapes compute the coverage of each pixel, so that edges are smooth without
supersampling, and surface coordinates, so that patterns wrap around the body.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw


Array = np.ndarray
Point = tuple[float, float]


@dataclass(frozen=True)
class Window:
    """The pixels that a shape can cover: their position in the canvas and their coordinates."""

    rows: slice
    columns: slice
    x: Array  # (1, w)
    y: Array  # (h, 1)


@dataclass(frozen=True)
class Surface:
    """Coordinates of the surface that a painter colours.

    Args:
        across (`Array`): `(h, w)`, -1 at the left edge of the shape in the image, 1 at its right edge.
        s (`Array`): `(h, w)`, body units along the surface, around the shape.
        v (`Array`): `(h, 1)` or `(h, w)`, body units along the shape.
    """

    across: Array
    s: Array
    v: Array


Painter = Callable[[Surface], Array]


class Canvas:
    """A float32 image: colours premultiplied by coverage, and the coverage.

    It starts transparent. Set `color` first to draw in front of a background.

    Args:
        height (`int`), width (`int`): pixels.
        scale (`float`): pixels per body unit.
        left (`float`), top (`float`): the pixel of the body coordinates (0, 0).
        light (`float`): position of the light, from -0.8 (left) to 0.8 (right).
    """

    def __init__(self, height: int, width: int, scale: float, left: float, top: float, light: float = -0.4) -> None:
        self.height, self.width, self.scale = height, width, scale
        self.left, self.top = left, top
        self.light = light
        self.color = np.zeros((height, width, 3), dtype=np.float32)
        self.alpha = np.zeros((height, width), dtype=np.float32)

    def window(self, x0: float, x1: float, y0: float, y1: float) -> Window:
        """Returns: the pixels of a box in body units, without any if the box is outside the image."""
        first_column = max(int(x0 * self.scale + self.left) - 1, 0)
        last_column = max(min(int(x1 * self.scale + self.left) + 2, self.width), first_column)
        first_row = max(int(y0 * self.scale + self.top) - 1, 0)
        last_row = max(min(int(y1 * self.scale + self.top) + 2, self.height), first_row)
        x = (np.arange(first_column, last_column, dtype=np.float32) + np.float32(0.5 - self.left)) / self.scale
        y = (np.arange(first_row, last_row, dtype=np.float32) + np.float32(0.5 - self.top)) / self.scale
        x, y = x[None, :].astype(np.float32), y[:, None].astype(np.float32)
        return Window(slice(first_row, last_row), slice(first_column, last_column), x, y)

    def edge(self, distance: Array) -> Array:
        """Returns: coverage in [0, 1] of pixels `distance` body units inside an edge."""
        return np.clip(distance * self.scale + 0.5, 0.0, 1.0)

    def lay(self, window: Window, cover: Array, color: Array) -> None:
        """Composite `color` over the canvas with the coverage `cover`."""
        cover = cover[..., None]
        region = self.color[window.rows, window.columns]
        region *= 1.0 - cover
        region += cover * color
        alpha = self.alpha[window.rows, window.columns]
        alpha += cover[..., 0] * (1.0 - alpha)

    def darken(self, window: Window, cover: Array) -> None:
        """Darken the canvas by the factor `1 - cover`, as a shadow."""
        self.color[window.rows, window.columns] *= (1.0 - cover)[..., None]

    def shade(self, across: Array, ambient: float = 0.56) -> Array:
        """Returns: the brightness of a round surface at `across`."""
        facing = np.sqrt(np.clip(1.0 - across * across, 0.0, 1.0))
        lit = np.clip(across * self.light + facing * np.float32(np.sqrt(1.0 - self.light**2)), 0.0, 1.0)
        return ambient + (1.08 - ambient) * lit

    def tube(
        self, ys: list[float], centers: list[float], halves: list[float], paint: Painter, *, hem: float = 0.0
    ) -> None:
        """Draw an upright tube: torso, skirt, coat.

        Args:
            ys (`list`), centers (`list`), halves (`list`): heights, and the centre and half width at each.
            paint (`Painter`): colours before shading.
            hem (`float`): distance of the middle of the lower edge below its ends.
        """
        reach = max(abs(center) for center in centers) + max(halves)
        window = self.window(-reach, reach, ys[0], ys[-1] + hem)
        y = window.y[:, 0]
        center = np.interp(y, ys, centers).astype(np.float32)[:, None]
        half = np.interp(y, ys, halves).astype(np.float32)[:, None]
        offset = window.x - center
        across = np.clip(offset / half, -1.0, 1.0)
        bottom = ys[-1] + hem * (1.0 - across * across)
        cover = self.edge(half - np.abs(offset)) * self.edge(window.y - ys[0]) * self.edge(bottom - window.y)
        surface = Surface(across, np.arcsin(across) * half, window.y)
        self.lay(window, cover, paint(surface) * self.shade(across)[..., None])

    def limb(
        self, start: Point, end: Point, start_radius: float, end_radius: float, paint: Painter, *,
        flat_end: bool = False, flat_start: bool = False, v0: float = 0.0, ambient: float = 0.56,
    ) -> None:  # fmt: skip
        """Draw a tapered rod with round or flat ends: arm, leg, sleeve, strap, foot."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = max(float(np.hypot(dx, dy)), 1e-4)
        reach = max(start_radius, end_radius)
        (x0, x1), (y0, y1) = sorted((start[0], end[0])), sorted((start[1], end[1]))
        window = self.window(x0 - reach, x1 + reach, y0 - reach, y1 + reach)
        ux, uy = dx / length, dy / length
        x, y = window.x - start[0], window.y - start[1]
        along = x * ux + y * uy
        side = x * uy - y * ux
        t = np.clip(along / length, 0.0, 1.0)
        radius = start_radius + (end_radius - start_radius) * t
        beyond = along - t * length
        cover = self.edge(radius - np.sqrt(side * side + beyond * beyond))
        if flat_end:
            cover *= self.edge(length - along)
        if flat_start:
            cover *= self.edge(along)
        # `side` grows to the left of the direction of the limb, which is to the right for downward limbs.
        across = np.clip(side / radius, -1.0, 1.0)
        if uy < 0:
            across = -across
        surface = Surface(across, np.arcsin(across) * radius, along + v0)
        self.lay(window, cover, paint(surface) * self.shade(across, ambient)[..., None])

    def ellipse(
        self, center: Point, rx: float, ry: float, paint: Painter, *, tilt: float = 0.0, ambient: float = 0.56
    ) -> None:
        """Draw an ellipse rotated by `tilt` radians and shaded like a ball."""
        reach = max(rx, ry)
        window = self.window(center[0] - reach, center[0] + reach, center[1] - reach, center[1] + reach)
        cos, sin = float(np.cos(tilt)), float(np.sin(tilt))
        x, y = window.x - center[0], window.y - center[1]
        u, v = (x * cos + y * sin) / rx, (y * cos - x * sin) / ry
        distance = np.sqrt(u * u + v * v)
        cover = self.edge((1.0 - distance) * min(rx, ry))
        across = np.clip(u, -1.0, 1.0)
        self.lay(window, cover, paint(Surface(across, across * rx, v * ry)) * self.shade(across, ambient)[..., None])

    def polygon(self, points: list[Point], paint: Painter, *, shadow: float = 0.0) -> None:
        """Draw a flat, evenly lit shape. With `shadow`, only darken the figure by this share.

        The surface runs from -1 to 1 across its bounding box.
        """
        xs, ys = zip(*points, strict=True)
        window = self.window(min(xs), max(xs), min(ys), max(ys))
        rows, columns = window.y.size, window.x.size
        if not rows or not columns:
            return
        zoom = 3
        left = self.left - window.columns.start
        top = self.top - window.rows.start
        mask = Image.new("L", (columns * zoom, rows * zoom))
        ImageDraw.Draw(mask).polygon(
            [((x * self.scale + left) * zoom, (y * self.scale + top) * zoom) for x, y in points], fill=255
        )
        cover = np.asarray(mask.reduce(zoom), dtype=np.float32) / 255.0
        if shadow:
            self.darken(window, cover * shadow * self.alpha[window.rows, window.columns])
            return
        half = max((max(xs) - min(xs)) / 2, 1e-4)
        across = np.clip((window.x - (max(xs) + min(xs)) / 2) / half, -1.0, 1.0) + np.zeros_like(window.y)
        self.lay(window, cover, paint(Surface(across, across * half, window.y - min(ys))))

    def image(self) -> Image.Image:
        """Returns: an RGBA image with straight alpha."""
        alpha = self.alpha[..., None]
        color = np.clip(self.color / np.maximum(alpha, 1e-3), 0.0, 1.0)
        return Image.fromarray(np.rint(np.concatenate([color, alpha], axis=2) * 255.0).astype(np.uint8))


@lru_cache(maxsize=1)
def fold_field() -> Array:
    """Returns: `(512, 512)` smooth, seamlessly tiling noise in about [-1, 1], stretched vertically."""
    rng = np.random.default_rng(20240917)
    field = np.zeros((512, 512), dtype=np.float32)
    for rows, columns, weight in ((10, 20, 0.6), (26, 44, 0.4), (150, 170, 0.16)):
        coarse = np.tile(rng.standard_normal((rows, columns)).astype(np.float32), (3, 3))
        smooth = Image.fromarray(coarse).resize((512 * 3, 512 * 3), Image.Resampling.BICUBIC)
        field += weight * np.asarray(smooth)[512:1024, 512:1024]
    return field


STRIPE_PERIOD = 0.052
PIN_PERIOD = 0.040
CHECK_PERIOD = 0.066
DOT_PERIOD = 0.056


@dataclass(frozen=True)
class Cloth:
    """Coloured, patterned and creased material: cloth, skin, leather or hair.

    Args:
        color (`Array`), second (`Array`): `(3,)` in [0, 1].
        pattern (`str`): a pattern of `attributes.PATTERNS_OF`. Unknown ones are drawn plain.
        folds (`float`): depth of the creases.
        offset (`float`): shift of the creases in body units, so that parts differ.
    """

    color: Array
    second: Array | None = None
    pattern: str = "plain"
    folds: float = 0.10
    offset: float = 0.0
    split: float = 0.0  # height in body units at which a two-tone garment changes colour
    finish: Callable[[Array, Surface], None] | None = None  # changes the colours in place, after all else

    def __call__(self, surface: Surface) -> Array:
        """Returns: `(h, w, 3)` colours before shading."""
        s, v = surface.s, surface.v
        field = fold_field()
        rows = ((v + self.offset) * 330.0).astype(np.int32) & 511
        columns = ((s + self.offset * 3.7) * 420.0).astype(np.int32) & 511
        crease = 1.0 + self.folds * field[rows, columns]
        color = self.color
        if self.second is not None and self.pattern in _PATTERNS:
            share = np.broadcast_to(_PATTERNS[self.pattern](s, v, self), crease.shape)[..., None]
            color = color * (1.0 - share) + self.second * share
        color = crease[..., None] * color
        if self.finish is not None:
            self.finish(color, surface)
        return color


def _wave(position: Array, period: float, duty: float) -> Array:
    """Returns: 1 on the first `duty` of every period, 0 elsewhere."""
    return ((position / period) % 1.0 < duty).astype(np.float32)


def _checked(s: Array, v: Array, cloth: Cloth) -> Array:
    return 0.5 * (_wave(s, CHECK_PERIOD, 0.5) + _wave(v, CHECK_PERIOD, 0.5))


def _dotted(s: Array, v: Array, cloth: Cloth) -> Array:
    row = np.floor(v / DOT_PERIOD)
    x = (s / DOT_PERIOD + 0.5 * (row % 2)) % 1.0 - 0.5
    y = (v / DOT_PERIOD) % 1.0 - 0.5
    return (x * x + y * y < 0.088).astype(np.float32)


_PATTERNS: dict[str, Callable[[Array, Array, Cloth], Array]] = {
    "striped": lambda s, v, cloth: _wave(v, STRIPE_PERIOD, 0.45),
    "pinstriped": lambda s, v, cloth: _wave(s, PIN_PERIOD, 0.30),
    "checked": _checked,
    "dotted": _dotted,
    "two-tone": lambda s, v, cloth: (v > cloth.split).astype(np.float32),
}
