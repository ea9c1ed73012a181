"""Draw a contact sheet of sample images and captions of each split."""

from collections.abc import Sequence
from itertools import groupby

from PIL import Image, ImageDraw

from modeling_gadms.media.drawing import FAINT_INK, INK, PAPER, font_for, paste_on_card, printable, wrap

from .splits import Sample


_CELL_WIDTH = 220
_IMAGE_HEIGHT = 240
_LINE = 17
_CAPTION_LINES = 9
_GAP = 18
_MARGIN = 28
_HEAD = 34


def draw_sample_sheet(title: str, samples: Sequence[Sample]) -> Image.Image:
    """Draw a row of samples for each split, with row number, person id and captions.

    Args:
        title (`str`): title of the sheet.
        samples (`Sequence[Sample]`): samples, grouped by split.

    Returns:
        `PIL.Image.Image` in mode RGB.
    """
    by_split = {split: list(row) for split, row in groupby(samples, key=lambda sample: sample.split)}
    columns = max((len(row) for row in by_split.values()), default=1)
    cell_height = _IMAGE_HEIGHT + (_CAPTION_LINES + 2) * _LINE
    width = 2 * _MARGIN + max(columns, 2) * (_CELL_WIDTH + _GAP) - _GAP
    height = 2 * _MARGIN + _HEAD + len(by_split) * (_HEAD + cell_height + _GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    head, plain = font_for(title, 22), font_for("", 16)
    draw.text((_MARGIN, _MARGIN), printable(title, head), font=head, fill=INK)
    top = _MARGIN + _HEAD
    for split, row in by_split.items():
        draw.text((_MARGIN, top + 8), split, font=plain, fill=INK)
        for number, sample in enumerate(row):
            _draw_sample(sheet, sample, _MARGIN + number * (_CELL_WIDTH + _GAP), top + _HEAD)
        top += _HEAD + cell_height + _GAP
    return sheet


def _draw_sample(sheet: Image.Image, sample: Sample, left: int, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    paste_on_card(sheet, sample.content, left, top, (_CELL_WIDTH, _IMAGE_HEIGHT))
    text = " | ".join(sample.captions)
    font = font_for(text, 13)
    name = f"row {sample.row}" + (f", person {sample.person}" if sample.person else "")
    below = top + _IMAGE_HEIGHT + 6
    draw.text((left, below), name, font=font_for("", 14), fill=INK)
    for number, line in enumerate(wrap(printable(text, font), font, _CELL_WIDTH, _CAPTION_LINES), start=1):
        draw.text((left, below + number * _LINE + 4), line, font=font, fill=FAINT_INK)
