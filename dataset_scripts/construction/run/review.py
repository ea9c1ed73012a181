"""Contact sheet for review: examples of kept persons, and of dropped persons for each reason."""

from collections import Counter
from collections.abc import Iterator

from PIL import Image, ImageDraw

from modeling_gadms.media.drawing import FAINT_INK, INK, PAPER, font_for, paste_on_card, shorten

from ..storage import Location, matching, read_footer, read_table


PERSONS_PER_ROW = 12
_CELL = (84, 176)
_GAP, _MARGIN, _LABEL = 8, 28, 44


def draw_review(root: Location) -> Image.Image:
    """Draw examples of the persons of a run that has finished the stage `persons`, in mode RGB.

    A row of kept persons, then one row of dropped persons per block and reason, most frequent first.
    """
    kept, total = _kept(root)
    rows: list[tuple[str, int, list[bytes]]] = [("kept", total, kept)]
    dropped: dict[str, list[bytes]] = {}
    counts: Counter[str] = Counter()
    for block, reason, thumbnail in _dropped(root):
        label = f"dropped by `{block}`: {reason}"
        counts[label] += 1
        thumbnails = dropped.setdefault(label, [])
        if len(thumbnails) < PERSONS_PER_ROW:
            thumbnails.append(thumbnail)
    rows += [(label, count, dropped[label]) for label, count in counts.most_common()]

    width = 2 * _MARGIN + PERSONS_PER_ROW * (_CELL[0] + _GAP) - _GAP
    height = 2 * _MARGIN + len(rows) * (_LABEL + _CELL[1] + _GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (label, count, thumbnails) in enumerate(rows):
        top = _MARGIN + number * (_LABEL + _CELL[1] + _GAP)
        font, small = font_for(label, 18), font_for("", 14)
        draw.text((_MARGIN, top + 8), shorten(label, font, width - 260), font=font, fill=INK)
        shown = f"{len(thumbnails)} of {count:,} persons" if len(thumbnails) < count else f"{count:,} persons"
        draw.text((width - _MARGIN, top + 10), shown, font=small, fill=FAINT_INK, anchor="ra")
        for column, content in enumerate(thumbnails):
            left, cell_top = _MARGIN + column * (_CELL[0] + _GAP), top + _LABEL
            paste_on_card(sheet, content, left, cell_top, _CELL, margin=0, radius=5)
    return sheet


def _kept(root: Location) -> tuple[list[bytes], int]:
    """Evenly spaced crops of the run, and the number of persons before captioning."""
    files = matching(root / "work" / "persons", "*.parquet")
    rows = [read_footer(file).num_rows for file in files]
    total = sum(rows)
    chosen = range(0, total, max(1, total // PERSONS_PER_ROW))[:PERSONS_PER_ROW]
    crops, first = [], 0
    for file, count in zip(files, rows, strict=True):
        if own := [number - first for number in chosen if first <= number < first + count]:
            crops += read_table(file, ["crop"])["crop"].take(own).to_pylist()
        first += count
    return crops, total


def _dropped(root: Location) -> Iterator[tuple[str, str, bytes]]:
    for file in matching(root / "work" / "rejects", "*.parquet"):
        for row in read_table(file, ["rejected_by", "reason", "thumbnail"]).to_pylist():
            if row["thumbnail"]:
                yield row["rejected_by"], row["reason"], row["thumbnail"]
