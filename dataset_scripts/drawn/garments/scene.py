"""Draw images of products: backdrop, shadow and camera effects."""

import numpy as np
from PIL import Image, ImageFilter

from ..persons.drawing import Array, Canvas, fold_field
from .attributes import Product, Shot
from .others import OTHERS
from .pen import HEIGHT, WIDTH, Pen
from .tops import TOPS


def draw_product(product: Product, shot: Shot, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Draw one image of a product, RGB of `size` (height, width) in pixels.

    `rng` draws the texture of the backdrop and the noise of the camera.
    """
    zoom = 2 if size[0] <= 128 else 1
    height, width = size[0] * zoom, size[1] * zoom
    fit = min(height / HEIGHT, width / WIDTH) * shot.size
    left, top = width * (0.5 + shot.shift[0]), (height - fit * HEIGHT) / 2
    canvas = Canvas(height, width, fit, left, top, -shot.light if shot.mirrored else shot.light)
    (TOPS | OTHERS)[product.kind](Pen(canvas, product))
    cutout = canvas.image()
    if shot.mirrored:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    box = cutout.getbbox()
    down = 0.0 if box is None else height * (0.5 + shot.shift[1]) - (box[1] + box[3]) / 2
    # Premultiplied alpha avoids fringes at the edges.
    cutout = cutout.convert("RGBa").rotate(shot.tilt, Image.Resampling.BICUBIC, translate=(0, round(down)))
    values = np.asarray(cutout, dtype=np.float32) / 255.0
    alpha = values[..., 3:]
    picture = _backdrop(shot, height, width, rng) * _cast_shadow(cutout.getchannel("a"), shot, zoom * size[0])
    picture = picture * (1.0 - alpha) + values[..., :3]
    if zoom > 1:
        picture = picture.reshape(size[0], zoom, size[1], zoom, 3).mean(axis=(1, 3))
    return _apply_camera(picture, shot, rng)


def _cast_shadow(alpha: Image.Image, shot: Shot, height: int) -> Array:
    """Returns: `(height, width, 1)`: the shadow of the product, as a factor of brightness."""
    cover = np.asarray(alpha.filter(ImageFilter.GaussianBlur(height * 0.018)), dtype=np.float32) / 255.0
    across, down = -round(shot.light * height * 0.02), round(height * 0.012)
    return 1.0 - 0.45 * np.roll(cover, (down, across), axis=(0, 1))[..., None]


def _backdrop(shot: Shot, height: int, width: int, rng: np.random.Generator) -> Array:
    """Returns: `(height, width, 3)` in [0, 1]: a plain or lightly textured backdrop."""
    levels = {"white": (0.94, 0.98), "gray": (0.72, 0.86), "tinted": (0.80, 0.90), "paper": (0.86, 0.93),
              "linen": (0.76, 0.86), "wood": (0.62, 0.76)}  # fmt: skip
    color = np.full(3, rng.uniform(*levels[shot.backdrop]), dtype=np.float32)
    color += rng.normal(0.0, 0.035 if shot.backdrop == "tinted" else 0.006, 3).astype(np.float32)
    if shot.backdrop == "wood":
        color *= np.array([1.06, 0.97, 0.86], dtype=np.float32)
    field = fold_field()
    row, column = rng.integers(0, 512, 2)
    # Relative to the image's height, so that the texture is the same at every size.
    y = np.arange(height, dtype=np.float32)[:, None] / height
    x = np.arange(width, dtype=np.float32)[None, :] / height
    stretch = {"paper": (500, 500), "linen": (900, 900), "wood": (90, 900)}.get(shot.backdrop, (60, 60))
    grain = field[(y * stretch[0] + row).astype(np.int64) & 511, (x * stretch[1] + column).astype(np.int64) & 511]
    depth = {"paper": 0.022, "linen": 0.028, "wood": 0.05}.get(shot.backdrop, 0.008)
    texture = 1.0 + depth * grain
    if shot.backdrop == "wood":  # boards
        texture = texture * np.where((x * 4.5 + row / 512) % 1.0 < 0.02, np.float32(0.78), np.float32(1.0))
    fall = 1.0 + 0.06 * shot.light * (x / x.max() * 2.0 - 1.0) - 0.05 * (y - 0.5)
    return (color * (texture * fall)[..., None]).astype(np.float32)


def _apply_camera(picture: Array, shot: Shot, rng: np.random.Generator) -> Image.Image:
    tint = np.array([1.0 + shot.warmth, 1.0, 1.0 - shot.warmth], dtype=np.float32) * np.float32(shot.exposure)
    noise = rng.standard_normal(picture.shape[:2], dtype=np.float32)[..., None] * np.float32(rng.uniform(0.002, 0.008))
    values = picture * tint + noise
    return Image.fromarray(np.clip(values * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8))
