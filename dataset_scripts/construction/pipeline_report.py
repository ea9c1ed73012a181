"""Pipeline report: what each block of a run saw, kept and dropped, as counts, as a text table and as a chart."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import pyarrow as pa
from PIL import Image, ImageDraw

from modeling_gadms.media.drawing import FAINT_INK, INK, PAPER, Font, font_for, shorten


IMAGES, PERSONS, SHARDS = "images", "persons", "shards"


@dataclass(frozen=True)
class BlockCounts:
    """What one block did: `seen` = `kept` + the sum of `dropped`."""

    block: str
    unit: str  # what is counted: images, persons or shards
    seen: int  # rows that entered the block
    kept: int  # rows that left it
    dropped: dict[str, int] = field(default_factory=dict)  # dropped rows by reason
    noted: dict[str, int] = field(default_factory=dict)  # notes by text, independent of keep and drop

    def __post_init__(self) -> None:
        if self.seen != self.kept + sum(self.dropped.values()):
            raise ValueError(f"{self.block}: saw {self.seen}, kept {self.kept}, dropped {self.dropped}: rows are lost")


def count_rows(table: pa.Table, blocks: Sequence[tuple[str, str]]) -> tuple[BlockCounts, ...]:
    """Count what each block did to the rows of a shard, kept and rejected.

    `blocks` holds name and unit of each block, in order. If the unit is images, all persons of an image count as one.
    """
    seen: dict[str, set] = {name: set() for name, _ in blocks}
    dropped: dict[str, dict] = {name: {} for name, _ in blocks}
    noted: dict[str, dict] = {name: {} for name, _ in blocks}
    unit_of = dict(blocks)
    names = ("row_id", "position", "trail", "rejected_by", "reason")
    for row_id, position, trail, rejected_by, reason in zip(*(table[name].to_pylist() for name in names), strict=True):
        for step in trail:
            item = position if unit_of[step["block"]] == IMAGES else row_id
            seen[step["block"]].add(item)
            if step["note"]:
                noted[step["block"]][item] = step["note"]
        if rejected_by:
            item = position if unit_of[rejected_by] == IMAGES else row_id
            dropped[rejected_by][item] = reason
    return tuple(
        BlockCounts(
            name,
            unit,
            len(seen[name]),
            len(seen[name] - dropped[name].keys()),
            _by_count(Counter(dropped[name].values())),
            _by_count(Counter(noted[name].values())),
        )
        for name, unit in blocks
    )


def shard_counts(stage: str, shards: int, set_aside: int) -> tuple[BlockCounts, ...]:
    """Counts of the shards of a stage, if some are set aside: their rows are in no other count."""
    if not set_aside:
        return ()
    return (BlockCounts(f"shards of {stage}", SHARDS, shards, shards - set_aside, {"set aside": set_aside}),)


def sum_counts(shards: Iterable[Sequence[BlockCounts]]) -> tuple[BlockCounts, ...]:
    """Sum the counts of several shards of one stage, block by block, in order of first appearance."""
    total: dict[str, BlockCounts] = {}
    for counts in shards:
        for block in counts:
            before = total.get(block.block, BlockCounts(block.block, block.unit, 0, 0))
            total[block.block] = BlockCounts(
                block.block,
                block.unit,
                before.seen + block.seen,
                before.kept + block.kept,
                _by_count(Counter(before.dropped) + Counter(block.dropped)),
                _by_count(Counter(before.noted) + Counter(block.noted)),
            )
    return tuple(total.values())


def format_report(counts: Sequence[BlockCounts]) -> str:
    """Format counts as a text table: one line per block, and one line per reason and note.

    >>> print(format_report([BlockCounts("box", "persons", 1200, 900, {"too small": 200, "too wide": 100})]))
    block          unit      seen  kept  dropped  share kept
    box            persons  1,200   900      300      75.0 %
      - too small                            200
      - too wide                             100
    """
    rows: list[tuple[str, ...]] = [("block", "unit", "seen", "kept", "dropped", "share kept")]
    for block in counts:
        share = f"{100 * block.kept / block.seen:.1f} %" if block.seen else "-"
        if share == "100.0 %" and block.kept < block.seen:
            share = "> 99.9 %"
        numbers = (f"{count:,}" for count in (block.seen, block.kept, block.seen - block.kept))
        rows.append((block.block, block.unit, *numbers, share))
        rows += [(f"  - {reason}", "", "", "", f"{count:,}", "") for reason, count in block.dropped.items()]
        rows += [(f"  ~ {note}", "", "", "", f"({count:,})", "") for note, count in block.noted.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if any(block.noted for block in counts):
        meaning = "a failed caption is requested again while attempts remain; removed: parts of a caption"
        lines += ["", f"~ noted, not dropped: {meaning}"]
    return "\n".join(lines)


_WIDTH, _MARGIN, _GAP, _ROOM = 1360, 32, 18, 330
_BAR, _LINE, _ROW_GAP, _HEADING = 24, 21, 8, 40
_KEPT = (46, 111, 149)
_DROPPED = (
    (214, 108, 58), (240, 176, 82), (186, 74, 96), (140, 110, 170), (110, 142, 96), (226, 138, 148), (148, 116, 78),
    (90, 90, 110),
)  # fmt: skip


def draw_report(counts: Sequence[BlockCounts]) -> Image.Image:
    """Draw counts as a bar chart in RGB: one bar per block, kept rows in blue, dropped rows coloured by reason.

    Bars of the same unit share one scale. Reasons (with their colour) and notes are printed beside the bar.
    """
    font, small, bold = font_for("", 17), font_for("", 15), font_for("", 20)
    numbers = [f"{block.kept:,} of {block.seen:,}" for block in counts]
    numbers_right = _MARGIN + _widest([block.block for block in counts], font) + _GAP + _widest(numbers, small)
    bar_left = numbers_right + _GAP
    words_left = bar_left + _ROOM + _GAP
    words = [_flow(_words(block), small, _WIDTH - _MARGIN - words_left) for block in counts]
    heights = [max(_BAR, len(lines) * _LINE) + _ROW_GAP for lines in words]
    begins = [not number or counts[number - 1].unit != block.unit for number, block in enumerate(counts)]
    height = 2 * _MARGIN + 36 + sum(heights) + _HEADING * sum(begins)
    figure = Image.new("RGB", (_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(figure)

    draw.text((_MARGIN, _MARGIN), "What each block kept and dropped", font=bold, fill=INK)
    legend: list[_Word] = [
        ("kept", _KEPT, INK), ("dropped, by reason", _DROPPED[0], INK), ("noted, not dropped", None, FAINT_INK),
    ]  # fmt: skip
    _write(draw, _flow(legend, small, _WIDTH), words_left, _MARGIN + 4, small)
    top = _MARGIN + 36
    for number, block in enumerate(counts):
        if begins[number]:
            draw.text((_MARGIN, top + 14), block.unit, font=small, fill=FAINT_INK)
            draw.line((_MARGIN, top + 36, _WIDTH - _MARGIN, top + 36), fill=(222, 222, 226))
            top += _HEADING + 4
        middle = top + _BAR // 2
        draw.text((_MARGIN, middle), block.block, font=font, fill=INK, anchor="lm")
        draw.text((numbers_right, middle), numbers[number], font=small, fill=INK, anchor="rm")
        _draw_bar(draw, block, bar_left, top, most=max(other.seen for other in counts if other.unit == block.unit))
        _write(draw, words[number], words_left, top + (_BAR - _LINE) // 2, small)
        top += heights[number]
    return figure


def _draw_bar(draw: ImageDraw.ImageDraw, block: BlockCounts, bar_left: int, top: int, *, most: int) -> None:
    left = float(bar_left)
    dropped = list(zip(block.dropped.values(), cycle(_DROPPED), strict=False))
    for segments in ([(block.kept, _KEPT)], dropped):
        total = sum(count for count, _ in segments)
        # At least two pixels, so that a handful of rows among millions stays visible.
        length = max(2.0, total / most * _ROOM) if total else 0.0
        for count, colour in segments:
            right = left + length * count / max(total, 1)
            if round(right) > round(left):
                draw.rectangle((round(left), top, round(right) - 1, top + _BAR - 1), fill=colour)
            left = right


_Word = tuple[str, tuple[int, int, int] | None, tuple[int, int, int]]
"""A text, the colour of the square before it (if any), and the colour of the text."""
_SQUARE = 12


def _words(counts: BlockCounts) -> list[_Word]:
    words: list[_Word] = [
        (f"{count:,} {reason}", colour, INK)
        for (reason, count), colour in zip(counts.dropped.items(), cycle(_DROPPED), strict=False)
    ]
    return words + [(f"{count:,} {note}", None, FAINT_INK) for note, count in counts.noted.items()]


def _flow(words: Sequence[_Word], font: Font, width: int) -> list[list[tuple[int, _Word]]]:
    """Break words into lines; each word has its horizontal offset. A word longer than a line is shortened."""
    lines: list[list[tuple[int, _Word]]] = []
    left = width
    for text, square, colour in words:
        before = _SQUARE + 6 if square else 0
        text = shorten(text, font, width - before)
        needed = before + round(font.getlength(text))
        if left + needed > width:
            lines.append([])
            left = 0
        lines[-1].append((left, (text, square, colour)))
        left += needed + 16
    return lines


def _write(draw: ImageDraw.ImageDraw, lines: list[list[tuple[int, _Word]]], left: int, top: int, font: Font) -> None:
    for number, line in enumerate(lines):
        middle = top + number * _LINE + _LINE // 2
        for distance, (text, square, colour) in line:
            x = left + distance
            if square:
                half = _SQUARE // 2
                draw.rectangle((x, middle - half, x + _SQUARE - 1, middle + half - 1), fill=square)
                x += _SQUARE + 6
            draw.text((x, middle), text, font=font, fill=colour, anchor="lm")


def _widest(texts: Sequence[str], font: Font) -> int:
    return max((round(font.getlength(text)) for text in texts), default=0)


def _by_count(counts: Counter[str]) -> dict[str, int]:
    """Most frequent first; ties by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
