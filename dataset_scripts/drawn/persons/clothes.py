"""The clothes that a person wears: lengths, materials, and details such as collars, buttons, seams and pockets.

Products of the drawn catalogue are in `drawn/garments`. The functions in `UPPERS` change the colours of a torso in
place. `phi` is the angle of a point around the body (0 in front, pi behind) and `y` its height in body units, so
that collars and pockets turn with the person.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .attributes import Person
from .body import Body
from .drawing import Array, Cloth, Surface


SOLE = np.array([0.10, 0.09, 0.09], dtype=np.float32)
RUBBER = np.array([0.90, 0.90, 0.88], dtype=np.float32)


class Clothes:
    """The material of each garment of one person, and of the skin."""

    def __init__(self, person: Person, body: Body) -> None:
        style = body.style
        self.skin = Cloth(style.skin, folds=0.03)
        second = None if person.upper_color2 == "none" else style.shade_of(person.upper_color2, 1)
        self.upper = Cloth(
            style.shade_of(person.upper_color, 0), second, person.upper_pattern, folds=0.11,
            offset=0.37 + (style.seed % 97) / 97, split=0.345 + body.drop,
        )  # fmt: skip
        # The sleeves of a two-tone jacket are in its second colour, those of other two-tone garments in the first.
        sleeve = self.upper
        if person.upper_pattern == "two-tone" and second is not None:
            color = second if person.upper == "jacket" else self.upper.color
            sleeve = Cloth(color, folds=0.11, offset=0.81)
            if person.upper == "jacket":
                self.upper = replace(self.upper, pattern="plain")
        self.inner = self.upper
        if person.inner_color != "none":
            self.inner = Cloth(style.shade_of(person.inner_color, 2), folds=0.08, offset=0.2)
        self.cut = UPPERS[person.upper]
        self.sleeve = self.inner if self.cut.sleeve == "inner" else sleeve
        self.lower = self.upper
        if person.lower != "none":
            color = style.shade_of(person.lower_color, 3)
            second = 0.55 * color + 0.45 * (1.0 if color.mean() < 0.5 else 0.0)
            if person.lower_pattern in ("dotted", "striped"):
                second = np.full(3, 0.93 if color.mean() < 0.6 else 0.1, dtype=np.float32)
            if person.lower == "jeans":  # denim is duller than dyed cloth
                color = 0.80 * color + 0.20 * color.mean()
            folds = 0.05 if person.lower == "leggings" else 0.12
            self.lower = Cloth(color, second.astype(np.float32), person.lower_pattern, folds=folds, offset=0.63)
        self.shoes = Cloth(style.shade_of(person.shoes_color, 4), folds=0.03)
        self.printed = person.upper_pattern == "printed"

    def paint_upper(self, color: Array, phi: Array, y: Array, surface: Surface) -> None:
        """Add the details and the print of the garment for the upper body."""
        self.cut.paint(color, phi, y, surface, self)
        if self.printed:
            _print(color, phi, y, self)


def _set(color: Array, where: Array, value: Array) -> None:
    np.copyto(color, value, where=np.broadcast_to(where, color.shape[:2])[..., None])


def _dim(color: Array, where: Array, factor: float) -> None:
    color *= np.where(np.broadcast_to(where, color.shape[:2]), np.float32(factor), np.float32(1.0))[..., None]


def _crew_neck(color: Array, phi: Array, y: Array, surface: Surface, clothes: Clothes) -> None:
    neckline = 0.172 + 0.022 * np.cos(np.clip(phi * 1.1, -np.pi, np.pi))
    inside = np.abs(surface.s) < 0.060
    _dim(color, inside & (y < neckline + 0.009), 0.80)
    _set(color, inside & (y < neckline), clothes.skin.color)


def _ribbed(color: Array, phi: Array, y: Array, surface: Surface, clothes: Clothes) -> None:
    _crew_neck(color, phi, y, surface, clothes)
    rib = (y > 0.497) & (np.sin(surface.s * 700.0) > 0.0)
    _dim(color, rib | ((y > 0.494) & (y < 0.499)), 0.78)
    color *= (1.0 + 0.05 * np.sin(surface.s * 420.0) * np.ones_like(surface.v))[..., None]


def _shirt(color: Array, phi: Array, y: Array, surface: Surface, clothes: Clothes) -> None:
    front = np.abs(phi) < 0.06
    opening = (y < 0.205) & (np.abs(phi) < 0.55 * (0.205 - y) / 0.05)
    collar = (y < 0.192) & ~opening
    _dim(color, collar & (y > 0.184), 0.72)
    _dim(color, front & (np.abs(phi) > 0.035), 0.70)
    buttons = (np.abs(phi) < 0.035) & ((y % 0.052) < 0.010) & (y > 0.2)
    light = clothes.upper.color.mean() > 0.5
    _set(color, buttons, np.full(3, 0.25 if light else 0.85, dtype=np.float32))
    _set(color, opening, clothes.skin.color)


def _open_front(color: Array, phi: Array, y: Array, surface: Surface, clothes: Clothes) -> None:
    gap = 0.36 + 0.75 * np.clip(y - 0.28, 0.0, 1.0) + 0.5 * np.clip(0.26 - y, 0.0, 0.1)
    _dim(color, np.abs(phi) < gap + 0.14, 0.84)
    inside = np.abs(phi) < gap
    _set(color, inside, clothes.inner.color)
    _dim(color, inside & (np.abs(phi) > gap - 0.10), 0.72)
    _set(color, (y < 0.182) & (np.abs(phi) < 0.7), clothes.skin.color)
    back = np.abs(phi) > 1.9
    _dim(color, back & (y > 0.185) & (y < 0.192), 0.72)
    _dim(color, (y > 0.505) & (np.abs(phi) > gap), 0.82)


def _padded_vest(color: Array, phi: Array, y: Array, surface: Surface, clothes: Clothes) -> None:
    quilt = np.abs(np.sin(y * np.pi / 0.048))
    color *= (0.72 + 0.34 * quilt * np.ones_like(phi))[..., None]
    _open_front(color, phi, y, surface, clothes)


def _coat(color: Array, phi: Array, y: Array, surface: Surface, clothes: Clothes) -> None:
    lapel = 0.85 * np.clip((0.335 - y) / 0.15, 0.0, 1.0)
    _dim(color, (np.abs(phi) < lapel + 0.07) & (np.abs(phi) > lapel - 0.02) & (y < 0.335), 0.62)
    opening = (np.abs(phi) < 0.45 * lapel) & (y < 0.30)
    _set(color, opening, np.full(3, 0.86, dtype=np.float32) if clothes.upper.color.mean() < 0.6 else SOLE * 3)
    _set(color, (y < 0.180) & (np.abs(phi) < 0.5), clothes.skin.color)
    _dim(color, (np.abs(phi + 0.12) < 0.03) & (y > 0.30), 0.58)
    _dim(color, (y > 0.425) & (y < 0.452), 0.70)
    buttons = (np.abs(phi - 0.06) < 0.06) & ((y % 0.062) < 0.014) & (y > 0.31)
    _dim(color, buttons, 0.45)
    _dim(color, (np.abs(np.abs(phi) - np.pi) < 0.05) & (y > 0.55), 0.65)


def _hoodie(color: Array, phi: Array, y: Array, surface: Surface, clothes: Clothes) -> None:
    front = np.abs(phi) < 1.5
    pocket = (np.abs(phi) < 0.85 - 3.2 * np.clip(0.47 - y, 0.0, 1.0)) & (y > 0.405) & (y < 0.492)
    inner = (np.abs(phi) < 0.78 - 3.2 * np.clip(0.47 - y, 0.0, 1.0)) & (y > 0.411) & (y < 0.487)
    _dim(color, pocket & ~inner & front, 0.62)
    _dim(color, (y > 0.500), 0.80)
    strings = (np.abs(np.abs(phi) - 0.20) < 0.035) & (y > 0.19) & (y < 0.29)
    _set(color, strings, RUBBER if clothes.upper.color.mean() < 0.6 else SOLE * 3)


def _tank_top(color: Array, phi: Array, y: Array, surface: Surface, clothes: Clothes) -> None:
    turned = np.abs(phi)
    neckline = 0.205 + 0.028 * np.clip(np.cos(phi), -0.4, 1.0)
    scoop = (y < neckline) & ((turned < 0.62) | (turned > np.pi - 0.62))
    armhole = (y < 0.262) & (np.abs(turned - np.pi / 2) < 0.62 - 3.0 * np.clip(y - 0.225, 0.0, 1.0))
    bare = scoop | armhole | (y < 0.172)
    _set(color, bare, clothes.skin.color)


def _dress(color: Array, phi: Array, y: Array, surface: Surface, clothes: Clothes) -> None:
    neckline = 0.185 + 0.030 * np.clip(np.cos(phi), -0.2, 1.0)
    _set(color, (y < neckline) & (np.abs(surface.s) < 0.075), clothes.skin.color)
    _dim(color, (y > 0.372) & (y < 0.392), 0.66)
    sway = np.clip((y - 0.40) / 0.3, 0.0, 1.0)
    color *= (1.0 + 0.16 * sway * np.sin(phi * 9.0))[..., None]


def _print(color: Array, phi: Array, y: Array, clothes: Clothes) -> None:
    """A disc with bars on the chest."""
    if clothes.upper.second is None:
        return
    u, v = phi / 0.62, (y - 0.292) / 0.062
    disc = u * u + v * v < 1.0
    hole = ((u * u + v * v < 0.62) & (np.abs(v) > 0.30)) & ~((np.abs(u) < 0.20) & (np.abs(v) < 0.7))
    _set(color, disc & ~hole, clothes.upper.second)


class Upper(NamedTuple):
    """How a garment for the upper body is cut, in body units, and the function of its details."""

    hem: float
    ease: float
    sleeve: str
    """`"short"`, `"long"`, `"none"`, or `"inner"`: long, of the garment below."""
    sleeve_ease: float
    paint: Callable[[Array, Array, Array, Surface, Clothes], None]


UPPERS: dict[str, Upper] = {
    "t-shirt": Upper(0.505, 0.009, "short", 0.008, _crew_neck),
    "shirt": Upper(0.530, 0.010, "long", 0.006, _shirt),
    "hoodie": Upper(0.530, 0.020, "long", 0.013, _hoodie),
    "sweater": Upper(0.520, 0.014, "long", 0.009, _ribbed),
    "jacket": Upper(0.535, 0.020, "long", 0.013, _open_front),
    "coat": Upper(0.730, 0.024, "long", 0.015, _coat),
    "vest": Upper(0.525, 0.024, "inner", 0.004, _padded_vest),
    "tank top": Upper(0.500, 0.002, "none", 0.0, _tank_top),
    "dress": Upper(0.690, 0.003, "short", 0.005, _dress),
}


def denim(color: Array, surface: Surface) -> None:
    worn = 0.22 * np.exp(-((surface.across / 0.45) ** 2)) * (surface.v < 0.40)
    color *= (1.0 + worn)[..., None]
    _dim(color, np.abs(surface.across) > 0.90, 0.75)


def creased(color: Array, surface: Surface) -> None:
    _dim(color, np.abs(surface.across) < 0.07, 1.25)


def pleated(color: Array, surface: Surface) -> None:
    color *= (1.0 + 0.15 * np.sin(surface.across * 15.0) * np.ones_like(surface.v))[..., None]
