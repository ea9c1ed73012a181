"""Draw products that are not for the upper body: skirts, trousers, bags, hats and shoes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..persons.drawing import Array, Point
from .pen import METAL, SOLE, WHITE, Pen, band, bend, both_sides, flipped


_STITCH = np.array([0.86, 0.62, 0.30], dtype=np.float32)


def _waistband(pen: Pen, half: float, top: float) -> None:
    box = [(-half, top), (half, top), (half + 0.004, top + 0.030), (-half - 0.004, top + 0.030)]
    pen.fill(box, pen.plain, edge=0.4)
    pen.seam([(-half, top + 0.030), (half, top + 0.030)], 0.005, 0.5)


def skirt(pen: Pen) -> None:
    pleated, long = pen.details["cut"] == "pleated", pen.details["length"] == "long"
    bottom = 0.550 if long else 0.350
    half = 0.180 if pleated else 0.118
    waist, top = 0.086, 0.070
    side = bend((waist, top), (waist + 0.030, top + 0.08), (half, bottom))
    hem = bend((half, bottom), (half * 0.5, bottom + 0.018), (0.0, bottom + 0.018))
    pen.fill(both_sides([(0.0, top), *side, *hem]))
    if pleated:
        for share in np.linspace(-0.86, 0.86, 9):
            pen.seam([(float(share) * waist, top + 0.03), (float(share) * half, bottom + 0.010)], 0.010, 0.30)
    else:
        pen.seam([(half * 0.55, bottom - 0.085), (half * 0.55, bottom + 0.010)], 0.007, 0.55)
    _waistband(pen, waist, top)


def _legs(pen: Pen, cut: str, bottom: float, *, stitch: Array | None = None) -> None:
    top, waist = 0.045, 0.088
    hip, knee, hem = (0.110, 0.098, 0.090) if cut == "slim" else (0.118, 0.146, 0.172)
    inner = 0.034 if cut == "slim" else 0.038
    crotch = 0.205
    reach = (bottom - 0.20) / 0.36  # length relative to a full leg
    outer_hem = hip + (hem - hip) * reach
    inner_hem = 0.006 + (inner - 0.006) * reach
    outline = [
        (0.0, top),
        (waist, top),
        *bend((waist, top), (hip, top + 0.07), (hip, crotch - 0.02)),
        *bend((hip, crotch - 0.02), (hip + (knee - hip) * reach * 0.6, (crotch + bottom) / 2), (outer_hem, bottom)),
        (inner_hem, bottom + 0.006),
        (0.002, crotch),
    ]
    # Legs are drawn one after the other, so that the edge between them is visible.
    for points in (outline, flipped(outline)):
        pen.fill(points)
    pen.seam([(0.0, top), (0.0, 0.14), (0.0, crotch)], 0.005, 0.4)
    _waistband(pen, waist, top)
    pen.dot(0.0, top + 0.016, 0.0075, METAL if stitch is not None else None)
    for side in (-1, 1):
        hem_line = [(side * outer_hem, bottom - 0.014), (side * inner_hem, bottom - 0.010)]
        mouth = bend((side * 0.050, top + 0.032), (side * 0.058, top + 0.066), (side * hip, top + 0.080))
        pen.seam(mouth, 0.005, 0.45)
        pen.seam(hem_line, 0.004, 0.4)
        if stitch is not None:
            leg = [(side * (hip - 0.008), crotch), (side * (outer_hem - 0.008), bottom - 0.010)]
            for line in ([(x * 0.93, y + 0.004) for x, y in mouth], hem_line, leg):
                pen.stroke(line, 0.0035, stitch)
        elif bottom > 0.5:
            middle = side * (outer_hem + inner_hem) / 2
            pen.seam([(side * hip * 0.52, 0.20), (middle, bottom)], 0.005, 0.28)


def trousers(pen: Pen) -> None:
    _legs(pen, pen.details["cut"], 0.555)


def jeans(pen: Pen) -> None:
    _legs(pen, pen.details["cut"], 0.555, stitch=_STITCH)
    fly = bend((0.020, 0.078), (0.022, 0.150), (0.0, 0.165))
    pen.stroke(fly, 0.0035, _STITCH)


def shorts(pen: Pen) -> None:
    _legs(pen, "wide", 0.340)
    if pen.details["pocket"] == "patch":
        for x in (-0.118, 0.060):
            pen.pocket(x, 0.215, 0.058, 0.075)


def backpack(pen: Pen) -> None:
    for side in (-1, 1):
        strap = bend((side * 0.070, 0.12), (side * 0.205, 0.24), (side * 0.118, 0.46))
        pen.fill(band(strap, 0.030), pen.plain, edge=0.4)
    pen.stroke(bend((-0.036, 0.105), (0.0, 0.018), (0.036, 0.105)), 0.014, pen.plain.color * 0.7)
    edge = [*bend((0.0, 0.080), (0.126, 0.076), (0.132, 0.210)), (0.136, 0.470)]
    pen.fill(both_sides([*edge, *bend((0.136, 0.470), (0.134, 0.515), (0.080, 0.515)), (0.0, 0.515)]))
    pen.zip(bend((-0.116, 0.265), (0.0, 0.020), (0.116, 0.265)))
    if pen.details["pocket"] == "front":
        bag = both_sides(
            [(0.0, 0.310), (0.092, 0.310), *bend((0.100, 0.450), (0.098, 0.488), (0.06, 0.488)), (0.0, 0.488)]
        )
        pen.fill(bag, edge=0.6)
        pen.zip([(-0.080, 0.338), (0.0, 0.338), (0.080, 0.338)])
    else:
        pen.seam([(-0.134, 0.440), (0.134, 0.440)], 0.005, 0.4)


def handbag(pen: Pen) -> None:
    pen.stroke(bend((-0.100, 0.265), (0.0, -0.080), (0.100, 0.265), steps=28), 0.017, pen.plain.color * 0.72)
    corner = bend((0.176, 0.440), (0.178, 0.475), (0.140, 0.475))
    pen.fill(both_sides([(0.0, 0.225), (0.142, 0.225), *corner, (0.0, 0.475)]))
    if pen.details["closure"] == "flap":
        edge = bend((0.164, 0.300), (0.120, 0.392), (0.0, 0.392))
        pen.fill(both_sides([(0.0, 0.215), (0.148, 0.222), *edge]), edge=0.6)
        pen.shadow(band([*edge, *flipped(edge)[::-1][1:]], 0.010), 0.2)
        pen.stroke([(-0.018, 0.392), (0.018, 0.392)], 0.030, METAL)
    else:
        pen.zip([(-0.120, 0.248), (0.0, 0.248), (0.120, 0.248)])
        pen.seam([(-0.170, 0.425), (0.170, 0.425)], 0.005, 0.4)
    for side in (-1, 1):
        pen.dot(side * 0.100, 0.262, 0.010, METAL)


def tote_bag(pen: Pen) -> None:
    long = pen.details["length"] == "long"
    top = 0.265 if long else 0.190
    rise = -0.200 if long else 0.030
    back = bend((-0.076, top + 0.01), (0.0, rise - 0.012), (0.076, top + 0.01), steps=28)
    pen.stroke(back, 0.016, pen.plain.color * 0.6)
    pen.fill(both_sides([(0.0, top), (0.146, top), (0.158, 0.545), (0.0, 0.550)]))
    pen.seam([(-0.148, top + 0.022), (0.148, top + 0.022)], 0.004, 0.4)
    front = bend((-0.076, top + 0.045), (0.0, rise + 0.02), (0.076, top + 0.045), steps=28)
    pen.fill(band(front, 0.018), pen.plain, edge=0.35)


def cap(pen: Pen) -> None:
    crown = [
        *bend((-0.130, 0.370), (-0.140, 0.165), (0.010, 0.160)),
        *bend((0.010, 0.160), (0.110, 0.165), (0.105, 0.355)),
        *bend((0.105, 0.355), (0.0, 0.345), (-0.130, 0.370)),
    ]
    pen.fill(crown)
    for control, end in (((-0.050, 0.200), (-0.050, 0.356)), ((0.060, 0.190), (0.050, 0.350))):
        pen.seam(bend((0.008, 0.160), control, end), 0.005, 0.4)
    pen.dot(0.008, 0.160, 0.010, pen.plain.color * 0.8)
    brim = [
        *bend((-0.010, 0.352), (0.100, 0.335), (0.205, 0.392)),
        *bend((0.205, 0.392), (0.190, 0.410), (0.120, 0.392)),
        *bend((0.120, 0.392), (0.050, 0.380), (-0.010, 0.352)),
    ]
    pen.fill(brim, replace(pen.plain, color=pen.plain.color * 0.82), edge=0.5)
    pen.seam(bend((-0.130, 0.362), (0.0, 0.336), (0.104, 0.346)), 0.006, 0.4)


def beanie(pen: Pen) -> None:
    if pen.details["trim"] == "pompom":
        for angle in np.linspace(0.0, 2 * np.pi, 12, endpoint=False):
            shade = pen.plain.color * (0.92 + 0.10 * np.cos(angle * 3))
            pen.dot(0.030 * float(np.cos(angle)), 0.140 + 0.030 * float(np.sin(angle)), 0.024, shade)
        pen.dot(0.0, 0.140, 0.034, np.clip(pen.plain.color * 1.06, 0, 1))
    dome = [*bend((0.0, 0.165), (0.128, 0.160), (0.132, 0.390)), (0.0, 0.400)]
    pen.fill(both_sides(dome))
    for share in np.linspace(-0.85, 0.85, 9):
        pen.seam(bend((0.02 * share, 0.170), (0.125 * share, 0.22), (0.128 * share, 0.385)), 0.004, 0.16)
    cuff = both_sides([(0.0, 0.362), (0.138, 0.350), (0.142, 0.432), (0.0, 0.446)])
    pen.fill(cuff, pen.plain, edge=0.5)
    for share in np.linspace(-0.94, 0.94, 17):
        pen.seam([(0.138 * share, 0.358), (0.141 * share, 0.440)], 0.005, 0.26)


def sun_hat(pen: Pen) -> None:
    brim = [
        *bend((-0.205, 0.372), (-0.120, 0.300), (0.0, 0.300)),
        *bend((0.0, 0.300), (0.120, 0.300), (0.205, 0.372)),
        *bend((0.205, 0.372), (0.110, 0.440), (0.0, 0.438)),
        *bend((0.0, 0.438), (-0.110, 0.440), (-0.205, 0.372)),
    ]
    pen.fill(brim, pen.plain, edge=0.45)
    pen.seam([(x * 0.90, 0.370 + (y - 0.370) * 0.84) for x, y in brim], 0.003, 0.25)
    crown = [
        *bend((-0.106, 0.365), (-0.108, 0.175), (-0.040, 0.172)),
        *bend((-0.040, 0.172), (0.0, 0.186), (0.040, 0.172)),
        *bend((0.040, 0.172), (0.108, 0.175), (0.106, 0.365)),
        *bend((0.106, 0.365), (0.0, 0.405), (-0.106, 0.365)),
    ]
    pen.fill(crown, pen.plain, edge=0.5)
    if pen.details["trim"] == "ribbon" and pen.second is not None:
        ribbon = [
            *bend((-0.107, 0.318), (0.0, 0.352), (0.107, 0.318)),
            *bend((0.106, 0.366), (0.0, 0.406), (-0.106, 0.366)),
        ]
        pen.fill(ribbon, replace(pen.plain, color=pen.second), edge=0.4)


def _pair(draw: Callable[[Pen, float, float], None], pen: Pen, across: float, down: float) -> None:
    """Draw a pair of shoes, the farther one behind."""
    draw(pen, -across, -down)
    draw(pen, across, down)


def _moved(points: Sequence[Point], x: float, y: float) -> list[Point]:
    return [(point[0] + x, point[1] + y) for point in points]


def sneakers(pen: Pen) -> None:
    _pair(_sneaker, pen, 0.024, 0.085)


def _sneaker(pen: Pen, x: float, y: float) -> None:
    high = pen.details["length"] == "high"
    collar = 0.165 if high else 0.245
    upper = [
        (-0.150, 0.365),
        *bend((-0.150, 0.340), (-0.128, 0.300), (-0.142, collar)),
        *bend((-0.142, collar), (-0.095, collar + 0.030), (-0.050, collar - 0.006)),
        *bend((-0.050, collar - 0.006), (-0.020, 0.275), (0.060, 0.302)),
        *bend((0.060, 0.302), (0.158, 0.306), (0.160, 0.365)),
    ]
    pen.fill(_moved(upper, x, y), edge=0.5)
    toe = [
        *bend((0.090, 0.365), (0.092, 0.316), (0.110, 0.307)),
        *bend((0.110, 0.307), (0.158, 0.314), (0.160, 0.365)),
    ]
    sole = [(-0.156, 0.352), (0.162, 0.352), (0.168, 0.375), (0.158, 0.392), (-0.150, 0.392), (-0.160, 0.378)]
    rubber = replace(pen.plain, color=WHITE)
    pen.fill(_moved(toe, x, y), rubber, edge=0.35)
    pen.fill(_moved(sole, x, y), rubber, edge=0.45)
    laces = WHITE if pen.plain.color.mean() < 0.7 else SOLE
    steps = 6 if high else 4
    for index in range(steps):
        share = index / (steps - 1)
        lx, ly = -0.040 + 0.085 * share, (collar + 0.016) * (1 - share) + 0.300 * share
        pen.stroke(_moved([(lx - 0.016, ly + 0.014), (lx + 0.014, ly - 0.002)], x, y), 0.008, laces)


def boots(pen: Pen) -> None:
    knee = pen.details["length"] == "knee"
    _pair(_boot, pen, 0.060 if knee else 0.030, 0.018 if knee else 0.075)


def _boot(pen: Pen, x: float, y: float) -> None:
    knee, laced = pen.details["length"] == "knee", pen.details["closure"] == "laces"
    top, sole = (0.060, 0.520) if knee else (0.180, 0.385)
    x -= 0.030 if knee else 0.0
    back, shin = -0.105, -0.010
    upper = [
        (back, top),
        (shin, top - 0.006),
        *bend((shin, top), (shin - 0.012, sole - 0.14), (shin + 0.010, sole - 0.105)),
        *bend((shin + 0.010, sole - 0.105), (0.130, sole - 0.090), (0.130, sole - 0.012)),
        (back - 0.006, sole - 0.012),
        *bend((back - 0.006, sole - 0.04), (back + 0.014, sole - 0.12), (back, top)),
    ]
    pen.fill(_moved(upper, x, y), edge=0.5)
    rubber = replace(pen.plain, color=SOLE if pen.plain.color.mean() > 0.25 else SOLE * 2.2)
    base = [(back - 0.010, sole - 0.018), (0.134, sole - 0.018), (0.136, sole), (-0.030, sole), (-0.034, sole + 0.018),
            (back - 0.008, sole + 0.018)]  # fmt: skip
    pen.fill(_moved(base, x, y), rubber, edge=0.4)
    pen.seam(_moved([(back, top + 0.020), (shin, top + 0.016)], x, y), 0.005, 0.4)
    if laced:
        for ly in np.linspace(top + 0.035, sole - 0.115, 9 if knee else 5):
            slant = [(shin - 0.040, ly + 0.012), (shin - 0.006, ly - 0.002)]
            pen.stroke(_moved(slant, x, y), 0.008, pen.ink)
    else:
        pen.zip(_moved([(-0.064, top + 0.020), (-0.062, (top + sole) / 2), (-0.058, sole - 0.045)], x, y))


OTHERS: dict[str, Callable[[Pen], None]] = {
    "skirt": skirt, "trousers": trousers, "jeans": jeans, "shorts": shorts, "backpack": backpack, "handbag": handbag,
    "tote bag": tote_bag, "cap": cap, "beanie": beanie, "sun hat": sun_hat, "sneakers": sneakers, "boots": boots,
}  # fmt: skip
