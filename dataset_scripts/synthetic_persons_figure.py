"""Draw one person: clothes on a posed body, from the shoes up and from the back to the front."""

from dataclasses import replace

import numpy as np
from PIL import Image

from .synthetic_persons_accessories import draw_bag_behind, draw_bag_in_front, draw_held, draw_neck
from .synthetic_persons_attributes import Person, View
from .synthetic_persons_body import PITCH, Body, Limb
from .synthetic_persons_drawing import Array, Canvas, Cloth, Surface
from .synthetic_persons_head import draw_hair_behind, draw_head


HEM = {
    "t-shirt": 0.505, "shirt": 0.530, "hoodie": 0.530, "sweater": 0.520, "jacket": 0.535, "coat": 0.730, "vest": 0.525,
    "tank top": 0.500, "dress": 0.690,
}  # fmt: skip
EASE = {
    "t-shirt": 0.009, "shirt": 0.010, "hoodie": 0.020, "sweater": 0.014, "jacket": 0.020, "coat": 0.024, "vest": 0.024,
    "tank top": 0.002, "dress": 0.003,
}  # fmt: skip
SLEEVE = {"t-shirt": "short", "tank top": "none", "dress": "short", "vest": "inner"}  # the others are long
SLEEVE_EASE = {
    "t-shirt": 0.008, "shirt": 0.006, "hoodie": 0.013, "sweater": 0.009, "jacket": 0.013, "coat": 0.015,
    "vest": 0.004, "dress": 0.005, "tank top": 0.0,
}  # fmt: skip
SOLE = np.array([0.10, 0.09, 0.09], dtype=np.float32)
RUBBER = np.array([0.90, 0.90, 0.88], dtype=np.float32)


class Wardrobe:
    """The cloth of every part of one person."""

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
        self.sleeve = self.inner if SLEEVE.get(person.upper) == "inner" else sleeve
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


def draw_person(person: Person, view: View, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Draw a person alone.

    Args:
        person (`Person`): who.
        view (`View`): from where, in which pose; its occluder is not drawn.
        size (`tuple[int, int]`): (height, width) of the picture in pixels.
        rng (`np.random.Generator`): draws what differs between two pictures of one view.

    Returns:
        `PIL.Image.Image`: RGBA, transparent around the person, who stands in the middle and fills most of the height.
    """
    height, width = size
    zoom = 2 if height < 200 else 1
    scale = min(0.93 * height, width / 0.40) * zoom
    top = (height * zoom - scale) / 2
    canvas = Canvas(height * zoom, width * zoom, scale, width * zoom / 2, top, float(rng.uniform(-0.6, 0.6)))
    draw_figure(canvas, person, view, rng)
    image = canvas.image()
    return image if zoom == 1 else image.resize((width, height), Image.Resampling.BOX)


def draw_figure(canvas: Canvas, person: Person, view: View, rng: np.random.Generator) -> None:
    """Draw a person onto a canvas whose (0, 0) is the top of the head."""
    body = Body(person, view, rng)
    clothes = Wardrobe(person, body)
    draw_hair_behind(canvas, person, body)
    draw_bag_behind(canvas, person, body)
    far = [arm for arm in body.arms if arm.depth < -0.035]
    near = [arm for arm in body.arms if arm.depth >= -0.035]
    for arm in far:
        _draw_arm(canvas, person, body, clothes, arm)
    for leg in body.legs:
        _draw_leg(canvas, person, body, clothes, leg)
    _draw_pelvis(canvas, person, body, clothes)
    _draw_torso(canvas, person, body, clothes)
    draw_neck(canvas, person, body)
    draw_head(canvas, person, body, clothes.upper if person.upper == "hoodie" else None)
    draw_bag_in_front(canvas, person, body)
    for arm in near:
        _draw_arm(canvas, person, body, clothes, arm)


def _draw_leg(canvas: Canvas, person: Person, body: Body, clothes: Wardrobe, leg: Limb) -> None:
    hip, knee, ankle = leg.start.point, leg.middle.point, leg.end.point
    girth = body.style.girth
    thigh, calf, thin = 0.060 * girth, 0.043 * girth, 0.026
    cloth, skin = replace(clothes.lower, offset=0.63 + 0.2 * leg.side), clothes.skin
    kind = person.lower
    boots = person.shoes == "boots"
    if kind in ("shorts", "skirt", "none"):
        canvas.limb(hip, knee, thigh, calf, skin)
        canvas.limb(knee, ankle, calf, thin, skin)
        _draw_shoe(canvas, person, body, clothes, leg)
        if kind == "shorts":
            end = _between(hip, knee, 0.84)
            canvas.limb(hip, end, thigh + 0.012, 0.060 * girth + 0.008, cloth, flat_end=True)
        return
    loose = {"jeans": 0.004, "trousers": 0.008, "joggers": 0.010, "leggings": -0.003, "wide trousers": 0.012}[kind]
    knee_radius = {"wide trousers": 0.061}.get(kind, calf + loose)
    hem_radius = {"jeans": 0.034, "trousers": 0.039, "joggers": 0.034, "leggings": 0.026, "wide trousers": 0.070}[kind]
    if not boots:
        _draw_shoe(canvas, person, body, clothes, leg)
    if kind == "leggings":
        canvas.limb(knee, ankle, calf, thin, skin)
    end = _between(knee, ankle, {"leggings": 0.90, "wide trousers": 1.08}.get(kind, 1.02))
    paint = _denim(cloth) if kind == "jeans" else _crease(cloth) if kind == "trousers" else cloth
    canvas.limb(hip, knee, thigh + loose, knee_radius, paint)
    canvas.limb(knee, end, knee_radius, hem_radius, paint, flat_end=True, v0=0.23)
    if kind == "joggers":
        stripe = Cloth(RUBBER if cloth.color.mean() < 0.6 else SOLE)
        canvas.limb(_between(knee, ankle, 0.90), end, 0.030, 0.028, replace(cloth, color=cloth.color * 0.8),
                    flat_end=True, flat_start=True)  # fmt: skip
        if body.sin * leg.side <= 0.45:  # the outer seam is turned to the camera
            out = leg.side * body.cos * 0.8
            canvas.limb(_shift(hip, out * thigh), _shift(knee, out * calf), 0.0055, 0.0055, stripe, ambient=0.8)
            canvas.limb(_shift(knee, out * calf), _shift(ankle, out * 0.028), 0.0055, 0.0045, stripe, ambient=0.8)
    if boots:
        _draw_shoe(canvas, person, body, clothes, leg)


def _draw_shoe(canvas: Canvas, person: Person, body: Body, clothes: Wardrobe, leg: Limb) -> None:
    ankle = leg.end
    out = 0.18 * leg.side
    forward = (np.sin(out), np.cos(out))
    lifted = 0.957 - (ankle.y - PITCH * ankle.depth)
    tilt = -float(np.clip(4.0 * lifted, 0.0, 0.5))  # a raised heel points the toes down

    def place(reach: float, down: float) -> tuple[float, float]:
        joint = body.project(forward[0] * reach, 0.0, forward[1] * reach)
        return (ankle.x + joint.x, ankle.y + down + joint.y - tilt * reach)

    kind, cloth = person.shoes, clothes.shoes
    radius = {"sneakers": 0.029, "boots": 0.031, "sandals": 0.024, "dress shoes": 0.025}[kind]
    light = cloth.color.mean() > 0.7
    sole = {"sneakers": RUBBER * (0.72 if light else 1.0), "sandals": cloth.color * 0.6}.get(kind, SOLE)
    canvas.limb(place(-0.016, 0.019), place(0.082, 0.024), radius, radius * 0.86, Cloth(sole), ambient=0.7)
    if kind == "boots":
        canvas.limb(_between(leg.middle.point, ankle.point, 0.52), place(0.0, 0.005), 0.041, 0.034, cloth,
                    flat_start=True)  # fmt: skip
    top = clothes.skin if kind == "sandals" else cloth
    canvas.limb(place(-0.014, 0.010), place(0.080, 0.018), radius * 0.98, radius * 0.76, top)
    if kind == "sneakers":
        canvas.limb(place(0.030, 0.000), place(0.056, 0.008), 0.007, 0.006, Cloth(RUBBER if not light else SOLE * 3))
    elif kind == "dress shoes":
        canvas.limb(place(0.055, 0.006), place(0.072, 0.010), 0.006, 0.005, Cloth(cloth.color * 0.4 + 0.55))
    elif kind == "sandals":
        for reach in (0.02, 0.062):
            across = body.project(0.024, 0.0, 0.0).x
            x, y = place(reach, 0.004)
            canvas.limb((x - across, y + 0.008), (x + across, y), 0.008, 0.008, cloth)


def _draw_pelvis(canvas: Canvas, person: Person, body: Body, clothes: Wardrobe) -> None:
    if person.lower == "none":
        return
    ys, centers, halves = body.torso(0.006, 0.520)
    keep = [index for index, y in enumerate(ys) if y > 0.40 + body.drop]
    ys, centers, halves = ([values[index] for index in keep] for values in (ys, centers, halves))
    ys, centers, halves = [0.42 + body.drop, *ys], [centers[0], *centers], [halves[0] * 0.97, *halves]
    if person.lower != "skirt":
        crotch = 0.555 + body.drop
        canvas.tube([*ys, crotch], [*centers, 0.0], [*halves, halves[-1] * 0.86], clothes.lower)
        return
    bottom = 0.700 + body.drop
    wide = max(body.half(0.148, 0.128), _leg_reach(body, bottom) + 0.018)
    canvas.tube([*ys, bottom], [*centers, 0.0], [*halves, wide], _pleats(clothes.lower), hem=0.014)


def _leg_reach(body: Body, y: float) -> float:
    """Returns: how far the legs reach from the middle at height `y`, with their flesh."""
    reach = 0.0
    for leg in body.legs:
        x = np.interp(y, [leg.start.y, leg.middle.y, leg.end.y], [leg.start.x, leg.middle.x, leg.end.x])
        reach = max(reach, abs(float(x)) + 0.042)
    return reach


def _draw_torso(canvas: Canvas, person: Person, body: Body, clothes: Wardrobe) -> None:
    kind = person.upper
    if kind in ("tank top", "dress"):
        ys, centers, halves = body.torso(0.0, 0.30)
        canvas.tube(ys, centers, halves, clothes.skin)
    bottom = HEM[kind]
    ys, centers, halves = body.torso(EASE[kind], min(bottom, 0.520))
    if bottom > 0.520:
        flare = {"dress": (0.150, 0.130), "coat": (0.138, 0.118)}.get(kind)
        wide = body.half(*flare) if flare else halves[-1]
        if flare:
            wide = max(wide, _leg_reach(body, bottom + body.drop) + 0.014)
        ys, centers, halves = [*ys, bottom + body.drop], [*centers, 0.0], [*halves, wide]
    paint = _UPPER_PAINTS.get(kind)
    drop = body.drop

    def colored(surface: Surface) -> Array:
        color = clothes.upper(surface)
        phi, y = body.around(surface.across), surface.v - drop
        if paint is not None:
            paint(color, phi, y, surface, clothes)
        if person.upper_pattern == "printed":
            _print(color, phi, y, clothes)
        return color

    canvas.tube(ys, centers, halves, colored, hem=0.010 if bottom > 0.6 else 0.006)


def _set(color: Array, where: Array, value: Array) -> None:
    np.copyto(color, value, where=np.broadcast_to(where, color.shape[:2])[..., None])


def _dim(color: Array, where: Array, factor: float) -> None:
    color *= np.where(np.broadcast_to(where, color.shape[:2]), np.float32(factor), np.float32(1.0))[..., None]


def _crew_neck(color: Array, phi: Array, y: Array, surface: Surface, clothes: Wardrobe) -> None:
    neckline = 0.172 + 0.022 * np.cos(np.clip(phi * 1.1, -np.pi, np.pi))
    _dim(color, (y < neckline + 0.009), 0.80)
    _set(color, y < neckline, clothes.skin.color)


def _ribbed(color: Array, phi: Array, y: Array, surface: Surface, clothes: Wardrobe) -> None:
    _crew_neck(color, phi, y, surface, clothes)
    rib = (y > 0.497) & (np.sin(surface.s * 700.0) > 0.0)
    _dim(color, rib | ((y > 0.494) & (y < 0.499)), 0.78)
    color *= (1.0 + 0.05 * np.sin(surface.s * 420.0) * np.ones_like(surface.v))[..., None]


def _shirt(color: Array, phi: Array, y: Array, surface: Surface, clothes: Wardrobe) -> None:
    front = np.abs(phi) < 0.06
    opening = (y < 0.205) & (np.abs(phi) < 0.55 * (0.205 - y) / 0.05)
    collar = (y < 0.192) & ~opening
    _dim(color, collar & (y > 0.184), 0.72)
    _dim(color, front & (np.abs(phi) > 0.035), 0.70)
    buttons = (np.abs(phi) < 0.035) & ((y % 0.052) < 0.010) & (y > 0.2)
    light = clothes.upper.color.mean() > 0.5
    _set(color, buttons, np.full(3, 0.25 if light else 0.85, dtype=np.float32))
    _set(color, opening, clothes.skin.color)


def _open_front(color: Array, phi: Array, y: Array, surface: Surface, clothes: Wardrobe) -> None:
    gap = 0.36 + 0.75 * np.clip(y - 0.28, 0.0, 1.0) + 0.5 * np.clip(0.26 - y, 0.0, 0.1)
    _dim(color, np.abs(phi) < gap + 0.14, 0.84)
    inside = np.abs(phi) < gap
    _set(color, inside, clothes.inner.color)
    _dim(color, inside & (np.abs(phi) > gap - 0.10), 0.72)
    _set(color, (y < 0.182) & (np.abs(phi) < 0.7), clothes.skin.color)
    back = np.abs(phi) > 1.9
    _dim(color, back & (y > 0.185) & (y < 0.192), 0.72)
    _dim(color, (y > 0.505) & (np.abs(phi) > gap), 0.82)


def _padded_vest(color: Array, phi: Array, y: Array, surface: Surface, clothes: Wardrobe) -> None:
    quilt = np.abs(np.sin(y * np.pi / 0.048))
    color *= (0.72 + 0.34 * quilt * np.ones_like(phi))[..., None]
    _open_front(color, phi, y, surface, clothes)


def _coat(color: Array, phi: Array, y: Array, surface: Surface, clothes: Wardrobe) -> None:
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


def _hoodie(color: Array, phi: Array, y: Array, surface: Surface, clothes: Wardrobe) -> None:
    front = np.abs(phi) < 1.5
    pocket = (np.abs(phi) < 0.85 - 3.2 * np.clip(0.47 - y, 0.0, 1.0)) & (y > 0.405) & (y < 0.492)
    inner = (np.abs(phi) < 0.78 - 3.2 * np.clip(0.47 - y, 0.0, 1.0)) & (y > 0.411) & (y < 0.487)
    _dim(color, pocket & ~inner & front, 0.62)
    _dim(color, (y > 0.500), 0.80)
    strings = (np.abs(np.abs(phi) - 0.20) < 0.035) & (y > 0.19) & (y < 0.29)
    _set(color, strings, RUBBER if clothes.upper.color.mean() < 0.6 else SOLE * 3)


def _tank_top(color: Array, phi: Array, y: Array, surface: Surface, clothes: Wardrobe) -> None:
    turned = np.abs(phi)
    neckline = 0.205 + 0.028 * np.clip(np.cos(phi), -0.4, 1.0)
    scoop = (y < neckline) & ((turned < 0.62) | (turned > np.pi - 0.62))
    armhole = (y < 0.262) & (np.abs(turned - np.pi / 2) < 0.62 - 3.0 * np.clip(y - 0.225, 0.0, 1.0))
    bare = scoop | armhole | (y < 0.172)
    _set(color, bare, clothes.skin.color)


def _dress(color: Array, phi: Array, y: Array, surface: Surface, clothes: Wardrobe) -> None:
    neckline = 0.185 + 0.030 * np.clip(np.cos(phi), -0.2, 1.0)
    _set(color, y < neckline, clothes.skin.color)
    _dim(color, (y > 0.372) & (y < 0.392), 0.66)
    sway = np.clip((y - 0.40) / 0.3, 0.0, 1.0)
    color *= (1.0 + 0.16 * sway * np.sin(phi * 9.0))[..., None]


def _print(color: Array, phi: Array, y: Array, clothes: Wardrobe) -> None:
    """A badge of bars and a disc on the chest."""
    if clothes.upper.second is None:
        return
    u, v = phi / 0.62, (y - 0.292) / 0.062
    disc = u * u + v * v < 1.0
    hole = ((u * u + v * v < 0.62) & (np.abs(v) > 0.30)) & ~((np.abs(u) < 0.20) & (np.abs(v) < 0.7))
    _set(color, disc & ~hole, clothes.upper.second)


_UPPER_PAINTS = {
    "t-shirt": _crew_neck, "sweater": _ribbed, "shirt": _shirt, "jacket": _open_front, "vest": _padded_vest,
    "coat": _coat, "hoodie": _hoodie, "tank top": _tank_top, "dress": _dress,
}  # fmt: skip


def _draw_arm(canvas: Canvas, person: Person, body: Body, clothes: Wardrobe, arm: Limb) -> None:
    shoulder, elbow, wrist = arm.start.point, arm.middle.point, arm.end.point
    slim = 0.88 if body.woman else 1.0
    girth = 0.5 + 0.5 * body.style.girth
    big, mid, thin = 0.037 * slim * girth, 0.029 * slim * girth, 0.021 * slim
    kind = person.upper
    ease = SLEEVE_EASE[kind]
    sleeve = replace(clothes.sleeve, offset=0.11 + 0.31 * arm.side)
    if clothes.sleeve.pattern == "two-tone":
        sleeve = replace(sleeve, pattern="plain")
    skin = clothes.skin
    if arm.depth > -0.02:  # the arm shades what is behind it
        shift = 0.010 if canvas.light < 0 else -0.010
        outline = big + ease + 0.004
        canvas.polygon(
            [(shoulder[0] + shift - outline, shoulder[1] + 0.03), (shoulder[0] + shift + outline, shoulder[1] + 0.03),
             (elbow[0] + shift + outline, elbow[1]), (wrist[0] + shift + thin, wrist[1]),
             (wrist[0] + shift - thin, wrist[1]), (elbow[0] + shift - outline, elbow[1])],
            skin, shadow=0.26,
        )  # fmt: skip
    hand = _between(elbow, wrist, 1.17)
    carries = arm.side == body.carry_side
    canvas.limb(wrist, hand, 0.017, 0.019, skin)
    length = SLEEVE.get(kind, "long")
    if length in ("short", "none"):
        canvas.limb(shoulder, elbow, big, mid, skin)
        canvas.limb(elbow, wrist, mid, thin * 0.9, skin)
        if length == "short":
            canvas.limb(shoulder, _between(shoulder, elbow, 0.62 if kind == "t-shirt" else 0.42), big + ease,
                        mid + ease + 0.005, sleeve, flat_end=True)  # fmt: skip
    else:
        canvas.limb(shoulder, elbow, big + ease, mid + ease, sleeve)
        canvas.limb(elbow, _between(elbow, wrist, 1.0), mid + ease, thin + ease * 0.8 + 0.003, sleeve, flat_end=True,
                    v0=0.16)  # fmt: skip
        cuff = replace(sleeve, color=sleeve.color * 0.78, pattern="plain")
        canvas.limb(_between(elbow, wrist, 0.90), _between(elbow, wrist, 1.0), thin + ease * 0.8 + 0.003,
                    thin + ease * 0.7 + 0.002, cuff, flat_end=True, flat_start=True)  # fmt: skip
    if kind == "vest":  # the padded armhole
        canvas.ellipse((shoulder[0] * 0.93, shoulder[1] - 0.004), big * 0.9, big, clothes.upper)
    draw_held(canvas, person, body, hand, bag=carries, held=arm.side == body.held_side)


def _denim(cloth: Cloth):
    def paint(surface: Surface) -> Array:
        color = cloth(surface)
        worn = 0.22 * np.exp(-((surface.across / 0.45) ** 2)) * (surface.v < 0.40)
        color *= (1.0 + worn)[..., None]
        _dim(color, np.abs(surface.across) > 0.90, 0.75)
        return color

    return paint


def _crease(cloth: Cloth):
    def paint(surface: Surface) -> Array:
        color = cloth(surface)
        _dim(color, np.abs(surface.across) < 0.07, 1.25)
        return color

    return paint


def _pleats(cloth: Cloth):
    def paint(surface: Surface) -> Array:
        color = cloth(surface)
        color *= (1.0 + 0.15 * np.sin(surface.across * 15.0) * np.ones_like(surface.v))[..., None]
        return color

    return paint


def _between(start: tuple[float, float], end: tuple[float, float], share: float) -> tuple[float, float]:
    return (start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share)


def _shift(point: tuple[float, float], x: float) -> tuple[float, float]:
    return (point[0] + x, point[1])
