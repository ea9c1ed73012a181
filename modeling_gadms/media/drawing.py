"""Draw text and images in figures: choose fonts, wrap text, fit images."""

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

# Common fonts of Linux, macOS and Windows. Fonts with Chinese, Japanese and Korean come last, since their Latin
# letters are plainer. Pillow's own font is the fallback.
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
# Characters missing in most fonts: a noncharacter, and a mark, to which some versions of Pillow add a circle.
_MISSING = ("\U0010ffff", "\U0001e8d6")


def font_for(text: str, size: int) -> Font:
    """The font with most of the text's characters, among the installed fonts and Pillow's own."""
    return max(_fonts(size), key=lambda font: sum(_has_glyph(font, char) for char in set(text)))


def printable(text: str, font: Font) -> str:
    """The text with a box (or a question mark) for each character that is missing in the font."""
    substitute = "□" if _has_glyph(font, "□") else "?"
    return "".join(
        char if _has_glyph(font, char) else substitute
        for char in " ".join(text.split())
        # Joiners, marks and variation selectors are dropped: they have no glyph of their own.
        if _has_glyph(font, char) or unicodedata.category(char) not in ("Cf", "Mn", "Me")
    )


def wrap(text: str, font: Font, width: int, max_lines: int) -> list[str]:
    """Wrap text to lines of at most `width` pixels, at spaces if possible; truncated text ends with "..."."""
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
    """Truncate text to `width` pixels, with "..." at its end if it is longer."""
    if font.getlength(text) <= width:
        return text
    return _fitting(text, font, width, ending="...").rstrip() + "..."


def fit_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an image to the largest RGB image that fits into (width, height)."""
    scale = min(size[0] / image.width, size[1] / image.height)
    fitted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(fitted, Image.Resampling.LANCZOS)


def paste_on_card(
    sheet: Image.Image, content: bytes, left: int, top: int, size: tuple[int, int], *, margin: int = 8, radius: int = 8
) -> None:
    """Paste the content of an image file, as large as it fits, into the centre of a card of `size` (width, height)."""
    width, height = size
    draw = ImageDraw.Draw(sheet)
    draw.rounded_rectangle((left, top, left + width, top + height), radius=radius, fill=CARD)
    with Image.open(io.BytesIO(content)) as image:
        fitted = fit_image(image, (width - 2 * margin, height - 2 * margin))
    sheet.paste(fitted, (left + (width - fitted.width) // 2, top + (height - fitted.height) // 2))


def _fitting(text: str, font: Font, width: int, ending: str = "") -> str:
    """The longest prefix that fits with the ending; at least one character, so that wrapping advances."""
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
    # With basic layout a missing mark looks like a missing character; the other layout gives it no width.
    plain = font.font_variant(layout_engine=ImageFont.Layout.BASIC)
    return char.isspace() or bytes(plain.getmask(char)) not in [bytes(plain.getmask(missing)) for missing in _MISSING]


def hide_head(image: Image.Image) -> Image.Image:
    """Pixelate the upper fifth of an image of a person, where the head usually is, before publication.

    Heads further down, and heads of other persons in the image, remain visible.
    """
    width, height = image.size
    top = image.crop((0, 0, width, max(1, round(height / 5))))
    squares = top.resize((max(1, top.width // 12), max(1, top.height // 12)), Image.Resampling.BOX)
    hidden = image.copy()
    hidden.paste(squares.resize(top.size, Image.Resampling.NEAREST), (0, 0))
    return hidden
