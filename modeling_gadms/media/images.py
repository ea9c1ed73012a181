"""Read images of any common kind as 8-bit RGB, with a reason for each image that cannot be read."""

import io
import re
import warnings
from enum import StrEnum
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc"),
    *(".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi"),
    *(".sgi", ".tga", ".tif", ".tiff", ".webp"),
)
"""Suffixes of the files that are pictures, in lower case; `load_image` goes by their content."""
IMAGE_FORMATS = (
    *("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "QOI", "SGI", "TIFF", "WEBP"),
    *("DIB", "TGA"),  # last: they are told by weak signs
)
"""Formats that Pillow may read. Excluded are formats that Pillow passes to another program, such as EPS to
Ghostscript: an untrusted file must not start one. HEIC is read by pillow-heif."""
MAX_PIXELS = 80_000_000
"""Larger images are refused before decoding: 80 megapixels (240 MB of RGB) exceed any camera frame."""
MIN_SIDE = 8
"""Minimum side, in pixels. Not stated in the paper: chosen to report 1x1 web beacons and spacers instead of indexing
them."""

_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IMAGE_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF.{4}WEBP|II\*\x00|MM\x00\*|8BPS|qoif|\0\0\0\x0cjP  |\xff\x4f\xff\x51"
    rb"|.{4}ftypavi[fs]",
    re.DOTALL,
)
_HEIF_SIGNATURE = re.compile(rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)
_FLOAT_RANGES = (1, 255, 65535)
_LONG_PNG_CHUNKS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}


class UnreadableReason(StrEnum):
    """Reasons for which `load_image` refuses an image."""

    MISSING = "missing"
    """The file does not exist, or cannot be opened."""
    EMPTY = "empty file"
    TRUNCATED = "truncated"
    """Starts as an image, but does not decode completely: truncated or damaged."""
    NOT_AN_IMAGE = "not an image"
    NEEDS_HEIF = 'HEIC, which needs pip install "gadms[heif]"'
    TOO_LARGE = "too large"
    TOO_SMALL = "too small"


class UnreadableImageError(ValueError):
    """An image that cannot be used.

    Attributes:
        source (`str`): the file, or a description of the input if it was not a file.
        reason (`UnreadableReason`): for counting.
        detail (`str`): for the error message.
    """

    def __init__(self, source: str, reason: UnreadableReason, detail: str):
        # All three arguments are the exception's `args`, so that it can be pickled between processes.
        super().__init__(source, reason, detail)
        self.source, self.reason, self.detail = source, reason, detail

    def __str__(self) -> str:
        return f"Cannot use the image {self.source}: {self.reason.value} ({self.detail})."


def load_image(source: str | Path | bytes | Image.Image) -> Image.Image:
    """Decode an image completely, and convert it to upright 8-bit RGB.

    Read are AVIF, BMP, GIF, JPEG (also MPO), JPEG 2000, PCX, PNG, PPM (also PBM, PGM), PSD, QOI, SGI, TGA, TIFF, WebP
    and, with the extra `heif`, HEIC. A file's content decides, not its name.

    EXIF orientation is applied. CMYK (also Adobe's inverted variant) and palettes are converted. Transparency becomes
    white. 16-bit grey is scaled to 8 bit, not clipped. Float grey (TIFF) is scaled by the smallest of the ranges 0 to
    1, 0 to 255 and 0 to 65,535 that holds all its values; NaN and infinities are black. Float and 32-bit grey beyond
    these ranges is scaled from its least to its greatest value. An animation, or a file of several pages or exposures,
    is represented by its first image.

    Args:
        source (`str`, `Path`, `bytes` or `PIL.Image.Image`): a file, the content of a file, or a PIL image.

    Returns:
        `PIL.Image.Image` in mode RGB.

    Raises:
        UnreadableImageError: naming the file, with the `reason`.
    """
    if isinstance(source, Image.Image):
        return _to_upright_rgb(source, getattr(source, "filename", "") or f"given as a {source.mode} PIL image")
    if isinstance(source, bytes):
        name, content = f"given as {len(source)} bytes", source
    else:
        name, content = str(source), read_image_file(Path(source))
    if not content:
        raise UnreadableImageError(name, UnreadableReason.EMPTY, "it has no content")
    try:
        return _decode(content, name)
    except UnreadableImageError as error:
        # Pillow refuses long texts and colour profiles, which are not needed. Short texts may hold the orientation.
        if error.reason is not UnreadableReason.TRUNCATED or not content.startswith(_PNG_SIGNATURE):
            raise
        return _decode(_without_long_chunks(content), name)


def _decode(content: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # `MAX_PIXELS` is checked below instead.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = _open(content, name)
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(name, UnreadableReason.TOO_LARGE, str(error)) from error
    except Exception as error:  # Pillow's parsers raise many types for damaged headers
        is_image = _IMAGE_SIGNATURE.match(content) or _HEIF_SIGNATURE.match(content)
        if isinstance(error, UnidentifiedImageError) and not is_image:
            raise UnreadableImageError(name, UnreadableReason.NOT_AN_IMAGE, "no known image format") from error
        detail = "its header is incomplete, or of a kind that Pillow does not read"
        raise UnreadableImageError(name, UnreadableReason.TRUNCATED, detail) from error
    with image:
        return _to_upright_rgb(image, name)


def _open(content: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
    except UnidentifiedImageError:
        if not _HEIF_SIGNATURE.match(content):
            raise
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        detail = 'pip install "gadms[heif]" adds pillow-heif'
        raise UnreadableImageError(name, UnreadableReason.NEEDS_HEIF, detail) from error
    return HeifImageFile(io.BytesIO(content))


def _without_long_chunks(png: bytes) -> bytes:
    """The content of a PNG file without texts and colour profile."""
    kept, place = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while place < len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4], "big")
        if png[place + 4 : place + 8] not in _LONG_PNG_CHUNKS:
            kept.append(png[place:end])
        place = end
    return b"".join(kept)


def read_image_file(path: Path) -> bytes:
    """Read the content of an image file.

    Raises:
        UnreadableImageError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except IsADirectoryError as error:
        raise UnreadableImageError(str(path), UnreadableReason.NOT_AN_IMAGE, "it is a folder") from error
    except OSError as error:
        raise UnreadableImageError(str(path), UnreadableReason.MISSING, error.strerror or str(error)) from error


def to_jpeg(image: Image.Image, quality: int, *, full_colour: bool = False) -> bytes:
    """Encode an RGB image as the content of a JPEG file.

    Args:
        image (`PIL.Image.Image`): in mode RGB.
        quality (`int`): Pillow's JPEG quality, from 1 to 100.
        full_colour (`bool`): 4:4:4 chroma instead of 4:2:0 subsampling.
    """
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:4:4" if full_colour else "4:2:0")
    return buffer.getvalue()


def _to_upright_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        detail = f"{width}x{height} pixels, the maximum is {MAX_PIXELS:,}"
        raise UnreadableImageError(name, UnreadableReason.TOO_LARGE, detail)
    if min(width, height) < MIN_SIDE:
        detail = f"{width}x{height} pixels, the minimum of the shorter side is {MIN_SIDE}"
        raise UnreadableImageError(name, UnreadableReason.TOO_SMALL, detail)
    try:
        image.load()
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise UnreadableImageError(name, UnreadableReason.TRUNCATED, str(error) or type(error).__name__) from error
    return _to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF, intact pixels: use the image without orientation
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES or image.mode == "F":
        # Pillow's own conversion clips at 255, which turns all but the darkest 0.4 % of the 16-bit range white.
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(_to_eight_bits(values, floats=image.mode == "F")).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(values: np.ndarray, *, floats: bool) -> np.ndarray:
    """Scale grey values to 8 bits, as `load_image` says."""
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    ranges = _FLOAT_RANGES if floats else _FLOAT_RANGES[-1:]
    if low >= 0 and high <= ranges[-1]:
        low, high = 0.0, next(top for top in ranges if high <= top)
    scaled = np.where(finite, (values - low) / max(high - low, np.finfo(float).tiny), 0)
    return (255 * scaled).round().astype(np.uint8)
