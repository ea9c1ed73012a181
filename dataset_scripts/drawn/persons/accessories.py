"""Draw accessories: bags, scarves, ties and objects held in a hand."""

import numpy as np

from .attributes import Person
from .body import Body
from .drawing import Canvas, Cloth, Point


METAL = np.array([0.55, 0.56, 0.58], dtype=np.float32)
DARK = np.array([0.09, 0.09, 0.10], dtype=np.float32)


def _box(x: float, top: float, bottom: float, half: float, low_half: float) -> list[Point]:
    """Returns: the corners of a box around `x` with these half widths at its top and bottom."""
    return [(x - half, top), (x + half, top), (x + low_half, bottom), (x - low_half, bottom)]


def _bag_cloth(person: Person, body: Body) -> Cloth:
    return Cloth(body.style.shade_of(person.bag_color, 5), folds=0.06, offset=0.7)


def draw_bag_behind(canvas: Canvas, person: Person, body: Body) -> None:
    """Draw a backpack that the body partly hides."""
    if person.bag != "backpack" or body.cos < -0.35:
        return
    cloth, y = _bag_cloth(person, body), body.drop
    x = body.spine(0.3) - 0.118 * body.sin
    half = body.half(0.088, 0.055)
    canvas.limb((x, 0.225 + y), (x, 0.405 + y), half * 0.92, half, cloth)


def draw_bag_in_front(canvas: Canvas, person: Person, body: Body) -> None:
    """Draw bags and straps in front of the torso."""
    if person.bag == "backpack":
        _draw_backpack(canvas, person, body)
    elif person.bag == "shoulder bag":
        _draw_shoulder_bag(canvas, person, body)


def _draw_backpack(canvas: Canvas, person: Person, body: Body) -> None:
    cloth, y = _bag_cloth(person, body), body.drop
    dark = Cloth(cloth.color * 0.66, folds=0.03)
    if body.cos < -0.35:
        x = body.spine(0.3) - 0.045 * body.sin
        half = body.half(0.088, 0.075)
        canvas.limb((x, 0.165 + y), (x, 0.20 + y), 0.012, 0.012, dark)
        canvas.limb((x, 0.245 + y), (x, 0.385 + y), half * 0.93, half, cloth)
        canvas.limb((x - half * 0.55, 0.385 + y), (x + half * 0.55, 0.385 + y), 0.040, 0.040,
                    Cloth(cloth.color * 0.86, folds=0.06))  # fmt: skip
        canvas.limb((x - half * 0.74, 0.350 + y), (x + half * 0.74, 0.350 + y), 0.0045, 0.0045, dark)
        canvas.limb((x - half * 0.80, 0.235 + y), (x + half * 0.80, 0.235 + y), 0.0045, 0.0045, dark)
        return
    for side in (1, -1):
        angle = side * 0.47
        if np.cos(angle + body.yaw) < 0.12:
            continue
        top_half = body.half(0.100, 0.060)
        low_half = body.half(0.116, 0.084)
        top = (body.spine(0.18) + top_half * float(np.sin(angle + body.yaw)), 0.176 + y)
        low = (body.spine(0.33) + low_half * float(np.sin(angle * 1.15 + body.yaw)), 0.345 + y)
        canvas.limb(top, low, 0.0145, 0.0135, cloth, ambient=0.8)
        canvas.limb(low, (low[0] + side * body.cos * 0.025, low[1] + 0.03), 0.010, 0.006, dark)


def _draw_shoulder_bag(canvas: Canvas, person: Person, body: Body) -> None:
    cloth, y = _bag_cloth(person, body), body.drop
    side = body.carry_side
    strap = Cloth(cloth.color * 0.82, folds=0.03)
    far_shoulder = body.project(-side * 0.070, 0.178 + y, 0.0)
    hip = body.project(side * 0.128, 0.470 + y, 0.015)
    x0 = far_shoulder.x + body.spine(0.18)
    canvas.limb((x0, far_shoulder.y), (hip.x, hip.y - 0.03), 0.009, 0.009, strap, ambient=0.8)
    half = max(body.half(0.050, 0.080), 0.052)
    box = _box(hip.x, hip.y - 0.042, hip.y + 0.062, half, half * 0.94)
    canvas.polygon([(px + 0.008, py + 0.010) for px, py in box], cloth, shadow=0.35)
    canvas.polygon(box, cloth)
    flap = [(hip.x - half, hip.y - 0.042), (hip.x + half, hip.y - 0.042), (hip.x + half * 0.96, hip.y + 0.012),
            (hip.x, hip.y + 0.022), (hip.x - half * 0.96, hip.y + 0.012)]  # fmt: skip
    canvas.polygon(flap, Cloth(cloth.color * 0.80))
    canvas.ellipse((hip.x, hip.y + 0.016), 0.006, 0.006, Cloth(METAL * 1.3))


def draw_neck(canvas: Canvas, person: Person, body: Body) -> None:
    """Draw a scarf or a tie."""
    if person.neck == "none":
        return
    cloth = Cloth(body.style.shade_of(person.neck_color, 7), folds=0.22, offset=0.15)
    x, y = body.spine(0.17), body.drop
    if person.neck == "tie":
        phi = body.yaw
        if abs(phi) > 1.3:
            return
        knot = (x + body.half(0.045, 0.045) * float(np.sin(phi)), 0.190 + y)
        tip = (body.spine(0.4) + body.half(0.100, 0.078) * float(np.sin(phi)), 0.415 + y)
        narrow = max(0.35, float(np.cos(phi)))
        canvas.limb(knot, tip, 0.010 * narrow, 0.022 * narrow, cloth, ambient=0.8)
        canvas.ellipse(tip, 0.020 * narrow, 0.026, cloth, ambient=0.8)
        canvas.ellipse(knot, 0.015 * narrow, 0.012, Cloth(cloth.color * 0.8), ambient=0.8)
        return
    wide = body.half(0.064, 0.060)
    if abs(body.yaw) < 1.9:
        end = (x + 0.030 * body.cos + 0.055 * body.sin, 0.345 + y)
        canvas.limb((x + 0.028 * body.cos + 0.03 * body.sin, 0.19 + y), end, 0.024, 0.026, cloth, flat_end=True)
    canvas.ellipse((x, 0.176 + y), wide, 0.032, cloth)
    canvas.ellipse((x + 0.004 * body.sin, 0.158 + y), wide * 0.86, 0.022, Cloth(cloth.color * 0.86, folds=0.2))


def draw_held(canvas: Canvas, person: Person, body: Body, hand: Point, *, bag: bool, held: bool) -> None:
    """Draw the bag or the object in a hand."""
    x, y = hand
    if bag and person.bag == "handbag":
        cloth = _bag_cloth(person, body)
        for shift in (-0.022, 0.022):
            canvas.limb((x, y), (x + shift, y + 0.055), 0.005, 0.005, Cloth(cloth.color * 0.75))
        canvas.polygon(_box(x, y + 0.05, y + 0.128, 0.044, 0.060), cloth)
        canvas.limb((x - 0.045, y + 0.070), (x + 0.045, y + 0.070), 0.004, 0.004, Cloth(cloth.color * 0.6))
        canvas.ellipse((x, y + 0.074), 0.008, 0.007, Cloth(METAL * 1.4))
    elif bag and person.bag == "tote":
        cloth = _bag_cloth(person, body)
        for shift in (-0.030, 0.030):
            canvas.limb((x, y), (x + shift, y + 0.075), 0.005, 0.005, Cloth(cloth.color * 0.8))
        canvas.polygon(_box(x, y + 0.07, y + 0.235, 0.062, 0.055), cloth)
        light = np.full(3, 0.92 if cloth.color.mean() < 0.55 else 0.2, dtype=np.float32)
        canvas.limb((x - 0.022, y + 0.150), (x + 0.022, y + 0.150), 0.012, 0.012, Cloth(light))
    elif bag and person.bag == "suitcase":
        cloth = _bag_cloth(person, body)
        ground = 0.985 if body.cos > -0.3 else 0.97
        top = y + 0.11
        for shift in (-0.030, 0.030):
            canvas.limb((x + shift, y), (x + shift, top), 0.004, 0.004, Cloth(METAL))
        canvas.limb((x - 0.030, y), (x + 0.030, y), 0.006, 0.006, Cloth(DARK))
        half = 0.078
        canvas.polygon(_box(x, top, ground - 0.012, half, half), cloth)
        for share in (-0.5, 0.0, 0.5):
            canvas.limb((x + half * share, top + 0.02), (x + half * share, ground - 0.03), 0.005, 0.005,
                        Cloth(cloth.color * 0.72))  # fmt: skip
        for share in (-0.75, 0.75):
            canvas.ellipse((x + half * share, ground - 0.004), 0.011, 0.011, Cloth(DARK))
    if not held:
        return
    if person.held == "phone":
        canvas.polygon(_box(x, y - 0.040, y + 0.022, 0.016, 0.016), Cloth(DARK))
        screen = Cloth(np.array([0.55, 0.75, 0.95], dtype=np.float32))
        canvas.polygon(_box(x, y - 0.034, y + 0.014, 0.011, 0.011), screen)
    elif person.held == "bottle":
        blue = Cloth(np.array([0.45, 0.74, 0.90], dtype=np.float32), folds=0.05)
        canvas.limb((x, y - 0.030), (x, y + 0.050), 0.019, 0.019, blue)
        canvas.limb((x, y - 0.062), (x, y - 0.045), 0.009, 0.010, Cloth(np.array([0.9, 0.9, 0.92], dtype=np.float32)))
    elif person.held == "cup":
        paper = Cloth(np.array([0.95, 0.95, 0.93], dtype=np.float32))
        canvas.limb((x, y - 0.040), (x, y + 0.022), 0.022, 0.016, paper, flat_start=True, flat_end=True)
        canvas.limb((x - 0.020, y - 0.042), (x + 0.020, y - 0.042), 0.006, 0.006, Cloth(DARK * 3.0))
        canvas.limb((x, y - 0.018), (x, y - 0.002), 0.019, 0.018, Cloth(np.array([0.55, 0.36, 0.2], dtype=np.float32)),
                    flat_start=True, flat_end=True)  # fmt: skip
    elif person.held == "umbrella":
        rng = np.random.default_rng((body.style.seed, 8))
        shade = [(0.10, 0.10, 0.12), (0.6, 0.1, 0.14), (0.1, 0.2, 0.5)][int(rng.integers(3))]
        cloth = Cloth(np.array(shade, dtype=np.float32), folds=0.2)
        canvas.limb((x, y - 0.055), (x, y + 0.02), 0.0075, 0.0075, Cloth(np.array([0.45, 0.28, 0.14], np.float32)))
        canvas.limb((x, y + 0.02), (x + 0.012, y + 0.30), 0.022, 0.008, cloth)
        canvas.limb((x + 0.012, y + 0.30), (x + 0.014, y + 0.335), 0.004, 0.003, Cloth(METAL))
