"""Draw garments for the upper body: sleeves, collars, hoods, closures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..persons.drawing import Point
from .pen import WHITE, Pen, band, bend, both_sides, flipped


@dataclass(frozen=True)
class Cut:
    """Outline of a garment in units: half widths and heights.

    Args:
        shoulder (`float`), chest (`float`), waist (`float`), hem (`float`): half widths.
        top (`float`), bottom (`float`): heights of neck and hem.
        sleeve (`float`): width of a long sleeve.
        neck (`float`): half width of the neck.
    """

    shoulder: float = 0.096
    chest: float = 0.104
    waist: float = 0.102
    hem: float = 0.106
    top: float = 0.085
    bottom: float = 0.49
    sleeve: float = 0.052
    neck: float = 0.044

    @property
    def armpit(self) -> float:
        return self.top + 0.115


def _body(pen: Pen, cut: Cut) -> None:
    middle = cut.top + 0.55 * (cut.bottom - cut.top)
    right = [
        (0.0, cut.top + 0.012),
        (cut.neck, cut.top - 0.010),
        (cut.shoulder, cut.top + 0.020),
        *bend((cut.shoulder, cut.top + 0.020), (cut.shoulder - 0.012, cut.armpit - 0.03), (cut.chest, cut.armpit)),
        *bend((cut.chest, cut.armpit), (cut.waist, middle), (cut.hem, cut.bottom)),
        *bend((cut.hem, cut.bottom), (cut.hem * 0.5, cut.bottom + 0.012), (0.0, cut.bottom + 0.012)),
    ]
    pen.fill(both_sides(right))


def _sleeves(pen: Pen, cut: Cut, length: str, *, cuff: bool = False) -> None:
    if length == "none":
        return
    # Sleeves begin under the body, which is drawn over them.
    top, under = (cut.shoulder - 0.006, cut.top + 0.016), (cut.chest - 0.002, cut.armpit + 0.004)
    inside = [(cut.shoulder - 0.030, cut.armpit - 0.010), (cut.shoulder - 0.030, cut.top + 0.030)]
    if length == "short":
        outer, inner = (cut.shoulder + 0.076, cut.top + 0.098), (cut.shoulder + 0.040, cut.top + 0.138)
    else:
        end = min(cut.top + 0.325, cut.bottom - 0.01)
        outer, inner = (0.206, end), (0.206 - cut.sleeve, end + 0.014)
    control = (cut.shoulder + 0.048, cut.top + 0.040)
    right = [*bend(top, control, outer), inner, under, *inside]
    for points in (right, flipped(right)):
        pen.fill(points)
    hem = [(outer[0] - 0.004, outer[1] - 0.020), (inner[0] - 0.002, inner[1] - 0.022)]
    if cuff:
        edge = [outer, inner, *hem[::-1]]
        for points in (edge, flipped(edge)):
            pen.shadow(points, 0.22)
    for points in (hem, flipped(hem)):
        pen.seam(points, 0.004, 0.4)


def _armholes(pen: Pen, cut: Cut) -> None:
    right = bend((cut.shoulder, cut.top + 0.020), (cut.shoulder - 0.012, cut.armpit - 0.03), (cut.chest, cut.armpit))
    for points in (right, flipped(right)):
        pen.seam(points, 0.005, 0.45)


def _neckline(pen: Pen, cut: Cut, neck: str) -> None:
    """Draw the visible inside of the back above the front's edge, and the ribbing around it."""
    wide, top = cut.neck, cut.top - 0.010
    if neck == "turtle":
        collar = both_sides(
            [(0.0, top - 0.036), (wide - 0.003, top - 0.034), (wide + 0.006, top + 0.018), (0.0, top + 0.032)]
        )
        pen.fill(collar, pen.plain, edge=0.4)
        pen.seam([(-wide, top - 0.006), (0.0, top + 0.002), (wide, top - 0.006)], 0.006, 0.3)
        return
    back = bend((wide, top), (0.0, top + 0.026), (-wide, top))
    if neck == "v":
        front = [(-wide, top), (-0.022, top + 0.050), (0.0, top + 0.092), (0.022, top + 0.050), (wide, top)]
    else:
        front = bend((-wide, top), (0.0, top + 0.100), (wide, top))
    pen.fill([*back, *front[1:-1]], pen.lining)
    pen.canvas.polygon(band(front, 0.012), pen.plain)
    pen.seam(front, 0.012, 0.22)
    pen.seam([(x * 1.12, y + 0.007) for x, y in front], 0.003, 0.35)


def _hood_behind(pen: Pen, cut: Cut) -> None:
    top = cut.top
    outer = [
        (0.0, top - 0.066),
        *bend((0.03, top - 0.064), (cut.neck + 0.048, top - 0.060), (cut.neck + 0.036, top + 0.026)),
        (0.0, top + 0.070),
    ]
    pen.fill(both_sides(outer), edge=0.5)
    inner = [
        (0.0, top - 0.046),
        *bend((0.02, top - 0.044), (cut.neck + 0.026, top - 0.040), (cut.neck + 0.010, top + 0.028)),
        (0.0, top + 0.052),
    ]
    pen.fill(both_sides(inner), pen.lining, edge=0.5)


def _hood_front(pen: Pen, cut: Cut) -> None:
    """Draw the two edges of the hood, which meet on the chest."""
    right = [
        (cut.neck + 0.034, cut.top + 0.004),
        (cut.neck + 0.036, cut.top + 0.030),
        *bend((cut.neck + 0.030, cut.top + 0.036), (0.045, cut.top + 0.066), (0.0, cut.top + 0.080)),
        *bend((0.0, cut.top + 0.052), (0.040, cut.top + 0.040), (cut.neck + 0.008, cut.top)),
    ]
    for points in (right, flipped(right)):
        pen.fill(points, edge=0.5)


def _open_neck(pen: Pen, cut: Cut, depth: float) -> None:
    top, wide = cut.top - 0.010, cut.neck
    pen.fill([*bend((wide, top), (0.0, top + 0.020), (-wide, top)), (0.0, top + depth)], pen.lining)


def _points(pen: Pen, cut: Cut, depth: float, spread: float) -> None:
    """Draw an open collar: two points, or lapels if they are deep."""
    top, wide = cut.top - 0.014, cut.neck
    right = [
        (wide - 0.006, top - 0.006),
        (wide + 0.016, top + 0.010),
        (spread, top + depth * 0.72),
        (0.003, top + depth),
    ]
    for points in (right, flipped(right)):
        pen.fill(points, pen.plain, edge=0.55)


def _front(pen: Pen, cut: Cut, top: float, closure: str, buttons: int) -> None:
    bottom = cut.bottom + 0.008
    if closure == "zip":
        pen.zip([(0.0, y) for y in np.linspace(top, bottom, 4)])
    else:
        pen.seam([(0.016, top), (0.016, bottom)], 0.004, 0.45)
        pen.seam([(-0.016, top), (-0.016, bottom)], 0.003, 0.25)
        pen.buttons(0.0, top + 0.02, cut.bottom - 0.04, buttons)


def _ribbing(pen: Pen, cut: Cut) -> None:
    left, low = -cut.hem, cut.bottom - 0.024
    pen.shadow([(left, low), (cut.hem, low), (cut.hem, cut.bottom + 0.02), (left, cut.bottom + 0.02)], 0.14)
    pen.seam([(left, low), (cut.hem, low)], 0.004, 0.4)
    for x in np.arange(left + 0.008, cut.hem, 0.011):
        pen.seam([(float(x), low), (float(x), cut.bottom)], 0.003, 0.22)


def _belt(pen: Pen, half: float, y: float) -> None:
    leather = pen.ink * 0.9
    pen.stroke([(-half, y), (half, y)], 0.022, leather)
    pen.seam([(-half, y + 0.011), (half, y + 0.011)], 0.004, 0.4)
    buckle = [(-0.014, y - 0.015), (0.014, y - 0.015), (0.014, y + 0.015), (-0.014, y + 0.015)]
    pen.stroke([*buckle, buckle[0], buckle[1]], 0.006, WHITE * 0.72)


def t_shirt(pen: Pen) -> None:
    cut = Cut(hem=0.104)
    _sleeves(pen, cut, pen.details["sleeves"])
    _body(pen, cut)
    _armholes(pen, cut)
    _neckline(pen, cut, pen.details["neck"])
    pen.seam([(-cut.hem, cut.bottom - 0.012), (cut.hem, cut.bottom - 0.012)], 0.003, 0.3)
    if pen.details["pocket"] == "chest":
        pen.pocket(0.024, cut.armpit + 0.010, 0.052, 0.060)


def shirt(pen: Pen) -> None:
    cut = Cut(shoulder=0.100, chest=0.108, waist=0.104, hem=0.110)
    _sleeves(pen, cut, pen.details["sleeves"], cuff=True)
    _body(pen, cut)
    _armholes(pen, cut)
    _open_neck(pen, cut, 0.045)
    _front(pen, cut, cut.top + 0.034, "buttons", 6)
    _points(pen, cut, 0.052, 0.052)
    if pen.details["pocket"] == "chest":
        pen.pocket(0.034, cut.armpit + 0.008, 0.050, 0.060)


def sweater(pen: Pen) -> None:
    cut = Cut(shoulder=0.102, chest=0.112, waist=0.114, hem=0.104, sleeve=0.056, bottom=0.475)
    _sleeves(pen, cut, "long", cuff=True)
    _body(pen, cut)
    _armholes(pen, cut)
    for x in np.arange(-0.10, 0.11, 0.02):  # the knit
        pen.seam([(float(x), cut.top + 0.05), (float(x), cut.bottom - 0.02)], 0.003, 0.10)
    _neckline(pen, cut, pen.details["neck"])
    _ribbing(pen, cut)


def hoodie(pen: Pen) -> None:
    cut = Cut(shoulder=0.104, chest=0.116, waist=0.116, hem=0.106, sleeve=0.058, top=0.115, bottom=0.495)
    _hood_behind(pen, cut)
    _sleeves(pen, cut, "long", cuff=True)
    _body(pen, cut)
    _armholes(pen, cut)
    _hood_behind(pen, cut)
    _hood_front(pen, cut)
    _ribbing(pen, cut)
    pouch = both_sides([(0.0, 0.375), (0.046, 0.375), (0.074, 0.435), (0.074, 0.466), (0.0, 0.466)])
    pen.shadow(pouch, 0.12)
    pen.seam([*pouch, pouch[0], pouch[1]], 0.005, 0.5)
    if pen.details["closure"] == "zip":
        _front(pen, cut, cut.top + 0.066, "zip", 0)
    for side in (-1, 1):
        pen.stroke([(side * 0.016, cut.top + 0.070), (side * 0.020, 0.24), (side * 0.018, 0.27)], 0.006, pen.ink)


def _jacket_neck(pen: Pen, cut: Cut, depth: float) -> None:
    if pen.details["hood"] == "hood":
        _hood_behind(pen, cut)
        _hood_front(pen, cut)
        return
    _open_neck(pen, cut, depth - 0.006)
    _points(pen, cut, depth, 0.052 + 0.16 * (depth - 0.05))


def jacket(pen: Pen) -> None:
    cut = Cut(shoulder=0.108, chest=0.120, waist=0.116, hem=0.112, sleeve=0.060, top=0.115, bottom=0.475)
    _sleeves(pen, cut, "long", cuff=True)
    _body(pen, cut)
    _armholes(pen, cut)
    _front(pen, cut, cut.top + 0.055, pen.details["closure"], 5)
    _jacket_neck(pen, cut, 0.068)
    pen.seam([(-cut.hem, cut.bottom - 0.022), (cut.hem, cut.bottom - 0.022)], 0.005, 0.45)
    if pen.details["pocket"] == "patch":
        for x in (-0.090, 0.032):
            pen.pocket(x, 0.345, 0.058, 0.080)


def coat(pen: Pen) -> None:
    long = pen.details["length"] == "long"
    cut = Cut(shoulder=0.092, chest=0.104, waist=0.092, hem=0.130 if long else 0.118, sleeve=0.054,
              top=0.095, bottom=0.560 if long else 0.430)  # fmt: skip
    _sleeves(pen, cut, "long", cuff=True)
    _body(pen, cut)
    _armholes(pen, cut)
    _front(pen, cut, cut.top + 0.110, "buttons", 5 if long else 4)
    _jacket_neck(pen, cut, 0.068 if pen.details["hood"] == "hood" else 0.125)
    if pen.details["belt"] == "belt":
        _belt(pen, 0.100, 0.300)
    else:
        for x in (-1, 1):
            pen.seam([(x * 0.046, 0.350), (x * 0.090, 0.338)], 0.011, 0.45)


def dress(pen: Pen) -> None:
    long = pen.details["length"] == "long"
    bottom, half = (0.565, 0.165) if long else (0.425, 0.140)
    sleeves = pen.details["sleeves"]
    cut = Cut(shoulder=0.080 if sleeves != "none" else 0.070, chest=0.090, waist=0.074, hem=half, top=0.060,
              bottom=bottom, sleeve=0.040, neck=0.040)  # fmt: skip
    _sleeves(pen, cut, sleeves)
    waist = 0.240
    right: Sequence[Point] = [
        (0.0, cut.top + 0.012),
        (cut.neck, cut.top - 0.010),
        (cut.shoulder, cut.top + 0.016),
        *bend((cut.shoulder, cut.top + 0.016), (cut.shoulder - 0.016, cut.armpit - 0.03), (cut.chest, cut.armpit)),
        *bend((cut.chest, cut.armpit), (cut.waist, waist - 0.02), (cut.waist, waist)),
        *bend((cut.waist, waist), (cut.waist + 0.026, waist + 0.05), (half, bottom)),
        *bend((half, bottom), (half * 0.5, bottom + 0.016), (0.0, bottom + 0.016)),
    ]
    pen.fill(both_sides(right))
    if sleeves != "none":
        _armholes(pen, cut)
    _neckline(pen, cut, "round")
    for share in (-0.7, -0.4, -0.1, 0.2, 0.5, 0.75):
        pen.seam([(share * cut.waist, waist + 0.02), (share * half, bottom + 0.004)], 0.006, 0.16)
    if pen.details["belt"] == "belt":
        _belt(pen, cut.waist + 0.002, waist)
    else:
        pen.seam([(-cut.waist, waist), (cut.waist, waist)], 0.004, 0.4)


TOPS: dict[str, Callable[[Pen], None]] = {
    "t-shirt": t_shirt, "shirt": shirt, "sweater": sweater, "hoodie": hoodie, "jacket": jacket, "coat": coat,
    "dress": dress,
}  # fmt: skip
