"""Draw heads at any angle: face, hair, hats and glasses."""

from dataclasses import replace

import numpy as np

from .attributes import Person
from .body import Body
from .drawing import Array, Canvas, Cloth, Point, Surface


DARK = np.array([0.08, 0.07, 0.08], dtype=np.float32)
_AROUND = (0.0, 0.75, 1.1, 1.55, 1.8, 2.3, 3.15)
# Lower end of the hair on the head, at the angles `_AROUND` from the forehead (0) to the nape (pi).
_HAIRLINE = {
    "short": (-0.46, -0.40, -0.10, 0.12, 0.42, 0.62, 0.68),
    "long": (-0.50, -0.34, 0.35, 0.80, 1.0, 1.0, 1.0),
    "tied": (-0.48, -0.40, -0.05, 0.10, 0.55, 0.72, 0.74),
    "bald": (-2.0,) * 7,
}


def head_center(body: Body) -> Point:
    return (body.spine(0.05) + 0.012 * body.sin, 0.074 + body.drop)


def _hair_cloth(body: Body) -> Cloth:
    return Cloth(body.style.hair, folds=0.16, offset=0.44)


def draw_hair_behind(canvas: Canvas, person: Person, body: Body) -> None:
    """Draw hair behind the neck and shoulders of a person who faces the camera."""
    if person.hair_style == "long" and body.cos > -0.3:
        x, y = head_center(body)
        back = -0.040 * body.sin
        canvas.limb((x + back, y), (x + back * 1.4, y + 0.145), body.half(0.060, 0.042), body.half(0.066, 0.036),
                    _hair_cloth(body))  # fmt: skip
    elif person.hair_style == "ponytail" and body.cos > -0.3 and abs(body.sin) > 0.3:
        _draw_ponytail(canvas, body)
    elif person.hair_style == "bun" and body.cos > -0.2:
        _draw_bun(canvas, body)


def _draw_ponytail(canvas: Canvas, body: Body) -> None:
    x, y = head_center(body)
    hair = _hair_cloth(body)
    root = (x - 0.058 * body.sin, y - 0.022)
    middle = (x - 0.092 * body.sin, y + 0.050)
    tip = (x - 0.080 * body.sin + 0.006, y + 0.140)
    canvas.limb(root, middle, 0.017, 0.024, hair)
    canvas.limb(middle, tip, 0.024, 0.009, hair, v0=0.05)


def _draw_bun(canvas: Canvas, body: Body) -> None:
    x, y = head_center(body)
    canvas.ellipse((x - 0.050 * body.sin, y - 0.058), 0.030, 0.027, _hair_cloth(body))


def draw_head(canvas: Canvas, person: Person, body: Body, hood: Cloth | None) -> None:
    """Draw neck, head, hair, hat, glasses and, if given, the hood of a hoodie."""
    x, y = head_center(body)
    style = body.style
    skin = Cloth(style.skin, folds=0.02)
    neck_x = body.spine(0.15)
    away = body.cos < -0.25
    shaded = Cloth(style.skin * 0.82, folds=0.02)
    thick = 0.028 if body.woman else 0.033
    nape = (x - 0.010 * body.sin, y + 0.04)
    canvas.limb(nape, (neck_x, 0.170 + body.drop), thick, thick + 0.003, shaded, flat_end=True)
    if hood is not None:
        wide = body.half(0.078, 0.060)
        if away:
            canvas.ellipse((neck_x, 0.190 + body.drop), wide, 0.050, Cloth(hood.color * 0.86, folds=0.12))
        else:
            canvas.ellipse((neck_x - 0.018 * body.sin, 0.166 + body.drop), wide, 0.028, Cloth(hood.color * 0.8))
            canvas.ellipse((neck_x + 0.014 * body.sin, 0.160 + body.drop), wide * 0.55, 0.020, shaded)
    rx, ry = body.half(0.050, 0.060) * style.head, 0.069 * style.head
    if body.cos > -0.5:  # nose in profile
        canvas.ellipse((x + body.sin * (rx + 0.003), y + 0.014), 0.010, 0.013, skin)
    canvas.ellipse((x, y), rx, ry, _face(body, skin))
    for side in (1, -1):
        if -side * body.sin > -0.35:  # ears that are not behind the head
            ear_x = x + side * body.cos * rx * 0.98 - 0.004 * body.sin
            if person.hair_style != "long":
                canvas.ellipse((ear_x, y + 0.008), 0.010 * max(abs(body.sin), 0.7), 0.017, Cloth(style.skin * 0.93))
    if person.hair_style != "bald":
        _draw_hair(canvas, person, body, (x, y), rx, ry)
    if away or abs(body.sin) > 0.8:
        if person.hair_style == "ponytail" and away:
            _draw_ponytail(canvas, body)
        elif person.hair_style == "bun" and away:
            _draw_bun(canvas, body)
    if person.eyewear != "none":
        _draw_glasses(canvas, person, body, (x, y), rx)
    if person.hat != "none":
        _draw_hat(canvas, person, body, (x, y), rx, ry)


def _face(body: Body, skin: Cloth) -> Cloth:
    """Returns: the skin with a face on it."""
    ry = 0.069 * body.style.head

    def finish(color: Array, surface: Surface) -> None:
        v = surface.v / ry
        row = np.sqrt(np.clip(1.0 - v * v, 0.02, 1.0))
        phi = body.around(np.clip(surface.across / row, -1.0, 1.0))
        eyes = ((np.abs(phi) - 0.42) / 0.17) ** 2 + ((v - 0.06) / 0.075) ** 2 < 1.0
        brows = (np.abs(np.abs(phi) - 0.43) < 0.24) & (np.abs(v + 0.10) < 0.035)
        mouth = (np.abs(phi) < 0.30) & (np.abs(v - 0.58) < 0.045)
        nose = (np.abs(phi - 0.10) < 0.07) & (v > 0.08) & (v < 0.36)
        if body.style.seed % 3 == 0 and not body.woman:
            color[(v > 0.45) & (np.abs(phi) < 1.1)] = 0.6 * skin.color + 0.4 * body.style.hair
        color[nose] *= 0.84
        color[mouth] = skin.color * np.array([0.86, 0.55, 0.55], dtype=np.float32)
        color[brows] = 0.35 * skin.color + 0.65 * np.minimum(body.style.hair, 0.5)
        color[eyes] = DARK

    return replace(skin, finish=finish)


def _draw_hair(canvas: Canvas, person: Person, body: Body, center: Point, rx: float, ry: float) -> None:
    line = _HAIRLINE[{"ponytail": "tied", "bun": "tied"}.get(person.hair_style, person.hair_style)]
    x, y = center[0] - 0.004 * body.sin, center[1] - 0.003
    wide, high = rx * 1.09, ry * 1.07
    window = canvas.window(x - wide, x + wide, y - high, y + high)
    u, v = (window.x - x) / wide, (window.y - y) / high
    row = np.sqrt(np.clip(1.0 - v * v, 0.02, 1.0))
    across = np.clip(u / row, -1.0, 1.0)
    phi = body.around(across)
    limit = np.interp(np.abs(phi), _AROUND, line).astype(np.float32)
    cover = canvas.edge((1.0 - np.sqrt(u * u + v * v)) * min(wide, high)) * canvas.edge((limit - v) * high)
    surface = Surface(across, phi * 0.055, v * high)
    streaks = 1.0 + 0.07 * np.sin(phi * 23.0 + v * 2.0)
    color = _hair_cloth(body)(surface) * (streaks * canvas.shade(np.clip(u, -1, 1), 0.5))[..., None]
    canvas.lay(window, cover, color)
    if person.hair_style != "long":
        return
    hair = _hair_cloth(body)
    if body.cos < -0.2:  # from behind, hair covers the neck and the top of the back
        canvas.limb((x, y), (x, y + 0.135), wide * 0.96, body.half(0.068, 0.045), hair)
        return
    for side in (1, -1):  # locks in front of the shoulders
        lock_x = x + side * body.cos * rx * 0.98 - 0.018 * body.sin
        if -side * body.sin > -0.6:
            canvas.limb((lock_x, y - 0.01), (lock_x + side * body.cos * 0.008, y + 0.150), 0.015, 0.017, hair)


def _draw_glasses(canvas: Canvas, person: Person, body: Body, center: Point, rx: float) -> None:
    if body.cos < -0.15:
        return
    x, y = center[0], center[1] + 0.004
    frame = Cloth(DARK)
    for side in (1, -1):
        phi = body.yaw + side * 0.44
        if abs(phi) > 1.45:
            continue
        lens = (x + float(np.sin(phi)) * rx * 1.02, y)
        wide = max(0.0165 * float(np.cos(phi)), 0.006)
        canvas.ellipse(lens, wide, 0.014, frame, ambient=0.9)
        if person.eyewear == "glasses":
            clear = Cloth(np.array([0.80, 0.86, 0.92], dtype=np.float32))
            canvas.ellipse(lens, wide * 0.62, 0.0085, clear, ambient=0.9)
        ear = body.yaw + side * 1.5
        if abs(ear) < 1.6 or abs(body.sin) > 0.5 and side * body.sin < 0:
            canvas.limb(lens, (x + float(np.sin(ear)) * rx * 0.9, y - 0.002), 0.003, 0.003, frame)
    bridge = [(x + rx * float(np.sin(body.yaw + shift)), y - 0.003) for shift in (-0.3, 0.3)]
    canvas.limb(bridge[0], bridge[1], 0.003, 0.003, frame)


def _draw_hat(canvas: Canvas, person: Person, body: Body, center: Point, rx: float, ry: float) -> None:
    cloth = Cloth(body.style.shade_of(person.hat_color, 6), folds=0.07, offset=0.9)
    x, y = center
    band = Cloth(cloth.color * 0.70)
    if person.hat == "brimmed hat":
        canvas.ellipse((x, y - 0.030), rx * 2.0, 0.024, Cloth(cloth.color * 0.82), ambient=0.8)
        _draw_dome(canvas, (x, y - 0.036), rx * 1.12, ry * 0.84, cloth)
        canvas.limb((x - rx * 0.99, y - 0.045), (x + rx * 0.99, y - 0.045), 0.009, 0.009, Cloth(cloth.color * 0.45))
        return
    if person.hat == "beanie":
        _draw_dome(canvas, (x - 0.004 * body.sin, y - 0.018), rx * 1.16, ry * 1.04, replace(cloth, finish=_knit))
        canvas.limb((x - rx * 1.0, y - 0.026), (x + rx * 1.0, y - 0.026), 0.014, 0.014, replace(band, finish=_knit))
        canvas.ellipse((x, y - 0.018 - ry * 1.06), 0.014, 0.013, cloth)
        return
    peak = Cloth(cloth.color * 0.78)
    if body.cos < -0.3:
        _draw_dome(canvas, (x, y - 0.016), rx * 1.12, ry * 0.96, cloth)
        canvas.ellipse((x, y - 0.022), 0.014, 0.008, Cloth(body.style.hair))
        return
    _draw_dome(canvas, (x, y - 0.022), rx * 1.12, ry * 0.92, cloth)
    reach = 0.055 * body.sin
    toward = max(body.cos, 0.0)
    tip = (x + body.sin * rx * 0.85 + reach * 0.55, y - 0.028 + 0.012 * toward)
    canvas.ellipse(tip, max(rx * 0.98 * abs(body.cos), 0.040), 0.007 + 0.010 * toward, peak, ambient=0.85)


def _draw_dome(canvas: Canvas, center: Point, rx: float, ry: float, paint) -> None:
    """Draw the upper half of a ball around `center`."""
    x, y = center
    window = canvas.window(x - rx, x + rx, y - ry, y + 0.012)
    u, v = (window.x - x) / rx, (window.y - y) / ry
    bottom = y + 0.010 * (1.0 - u * u)
    cover = canvas.edge((1.0 - np.sqrt(u * u + v * v)) * min(rx, ry)) * canvas.edge(bottom - window.y)
    across = np.clip(u, -1.0, 1.0) * np.ones_like(v)
    top_light = 1.0 + 0.12 * np.clip(-v, 0.0, 1.0)
    color = paint(Surface(across, across * rx, v * ry)) * (canvas.shade(across) * top_light)[..., None]
    canvas.lay(window, cover, color)


def _knit(color: Array, surface: Surface) -> None:
    color *= (1.0 + 0.10 * np.sin(surface.s * 520.0) * np.ones_like(surface.v))[..., None]
