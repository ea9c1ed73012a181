"""Read the pictures people really have into 8-bit RGB, or say why one cannot be read."""

import io
import os
import re
import warnings
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".jfif", ".png", ".tif", ".tiff", ".webp")
PICTURE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What Pillow may read. Among what is left out are formats that it hands to another program, as EPS to Ghostscript: no
stranger's file may choose those."""
MAX_PIXELS = 80_000_000
"""Larger pictures are refused before they are decoded: 80 megapixels, 240 MB of RGB, is beyond any camera frame."""
MIN_SIDE = 8
"""Shortest side, in pixels, that can show a person at all. Not stated by the paper: chosen so that 1x1 web beacons and
spacers are reported instead of being indexed."""

_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_PICTURE_SIGNATURE = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF.{4}WEBP|II\*\x00|MM\x00\*", re.DOTALL)


class UnreadableReason(StrEnum):
    """Every reason for which `load_image` refuses a picture."""

    MISSING = "missing"
    """No such file, or no permission to read it."""
    EMPTY = "empty file"
    TRUNCATED = "truncated"
    """Begins as a picture, but does not decode to its end: cut short or damaged."""
    NOT_AN_IMAGE = "not an image"
    TOO_LARGE = "too large"
    TOO_SMALL = "too small"


class UnreadableImageError(ValueError):
    """A picture that cannot be used.

    Attributes:
        source (`str`): the file, or a description of what was given instead of a file.
        reason (`UnreadableReason`): for counting.
        detail (`str`): for people.
    """

    def __init__(self, source: str, reason: UnreadableReason, detail: str):
        # The three arguments, not the message, are the exception's `args`: so it survives pickling between processes.
        super().__init__(source, reason, detail)
        self.source = source
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"Cannot use the image {self.source}: {self.reason.value} ({self.detail})."


def load_image(source: str | Path | bytes | Image.Image) -> Image.Image:
    """Decode a picture completely and bring it to upright 8-bit RGB.

    EXIF orientation is applied; CMYK (also Adobe's inverted kind) and palettes are converted; transparency is laid on
    white; 16-bit grey is scaled to 8 bit, not clipped. Of an animation the first frame is taken.

    Args:
        source (`str`, `Path`, `bytes` or `PIL.Image.Image`): a file, the content of a file, or an opened picture.

    Returns:
        `PIL.Image.Image` in mode RGB.

    Raises:
        UnreadableImageError: names the file; `reason` says which of the few reasons it is.
    """
    if isinstance(source, Image.Image):
        return _to_upright_rgb(source, getattr(source, "filename", "") or f"given as a {source.mode} PIL image")
    if isinstance(source, bytes):
        name, content = f"given as {len(source)} bytes", source
    else:
        name, content = str(source), _read(Path(source))
    if not content:
        raise UnreadableImageError(name, UnreadableReason.EMPTY, "it has no content")
    try:
        with warnings.catch_warnings():
            # The size is checked below, against our own limit.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=PICTURE_FORMATS)
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(name, UnreadableReason.TOO_LARGE, str(error)) from error
    except Exception as error:  # Pillow's parsers raise many kinds on damaged headers
        if isinstance(error, UnidentifiedImageError) and not _PICTURE_SIGNATURE.match(content):
            raise UnreadableImageError(name, UnreadableReason.NOT_AN_IMAGE, "no known picture format") from error
        raise UnreadableImageError(name, UnreadableReason.TRUNCATED, "its header is incomplete") from error
    with image:
        return _to_upright_rgb(image, name)


def to_jpeg(image: Image.Image, quality: int, *, full_colour: bool = False) -> bytes:
    """The content of a JPEG file.

    Args:
        image (`PIL.Image.Image`): RGB.
        quality (`int`): Pillow's, from 1 to 100.
        full_colour (`bool`): keep the resolution of the colours, which is halved otherwise.
    """
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:4:4" if full_colour else "4:2:0")
    return buffer.getvalue()


def iter_image_files(folder: str | Path) -> Iterator[Path]:
    """Every file below `folder` with a picture's suffix, in sorted order; hidden files and folders are passed over.

    Raises:
        NotADirectoryError: if `folder` is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder of images: give an existing folder")
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES):
                yield Path(parent, name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except IsADirectoryError as error:
        raise UnreadableImageError(str(path), UnreadableReason.NOT_AN_IMAGE, "it is a folder") from error
    except OSError as error:
        raise UnreadableImageError(str(path), UnreadableReason.MISSING, error.strerror or str(error)) from error


def _to_upright_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        detail = f"{width}x{height} pixels, at most {MAX_PIXELS:,} are read"
        raise UnreadableImageError(name, UnreadableReason.TOO_LARGE, detail)
    if min(width, height) < MIN_SIDE:
        detail = f"{width}x{height} pixels, the shorter side must have at least {MIN_SIDE}"
        raise UnreadableImageError(name, UnreadableReason.TOO_SMALL, detail)
    try:
        image.load()
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise UnreadableImageError(name, UnreadableReason.TRUNCATED, str(error) or type(error).__name__) from error
    return _to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF beside sound pixels: the orientation is unknown, the picture is not
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        # Pillow's own conversion clips at 255, which turns all but the darkest 0.4 % of a 16-bit range white.
        grey = np.asarray(image).astype(np.float32).clip(0, 65535) / 257
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
