"""Text and pictures on pictures: a font that has the letters, lines and pictures that fit."""

import io
import unicodedata
from functools import lru_cache
from typing import cast

from PIL import Image, ImageDraw, ImageFont


Font = ImageFont.FreeTypeFont

INK = (28, 28, 30)
FAINT_INK = (120, 120, 128)
PAPER = (255, 255, 255)
CARD = (243, 243, 245)

# Common fonts of Linux, macOS and Windows; those that hold Chinese, Japanese and Korean come last, as their Latin
# letters are the plainer ones. Pillow's own font is the last resort.
_FONT_FILES = (
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "Arial Unicode.ttf",
    "Arial.ttf",
    "arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "msyh.ttc",
)
# Hardly any font has them: no character, and a mark, for which some versions of Pillow draw a circle as well.
_MISSING = ("\U0010ffff", "\U0001e8d6")


def font_for(text: str, size: int) -> Font:
    """The installed font that has the most of the text's characters; Pillow's own where none is installed."""
    return max(_fonts(size), key=lambda font: sum(_has_glyph(font, char) for char in set(text)))


def printable(text: str, font: Font) -> str:
    """The text with a box (or a question mark) for each character that the font lacks."""
    substitute = "□" if _has_glyph(font, "□") else "?"
    return "".join(
        char if _has_glyph(font, char) else substitute
        for char in " ".join(text.split())
        # Joiners, marks and variation selectors have no shape of their own.
        if _has_glyph(font, char) or unicodedata.category(char) not in ("Cf", "Mn", "Me")
    )


def wrap(text: str, font: Font, width: int, max_lines: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces where possible; the last ends in "..." if text is left."""
    lines: list[str] = []
    rest = text.strip()
    while rest and len(lines) < max_lines:
        fitting = _fitting(rest, font, width)
        if len(fitting) < len(rest) and " " in fitting.rstrip() and not rest[len(fitting)].isspace():
            fitting = fitting[: fitting.rindex(" ")]
        lines.append(fitting.strip())
        rest = rest[len(fitting) :].strip()
    if rest:
        lines[-1] = shorten(lines[-1] + " " + rest, font, width)
    return lines


def shorten(text: str, font: Font, width: int) -> str:
    """The text, cut to `width` pixels with "..." at its end if it is longer."""
    if font.getlength(text) <= width:
        return text
    return _fitting(text, font, width, ending="...").rstrip() + "..."


def paste_fitted(sheet: Image.Image, content: bytes, left: int, top: int, size: tuple[int, int]) -> None:
    """Put a picture, the content of an image file, into the middle of a cell, as large as it fits.

    Args:
        sheet (`PIL.Image.Image`): in mode RGB.
        left, top (`int`): of the cell.
        size (`tuple[int, int]`): width and height of the cell.
    """
    with Image.open(io.BytesIO(content)) as picture:
        scale = min(size[0] / picture.width, size[1] / picture.height)
        fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        resized = picture.convert("RGB").resize(fitted, Image.Resampling.LANCZOS)
    sheet.paste(resized, (left + (size[0] - fitted[0]) // 2, top + (size[1] - fitted[1]) // 2))


def paste_on_card(
    sheet: Image.Image, content: bytes, left: int, top: int, size: tuple[int, int], *, margin: int = 8, radius: int = 8
) -> None:
    """Put a picture, the content of an image file, on a card with round corners.

    Args:
        sheet (`PIL.Image.Image`): in mode RGB.
        left, top (`int`), size (`tuple[int, int]`): of the card, (width, height).
        margin (`int`), radius (`int`): of the card, around the picture and at its corners.
    """
    width, height = size
    draw = ImageDraw.Draw(sheet)
    draw.rounded_rectangle((left, top, left + width, top + height), radius=radius, fill=CARD)
    paste_fitted(sheet, content, left + margin, top + margin, (width - 2 * margin, height - 2 * margin))


def _fitting(text: str, font: Font, width: int, ending: str = "") -> str:
    """The longest beginning that fits with the ending; one character at least, so that wrapping advances."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle] + ending) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low]


@lru_cache
def _fonts(size: int) -> tuple[Font, ...]:
    fonts = []
    for name in _FONT_FILES:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return (*fonts, cast(Font, ImageFont.load_default(size)))  # a bitmap font only where Pillow lacks FreeType


@lru_cache(maxsize=4096)
def _has_glyph(font: Font, char: str) -> bool:
    # Basic layout: the other one gives a missing mark no width, so that it no longer looks like a missing character.
    plain = font.font_variant(layout_engine=ImageFont.Layout.BASIC)
    return char.isspace() or bytes(plain.getmask(char)) not in [bytes(plain.getmask(missing)) for missing in _MISSING]


def hide_head(image: Image.Image) -> Image.Image:
    """A picture of a person with its upper fifth, where the head is, in coarse squares, for those who publish it.

    A guess: a head that is lower, or of another person in the picture, stays.
    """
    width, height = image.size
    top = image.crop((0, 0, width, max(1, round(height / 5))))
    squares = top.resize((max(1, top.width // 12), max(1, top.height // 12)), Image.Resampling.BOX)
    hidden = image.copy()
    hidden.paste(squares.resize(top.size, Image.Resampling.NEAREST), (0, 0))
    return hidden
