"""Draw one person: clothes on a posed body, from the shoes up and from back to front."""

from dataclasses import replace

import numpy as np

from .accessories import draw_bag_behind, draw_bag_in_front, draw_held, draw_neck
from .attributes import Person, View
from .body import PITCH, Body, Limb
from .clothes import RUBBER, SOLE, Clothes, creased, denim, pleated
from .drawing import Array, Canvas, Cloth, Point, Surface
from .head import draw_hair_behind, draw_head


def draw_figure(canvas: Canvas, person: Person, view: View, rng: np.random.Generator) -> None:
    """Draw a person onto a canvas whose (0, 0) is the top of the head."""
    body = Body(person, view, rng)
    clothes = Clothes(person, body)
    draw_hair_behind(canvas, person, body)
    draw_bag_behind(canvas, person, body)
    for arm in body.arms:
        if arm.depth < -0.035:
            _draw_arm(canvas, person, body, clothes, arm)
    for leg in body.legs:
        _draw_leg(canvas, person, body, clothes, leg)
    _draw_pelvis(canvas, person, body, clothes)
    _draw_torso(canvas, person, body, clothes)
    draw_neck(canvas, person, body)
    draw_head(canvas, person, body, clothes.upper if person.upper == "hoodie" else None)
    draw_bag_in_front(canvas, person, body)
    for arm in body.arms:
        if arm.depth >= -0.035:
            _draw_arm(canvas, person, body, clothes, arm)


def _draw_leg(canvas: Canvas, person: Person, body: Body, clothes: Clothes, leg: Limb) -> None:
    hip, knee, ankle = leg.start.point, leg.middle.point, leg.end.point
    girth = body.style.girth
    thigh, calf, thin = 0.060 * girth, 0.043 * girth, 0.026
    cloth, skin = replace(clothes.lower, offset=0.63 + 0.2 * leg.side), clothes.skin
    kind = person.lower
    boots = person.shoes == "boots" and kind != "wide trousers"  # worn over the trousers
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
    paint = replace(cloth, finish={"jeans": denim, "trousers": creased}.get(kind))
    canvas.limb(hip, knee, thigh + loose, knee_radius, paint)
    canvas.limb(knee, end, knee_radius, hem_radius, paint, flat_end=True, v0=0.23)
    if kind == "joggers":
        stripe = Cloth(RUBBER if cloth.color.mean() < 0.6 else SOLE)
        canvas.limb(_between(knee, ankle, 0.90), end, 0.030, 0.028, replace(cloth, color=cloth.color * 0.8),
                    flat_end=True, flat_start=True)  # fmt: skip
        if body.sin * leg.side <= 0.45:  # the outer seam faces the camera
            out = leg.side * body.cos * 0.8
            canvas.limb(_shift(hip, out * thigh), _shift(knee, out * calf), 0.0055, 0.0055, stripe, ambient=0.8)
            canvas.limb(_shift(knee, out * calf), _shift(ankle, out * 0.028), 0.0055, 0.0045, stripe, ambient=0.8)
    if boots:
        _draw_shoe(canvas, person, body, clothes, leg)


def _draw_shoe(canvas: Canvas, person: Person, body: Body, clothes: Clothes, leg: Limb) -> None:
    ankle = leg.end
    out = 0.18 * leg.side
    forward = (np.sin(out), np.cos(out))
    lifted = 0.957 - (ankle.y - PITCH * ankle.depth)
    tilt = -float(np.clip(4.0 * lifted, 0.0, 0.5))  # a raised heel points the toes down

    def place(reach: float, down: float) -> Point:
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


def _draw_pelvis(canvas: Canvas, person: Person, body: Body, clothes: Clothes) -> None:
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
    canvas.tube([*ys, bottom], [*centers, 0.0], [*halves, wide], replace(clothes.lower, finish=pleated), hem=0.014)


def _leg_reach(body: Body, y: float) -> float:
    """Returns: the distance of the legs' outer edge from the middle at height `y`."""
    reach = 0.0
    for leg in body.legs:
        x = np.interp(y, [leg.start.y, leg.middle.y, leg.end.y], [leg.start.x, leg.middle.x, leg.end.x])
        reach = max(reach, abs(float(x)) + 0.042)
    return reach


def _draw_torso(canvas: Canvas, person: Person, body: Body, clothes: Clothes) -> None:
    kind = person.upper
    if kind in ("tank top", "dress"):
        ys, centers, halves = body.torso(0.0, 0.30)
        canvas.tube(ys, centers, halves, clothes.skin)
    bottom = clothes.cut.hem
    ys, centers, halves = body.torso(clothes.cut.ease, min(bottom, 0.520))
    if bottom > 0.520:
        flare = {"dress": (0.150, 0.130), "coat": (0.138, 0.118)}.get(kind)
        wide = body.half(*flare) if flare else halves[-1]
        if flare:
            wide = max(wide, _leg_reach(body, bottom + body.drop) + 0.014)
        ys, centers, halves = [*ys, bottom + body.drop], [*centers, 0.0], [*halves, wide]

    def finish(color: Array, surface: Surface) -> None:
        clothes.paint_upper(color, body.around(surface.across), surface.v - body.drop, surface)

    canvas.tube(ys, centers, halves, replace(clothes.upper, finish=finish), hem=0.010 if bottom > 0.6 else 0.006)


def _draw_arm(canvas: Canvas, person: Person, body: Body, clothes: Clothes, arm: Limb) -> None:
    shoulder, elbow, wrist = arm.start.point, arm.middle.point, arm.end.point
    slim = 0.88 if body.woman else 1.0
    girth = 0.5 + 0.5 * body.style.girth
    big, mid, thin = 0.037 * slim * girth, 0.029 * slim * girth, 0.021 * slim
    kind = person.upper
    ease, length = clothes.cut.sleeve_ease, clothes.cut.sleeve
    sleeve = replace(clothes.sleeve, offset=0.11 + 0.31 * arm.side)
    if clothes.sleeve.pattern == "two-tone":
        sleeve = replace(sleeve, pattern="plain")
    skin = clothes.skin
    if arm.depth > -0.02:  # shadow of the arm
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
    if length in ("short", "none"):
        canvas.limb(shoulder, elbow, big, mid, skin)
        canvas.limb(elbow, wrist, mid, thin * 0.9, skin)
        if length == "short":
            canvas.limb(shoulder, _between(shoulder, elbow, 0.62 if kind == "t-shirt" else 0.42), big + ease,
                        mid + ease + 0.005, sleeve, flat_end=True)  # fmt: skip
    else:
        canvas.limb(shoulder, elbow, big + 0.5 * ease, mid + ease, sleeve)
        canvas.limb(elbow, _between(elbow, wrist, 1.0), mid + ease, thin + ease * 0.8 + 0.003, sleeve, flat_end=True,
                    v0=0.16)  # fmt: skip
        cuff = replace(sleeve, color=sleeve.color * 0.78, pattern="plain")
        canvas.limb(_between(elbow, wrist, 0.90), _between(elbow, wrist, 1.0), thin + ease * 0.8 + 0.003,
                    thin + ease * 0.7 + 0.002, cuff, flat_end=True, flat_start=True)  # fmt: skip
    if kind == "vest":  # the padded armhole
        canvas.ellipse((shoulder[0] * 0.93, shoulder[1] - 0.004), big * 0.9, big, clothes.upper)
    draw_held(canvas, person, body, hand, bag=carries, held=arm.side == body.held_side)


def _between(start: Point, end: Point, share: float) -> Point:
    return (start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share)


def _shift(point: Point, x: float) -> Point:
    return (point[0] + x, point[1])
