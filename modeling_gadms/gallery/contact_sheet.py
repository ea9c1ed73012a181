"""Draw search results on a contact sheet."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from ..media.drawing import FAINT_INK, INK, PAPER, font_for, paste_on_card, printable, shorten, wrap
from .records import SearchResult


COLUMNS = 5
_CELL_WIDTH = 168
_IMAGE_HEIGHT = 256
_LINE = 20
_GAP = 16
_MARGIN = 28
_TITLE_LINE = 30
_TITLE_LINES = 4


def draw_contact_sheet(query: str, results: Sequence[SearchResult]) -> Image.Image:
    """Draw the query, and below it the results from left to right, each with rank, score, source and time.

    Returns:
        `PIL.Image.Image` in mode RGB.
    """
    title_font = font_for(query, 22)
    columns = max(1, min(COLUMNS, len(results)))
    rows = -(-len(results) // columns)
    # At least three cells wide, so that the title has room.
    width = 2 * _MARGIN + max(columns, 3) * (_CELL_WIDTH + _GAP) - _GAP
    title = wrap(printable(query, title_font), title_font, width - 2 * _MARGIN, _TITLE_LINES)
    cell_height = _IMAGE_HEIGHT + 3 * _LINE + 10
    top = _MARGIN + len(title) * _TITLE_LINE + _GAP
    sheet = Image.new("RGB", (width, top + rows * (cell_height + _GAP) - _GAP + _MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(title):
        draw.text((_MARGIN, _MARGIN + number * _TITLE_LINE), line, font=title_font, fill=INK)
    for number, result in enumerate(results):
        row, column = divmod(number, columns)
        _draw_result(sheet, result, _MARGIN + column * (_CELL_WIDTH + _GAP), top + row * (cell_height + _GAP))
    return sheet


def place_and_time(result: SearchResult) -> str:
    """Frame and time of a result from a video, such as "frame 120, 0:12.0"; empty for an image file."""
    if result.frame is None:
        return ""
    text = f"frame {result.frame}"
    if result.time_seconds is not None:
        minutes, seconds = divmod(result.time_seconds, 60)
        text += f", {int(minutes)}:{seconds:04.1f}"
    return text


def _draw_result(sheet: Image.Image, result: SearchResult, left: int, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    paste_on_card(sheet, result.thumbnail, left, top, (_CELL_WIDTH, _IMAGE_HEIGHT))

    name = Path(result.source).name
    font, small = font_for("", 16), font_for(name, 13)
    below = top + _IMAGE_HEIGHT + 8
    draw.text((left, below), f"{result.rank}", font=font, fill=INK)
    draw.text((left + _CELL_WIDTH, below), f"{result.score:.3f}", font=font, fill=INK, anchor="ra")
    for number, line in enumerate((printable(name, small), place_and_time(result)), start=1):
        draw.text((left, below + number * _LINE + 2), shorten(line, small, _CELL_WIDTH), font=small, fill=FAINT_INK)
