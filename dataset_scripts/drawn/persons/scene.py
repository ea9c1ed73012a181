"""Draw images of persons: backgrounds, occluders, light and camera effects."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .attributes import Person, View, pick
from .drawing import Array, Canvas, Cloth, fold_field
from .figure import draw_figure


RGB = tuple[int, int, int]


def draw_image(person: Person, view: View, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Draw one camera image of one person, RGB of `size` (height, width) in pixels.

    `rng` draws background, camera and all other differences between images of one view.
    """
    height, width = size
    zoom = 2 if height <= 256 else 1
    rows, columns = height * zoom, width * zoom
    scale = min(rows * rng.uniform(0.84, 0.95), columns / rng.uniform(0.345, 0.39))
    left = columns / 2 + columns * rng.uniform(-0.06, 0.06)
    slack = rows - scale
    top = slack * rng.uniform(0.25, 0.75) + rows * rng.uniform(-0.015, 0.015)
    light = float(rng.uniform(-0.65, 0.65))
    canvas = Canvas(rows, columns, scale, left, top, light)
    canvas.color[:] = _background(rows, columns, (top + 0.97 * scale) / rows, rng)
    _ground_shadow(canvas)  # keeps the coverage 0, which separates the figure from the background
    draw_figure(canvas, person, view, rng)
    _draw_occluder(canvas, view.occluder, rng)
    picture = canvas.color
    if zoom > 1:
        picture = picture.reshape(height, zoom, width, zoom, 3).mean(axis=(1, 3))
    return _apply_camera(picture, rng)


def _ground_shadow(canvas: Canvas) -> None:
    window = canvas.window(-0.26, 0.26, 0.92, 1.05)
    reach = 0.05 * (1 if canvas.light < 0 else -1)
    distance = ((window.x - reach) / 0.20) ** 2 + ((window.y - 0.985) / 0.030) ** 2
    canvas.darken(window, 0.55 * np.clip(1.15 - distance, 0.0, 1.0))


def _muted(rng: np.random.Generator, low: int = 60, high: int = 210, chroma: int = 22) -> RGB:
    value = rng.integers(low, high)
    red, green, blue = (int(np.clip(value + shift, 0, 255)) for shift in rng.integers(-chroma, chroma + 1, 3))
    return (red, green, blue)


def _times(color: RGB, factor: float) -> RGB:
    return (min(int(color[0] * factor), 255), min(int(color[1] * factor), 255), min(int(color[2] * factor), 255))


def _background(rows: int, columns: int, feet: float, rng: np.random.Generator) -> Array:
    """Returns: `(rows, columns, 3)` in [0, 1]: an unfocused background with ground below the feet."""
    height = 160  # backgrounds are drawn at one size and scaled, as they are out of focus anyway
    width = max(int(round(height * columns / rows)), 24)
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    horizon = int(height * rng.uniform(0.50, 0.80) * min(feet, 1.0))
    place = pick(rng, {name: weight for name, (weight, _) in _PLACES.items()})
    _PLACES[place][1](draw, width, height, horizon, rng)
    if place != "corridor":
        for _ in range(int(rng.integers(0, 3))):
            _passer_by(draw, width, horizon, rng)
    if rng.random() < 0.35:
        x, wide = int(rng.integers(0, width)), int(rng.integers(1, 4))
        draw.rectangle((x, 0, x + wide, horizon + int(rng.integers(2, 18))), fill=_muted(rng, 30, 120, 8))
    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.1))))
    scene = np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR), dtype=np.float32) / 255.0
    field = fold_field()
    row0, column0 = rng.integers(0, 512, 2)
    step = 512.0 / max(rows, 1) * 0.8
    grain = field[((np.arange(rows) * step + row0).astype(np.int32) & 511)[:, None],
                  ((np.arange(columns) * step + column0).astype(np.int32) & 511)[None, :]]  # fmt: skip
    slope = np.linspace(-1.0, 1.0, columns, dtype=np.float32)[None, :] * np.float32(rng.uniform(-0.16, 0.16))
    fall = np.linspace(-1.0, 1.0, rows, dtype=np.float32)[:, None] * np.float32(rng.uniform(-0.14, 0.10))
    return scene * (1.0 + slope + fall + 0.05 * grain)[..., None]


def _ground(draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int, color: RGB) -> None:
    bands = 8
    for band in range(bands):
        top = horizon + (height - horizon) * band // bands
        draw.rectangle((0, top, width, height), fill=_times(color, 0.86 + 0.26 * band / bands))


def _street(draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int, rng: np.random.Generator) -> None:
    wall = _muted(rng, 100, 236, 30)
    draw.rectangle((0, 0, width, horizon), fill=wall)
    if rng.random() < 0.5:  # bricks or panels
        step = int(rng.integers(5, 12))
        for y in range(0, horizon, step):
            draw.line((0, y, width, y), fill=_times(wall, 0.84))
        for x in range(int(rng.integers(0, 12)), width, step * 2):
            draw.line((x, 0, x, horizon), fill=_times(wall, 0.88))
    for _ in range(int(rng.integers(1, 4))):
        x, y = int(rng.integers(-8, width)), int(rng.integers(0, max(horizon - 40, 1)))
        w, h = int(rng.integers(10, 26)), int(rng.integers(18, 46))
        draw.rectangle((x - 2, y - 2, x + w + 2, y + h + 2), fill=_times(wall, rng.choice([0.7, 1.2])))
        draw.rectangle((x, y, x + w, y + h), fill=_muted(rng, 40, 130, 14))
        draw.line((x + w // 2, y, x + w // 2, y + h), fill=_times(wall, 0.8))
    _ground(draw, width, height, horizon, _muted(rng, 105, 205, 12))
    draw.rectangle((0, horizon, width, horizon + 3), fill=_muted(rng, 60, 110, 6))
    if rng.random() < 0.5:
        _car(draw, width, horizon, rng)


def _shops(draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int, rng: np.random.Generator) -> None:
    x = -int(rng.integers(0, 20))
    while x < width:
        w = int(rng.integers(24, 50))
        frame = _muted(rng, 50, 190, 40)
        draw.rectangle((x, 0, x + w, horizon), fill=frame)
        sign = int(horizon * rng.uniform(0.16, 0.30))
        draw.rectangle((x + 1, sign - 12, x + w - 1, sign), fill=_muted(rng, 60, 220, 70))
        for letter in range(x + 5, x + w - 6, 5):
            draw.rectangle((letter, sign - 9, letter + 2, sign - 4), fill=_muted(rng, 190, 250, 8))
        glass = _muted(rng, 50, 190, 20)
        draw.rectangle((x + 3, sign + 3, x + w - 3, horizon - 5), fill=glass)
        for _ in range(5):
            gx, gy = int(rng.integers(x + 3, x + w - 6)), int(rng.integers(sign + 4, max(horizon - 14, sign + 5)))
            draw.rectangle((gx, gy, gx + int(rng.integers(2, 9)), gy + int(rng.integers(3, 12))),
                           fill=_muted(rng, 50, 230, 48))  # fmt: skip
        draw.line((x + 4, horizon - 6, x + w // 2, sign + 4), fill=_times(glass, 1.2))
        x += w
    _ground(draw, width, height, horizon, _muted(rng, 115, 210, 14))
    _paving(draw, width, height, horizon, rng)


def _paving(draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int, rng: np.random.Generator) -> None:
    line = _muted(rng, 80, 130, 6)
    vanish = width / 2 + float(rng.uniform(-0.4, 0.4)) * width
    for index in range(-8, 9):
        draw.line((vanish, horizon - 20, vanish + index * width * 0.42, height), fill=line)
    depth = 1.0
    while depth < 9:
        y = horizon + (height - horizon) / depth
        draw.line((0, y, width, y), fill=line)
        depth *= 1.38


def _park(draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, width, horizon), fill=_times((186, 204, 222), float(rng.uniform(0.75, 1.1))))
    leaf = (int(rng.integers(52, 96)), int(rng.integers(84, 124)), int(rng.integers(44, 72)))
    for _ in range(16):
        x, y = int(rng.integers(-10, width + 10)), int(rng.integers(0, horizon))
        r = int(rng.integers(8, 24))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_times(leaf, float(rng.uniform(0.6, 1.35))))
    for _ in range(int(rng.integers(1, 4))):
        x = int(rng.integers(0, width))
        draw.rectangle((x, horizon // 3, x + int(rng.integers(2, 6)), horizon + 3), fill=_muted(rng, 50, 90, 14))
    _ground(draw, width, height, horizon, _times(leaf, 1.15))
    path = _muted(rng, 130, 190, 14)
    middle, spread = width / 2, width * float(rng.uniform(0.4, 0.9))
    draw.polygon(((middle - spread * 0.25, horizon), (middle + spread * 0.25, horizon), (middle + spread, height),
                  (middle - spread, height)), fill=path)  # fmt: skip
    if rng.random() < 0.4:
        x, bench = int(rng.integers(-5, width - 10)), _muted(rng, 70, 130, 24)
        for shift in (0, 5, 10):
            draw.rectangle((x, horizon - 10 + shift, x + 26, horizon - 8 + shift), fill=bench)


def _corridor(draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int, rng: np.random.Generator) -> None:
    wall = _muted(rng, 130, 220, 16)
    far = max(int(horizon * rng.uniform(0.35, 0.6)), 20)
    draw.rectangle((0, 0, width, height), fill=wall)
    middle = width / 2 + float(rng.uniform(-0.2, 0.2)) * width
    half = width * float(rng.uniform(0.16, 0.34))
    top, bottom = horizon - far, horizon
    ceiling = _times(wall, 1.12)
    draw.polygon(((0, 0), (width, 0), (middle + half, top), (middle - half, top)), fill=ceiling)
    floor = _muted(rng, 90, 190, 14)
    draw.polygon(((0, height), (width, height), (middle + half, bottom), (middle - half, bottom)), fill=floor)
    draw.polygon(((0, height), (0, int(height * 0.9)), (middle - half, bottom)), fill=floor)
    draw.rectangle((middle - half, top, middle + half, bottom), fill=_times(wall, float(rng.uniform(0.6, 1.1))))
    for index in range(1, 5):
        share = index / 5
        left = (middle - half) * (1 - share)
        right = width - (width - middle - half) * (1 - share)
        y0, y1 = top * (1 - share), bottom + (height - bottom) * share
        for x in (left, right):
            draw.line((x, y0, x, y1), fill=_times(wall, 0.8))
        draw.line((left, y1, right, y1), fill=_times(floor, 0.84))
        if index % 2:
            lamp = half * 0.5 * (1 + share)
            draw.rectangle((middle - lamp, y0 * 0.9, middle + lamp, y0 * 0.9 + 3), fill=(246, 246, 240))
    door = _muted(rng, 60, 170, 36)
    draw.rectangle((middle - half * 0.4, (top + bottom) / 2 - 8, middle + half * 0.3, bottom), fill=door)
    poster = int(rng.integers(0, 2)) * int(width * 0.82)
    draw.rectangle((poster, 30, poster + 10, 62), fill=_muted(rng, 60, 220, 60))


def _parking(draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, width, horizon), fill=_times((190, 206, 226), float(rng.uniform(0.7, 1.12))))
    draw.rectangle((0, int(horizon * rng.uniform(0.2, 0.6)), width, horizon), fill=_muted(rng, 70, 150, 26))
    _ground(draw, width, height, horizon, _muted(rng, 80, 165, 10))
    for _ in range(int(rng.integers(1, 4))):
        _car(draw, width, horizon + int(rng.integers(-2, 10)), rng)
    for index in range(-3, 4):
        x = width / 2 + index * 34
        draw.line((x, horizon + 8, x * 1.6 - width * 0.3, height), fill=(206, 204, 196), width=2)


def _plaza(draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, width, horizon), fill=_times((196, 208, 222), float(rng.uniform(0.7, 1.1))))
    x = -int(rng.integers(0, 14))
    while x < width:
        w, top = int(rng.integers(14, 34)), int(horizon * rng.uniform(0.0, 0.5))
        house = _muted(rng, 80, 200, 24)
        draw.rectangle((x, top, x + w, horizon), fill=house)
        for y in range(top + 4, horizon - 8, 10):
            for wx in range(x + 3, x + w - 4, 8):
                draw.rectangle((wx, y, wx + 3, y + 5), fill=_times(house, 0.62))
        x += w
    _ground(draw, width, height, horizon, _muted(rng, 120, 195, 14))
    _paving(draw, width, height, horizon, rng)
    for _ in range(2):
        _passer_by(draw, width, horizon, rng)


def _car(draw: ImageDraw.ImageDraw, width: int, ground: int, rng: np.random.Generator) -> None:
    x, w, h = int(rng.integers(-34, width - 8)), int(rng.integers(40, 64)), int(rng.integers(16, 24))
    paint = _muted(rng, 40, 225, 40)
    y = ground - h
    roof = ((0.18, h * 0.45), (0.30, 0.0), (0.72, 0.0), (0.86, h * 0.45))
    glass = ((0.25, h * 0.42), (0.34, 2.0), (0.68, 2.0), (0.78, h * 0.42))
    draw.polygon([(x + w * share, y + down) for share, down in roof], fill=_times(paint, 0.85))
    draw.polygon([(x + w * share, y + down) for share, down in glass], fill=(56, 66, 78))
    draw.rectangle((x, y + h * 0.42, x + w, y + h * 0.88), fill=paint)
    draw.rectangle((x, y + h * 0.52, x + 3, y + h * 0.64), fill=(240, 220, 150))
    for share in (0.22, 0.78):
        cx, r = x + w * share, h * 0.24
        draw.ellipse((cx - r, ground - 2 * r + 3, cx + r, ground + 3), fill=(26, 26, 28))


def _passer_by(draw: ImageDraw.ImageDraw, width: int, horizon: int, rng: np.random.Generator) -> None:
    """Draw a distant person at the side, too small to be mistaken for the person described."""
    tall = int(rng.integers(22, 42))
    x = int(rng.uniform(0.0, 0.24) * width) if rng.random() < 0.5 else int(rng.uniform(0.76, 1.0) * width)
    feet = horizon + int(tall * 0.28)
    head = feet - tall
    top, trousers = _muted(rng, 40, 200, 50), _muted(rng, 30, 110, 20)
    r = tall * 0.07
    stride = tall * float(rng.uniform(0.02, 0.12))
    draw.line((x, feet - tall * 0.5, x - stride, feet), fill=trousers, width=max(int(tall * 0.09), 1))
    draw.line((x, feet - tall * 0.5, x + stride, feet), fill=trousers, width=max(int(tall * 0.09), 1))
    draw.rounded_rectangle(
        (x - tall * 0.12, head + tall * 0.14, x + tall * 0.12, feet - tall * 0.44), tall * 0.06, fill=top
    )
    draw.ellipse((x - r, head, x + r, head + 2.3 * r), fill=(196, 154, 124))
    draw.pieslice((x - r, head - 1, x + r, head + 2.2 * r), 180, 360, fill=(44, 36, 32))


# Weights and functions of the backgrounds.
_PLACES = {
    "street": (5, _street), "shops": (4, _shops), "park": (3, _park), "corridor": (3, _corridor),
    "parking": (3, _parking), "plaza": (3, _plaza),
}  # fmt: skip


def _draw_occluder(canvas: Canvas, occluder: str, rng: np.random.Generator) -> None:
    side = 1.0 if rng.random() < 0.5 else -1.0
    shade = np.asarray(_muted(rng, 50, 200, 40), dtype=np.float32) / 255.0
    cloth = Cloth(shade, folds=0.08, offset=float(rng.random()))
    if occluder == "pole":
        x, half = side * float(rng.uniform(0.06, 0.15)), float(rng.uniform(0.012, 0.024))
        gray = Cloth(np.full(3, rng.uniform(0.25, 0.7), dtype=np.float32), folds=0.04)
        canvas.limb((x, -0.4), (x + rng.uniform(-0.01, 0.01), 1.3), half, half * 1.15, gray)
    elif occluder == "person":
        x = side * canvas.width / canvas.scale * 0.5 + (canvas.width / 2 - canvas.left) / canvas.scale + side * 0.045
        canvas.limb((x, 0.14), (x, 0.60), 0.115, 0.105, cloth)
        canvas.limb((x, 0.56), (x - side * 0.02, 1.25), 0.095, 0.080, Cloth(shade * 0.35, folds=0.08))
        canvas.limb((x - side * 0.100, 0.19), (x - side * 0.118, 0.42), 0.040, 0.034, cloth)
        canvas.limb((x - side * 0.118, 0.42), (x - side * 0.100, 0.60), 0.034, 0.026, cloth)
        canvas.ellipse((x, 0.04), 0.062, 0.080, Cloth(np.array([0.20, 0.15, 0.12], dtype=np.float32)))
    elif occluder == "hood":
        top = float(rng.uniform(0.84, 0.90))
        left, right = top + 0.04 + 0.03 * side, top + 0.04 - 0.03 * side
        canvas.polygon([(-0.6, left), (0.0, top), (0.6, right), (0.6, 1.3), (-0.6, 1.3)], cloth)
        canvas.limb((-0.6, top + 0.07 + 0.03 * side), (0.6, top + 0.07 - 0.03 * side), 0.006, 0.006,
                    Cloth(np.clip(shade * 1.5 + 0.1, 0, 1)))  # fmt: skip
    elif occluder == "plant":
        leaf = np.array([0.20, 0.40, 0.16], dtype=np.float32) * float(rng.uniform(0.7, 1.3))
        for _ in range(34):
            x, y = float(rng.uniform(-0.28, 0.28)), float(rng.uniform(0.88, 1.08))
            y += 0.10 * abs(x - side * 0.2)
            tint = leaf * float(rng.uniform(0.7, 1.35))
            canvas.ellipse((x, y), 0.034, 0.011, Cloth(tint), tilt=float(rng.uniform(-1.6, 1.6)), ambient=0.8)


def _apply_camera(picture: Array, rng: np.random.Generator) -> Image.Image:
    """Apply blur, tint, exposure, contrast and noise."""
    height, width = picture.shape[:2]
    image = Image.fromarray(np.clip(picture * 255.0 + 0.5, 0, 255).astype(np.uint8))
    kind = pick(rng, {"sharp": 75, "defocus": 17, "motion": 8})
    amount = float(rng.uniform(0.3, 1.0)) * height / 160.0
    reach = max(int(round(amount * 1.6)), 1)
    if kind == "defocus":
        image = image.filter(ImageFilter.GaussianBlur(amount * 0.9))
    elif height > 256:  # limits sharpness and smooths patterns, which are drawn without supersampling here
        image = image.filter(ImageFilter.GaussianBlur(0.6))
    values = np.asarray(image, dtype=np.float32) / 255.0
    if kind == "motion":
        padded = np.pad(values, ((0, 0), (reach, reach), (0, 0)), mode="edge")
        shifted = [padded[:, shift : shift + width] for shift in range(2 * reach + 1)]
        values = np.mean(shifted, axis=0, dtype=np.float32)
    warmth, green = rng.normal(0.0, 0.045), rng.normal(0.0, 0.02)
    gain = float(rng.choice([rng.uniform(0.85, 1.15), rng.uniform(0.55, 0.85)], p=[0.8, 0.2]))
    tint = np.array([1.0 + warmth, 1.0 + green, 1.0 - warmth], dtype=np.float32) * np.float32(gain)
    contrast, haze = float(rng.uniform(0.82, 1.12)), float(rng.uniform(0.0, 0.06))
    values = ((values * tint - 0.45) * contrast + 0.45) * (1.0 - haze) + haze
    grain = float(rng.uniform(0.003, 0.020))
    values = values + rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(grain)
    return Image.fromarray(np.clip(values * 255.0 + 0.5, 0, 255).astype(np.uint8))
