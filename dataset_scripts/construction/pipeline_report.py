"""The account of a run: what each block saw, kept and dropped, as numbers, a table and a picture."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from PIL import Image, ImageDraw

from modeling_gadms.media.drawing import FAINT_INK, INK, PAPER, Font, font_for, shorten


IMAGES, PERSONS = "images", "persons"


@dataclass(frozen=True)
class Stage:
    """What one block did: `seen` = `kept` + the sum of `dropped`.

    Attributes:
        block (`str`): its name.
        unit (`str`): what is counted, `images` or `persons`.
        seen, kept (`int`): rows that entered it, and that left it.
        dropped (`dict[str, int]`): the others, by reason.
        noted (`dict[str, int]`): what the block counts besides.
    """

    block: str
    unit: str
    seen: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seen != self.kept + sum(self.dropped.values()):
            raise ValueError(f"{self.block}: saw {self.seen}, kept {self.kept}, dropped {self.dropped}: rows are lost")


def account(table: pa.Table, blocks: Sequence[tuple[str, str]]) -> tuple[Stage, ...]:
    """Count what happened to the rows of a shard.

    Args:
        table (`pa.Table`): all its rows, kept and rejected.
        blocks (`Sequence[tuple[str, str]]`): name and unit of each block, in order. Where the unit is images, the
            persons of an image count once.

    Returns:
        `tuple[Stage, ...]`: one for each block, in order.
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
        Stage(
            name,
            unit,
            len(seen[name]),
            len(seen[name] - dropped[name].keys()),
            _by_count(Counter(dropped[name].values())),
            _by_count(Counter(noted[name].values())),
        )
        for name, unit in blocks
    )


def add_up(accounts: Iterable[Sequence[Stage]]) -> tuple[Stage, ...]:
    """The account of several shards of one phase, block by block, in the order in which blocks first come."""
    total: dict[str, Stage] = {}
    for stages in accounts:
        for stage in stages:
            before = total.get(stage.block, Stage(stage.block, stage.unit, 0, 0))
            total[stage.block] = Stage(
                stage.block,
                stage.unit,
                before.seen + stage.seen,
                before.kept + stage.kept,
                _by_count(Counter(before.dropped) + Counter(stage.dropped)),
                _by_count(Counter(before.noted) + Counter(stage.noted)),
            )
    return tuple(total.values())


def format_funnel(stages: Sequence[Stage]) -> str:
    """The account as a table of text: a line a block, and one for each reason.

    >>> print(format_funnel([Stage("box", "persons", 1200, 900, {"too small": 200, "too wide": 100})]))
    block          unit      seen  kept  dropped  share kept
    box            persons  1,200   900      300      75.0 %
      - too small                            200
      - too wide                             100
    """
    rows: list[tuple[str, ...]] = [("block", "unit", "seen", "kept", "dropped", "share kept")]
    for stage in stages:
        share = f"{100 * stage.kept / stage.seen:.1f} %" if stage.seen else "-"
        if share == "100.0 %" and stage.kept < stage.seen:
            share = "> 99.9 %"
        counts = (f"{count:,}" for count in (stage.seen, stage.kept, stage.seen - stage.kept))
        rows.append((stage.block, stage.unit, *counts, share))
        rows += [(f"  - {reason}", "", "", "", f"{count:,}", "") for reason, count in stage.dropped.items()]
        rows += [(f"  ~ {note}", "", "", "", f"({count:,})", "") for note, count in stage.noted.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if any(stage.noted for stage in stages):
        lines += [
            "",
            "~ noted, not dropped: a caption that failed is asked for again while attempts are left",
        ]
    return "\n".join(lines)


_WIDTH, _MARGIN, _GAP, _ROOM = 1360, 32, 18, 330
_BAR, _LINE, _ROW_GAP, _HEADING = 24, 21, 8, 40
_KEPT = (46, 111, 149)
_DROPPED = (
    (214, 108, 58), (240, 176, 82), (186, 74, 96), (140, 110, 170), (110, 142, 96), (226, 138, 148), (148, 116, 78),
    (90, 90, 110),
)  # fmt: skip


def draw_funnel(stages: Sequence[Stage]) -> Image.Image:
    """The account as a picture: a bar a block, what it kept in blue, what it dropped by reason in other colours.

    Bars of one unit share a scale, so that the eye can follow it down; reasons, each with its colour, and notes stand
    beside their bar.

    Returns:
        `PIL.Image.Image` in mode RGB.
    """
    font, small, bold = font_for("", 17), font_for("", 15), font_for("", 20)
    counts = [f"{stage.kept:,} of {stage.seen:,}" for stage in stages]
    counts_right = _MARGIN + _widest([stage.block for stage in stages], font) + _GAP + _widest(counts, small)
    bar_left = counts_right + _GAP
    words_left = bar_left + _ROOM + _GAP
    words = [_flow(_words(stage), small, _WIDTH - _MARGIN - words_left) for stage in stages]
    heights = [max(_BAR, len(lines) * _LINE) + _ROW_GAP for lines in words]
    begins = [not number or stages[number - 1].unit != stage.unit for number, stage in enumerate(stages)]
    height = 2 * _MARGIN + 36 + sum(heights) + _HEADING * sum(begins)
    picture = Image.new("RGB", (_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(picture)

    draw.text((_MARGIN, _MARGIN), "What each block kept and dropped", font=bold, fill=INK)
    legend: list[_Word] = [
        ("kept", _KEPT, INK), ("dropped, by reason", _DROPPED[0], INK), ("noted, not dropped", None, FAINT_INK),
    ]  # fmt: skip
    _write(draw, _flow(legend, small, _WIDTH), words_left, _MARGIN + 4, small)
    top = _MARGIN + 36
    for number, stage in enumerate(stages):
        if begins[number]:
            draw.text((_MARGIN, top + 14), stage.unit, font=small, fill=FAINT_INK)
            draw.line((_MARGIN, top + 36, _WIDTH - _MARGIN, top + 36), fill=(222, 222, 226))
            top += _HEADING + 4
        middle = top + _BAR // 2
        draw.text((_MARGIN, middle), stage.block, font=font, fill=INK, anchor="lm")
        draw.text((counts_right, middle), counts[number], font=small, fill=INK, anchor="rm")
        most = max(other.seen for other in stages if other.unit == stage.unit)
        left = float(bar_left)
        dropped = [(count, _colour(index)) for index, count in enumerate(stage.dropped.values())]
        for segments in ([(stage.kept, _KEPT)], dropped):
            total = sum(count for count, _ in segments)
            # Two pixels at least: a handful of rows among millions is seen too.
            length = max(2.0, total / most * _ROOM) if total else 0.0
            for count, colour in segments:
                right = left + length * count / max(total, 1)
                if round(right) > round(left):
                    draw.rectangle((round(left), top, round(right) - 1, top + _BAR - 1), fill=colour)
                left = right
        _write(draw, words[number], words_left, top + (_BAR - _LINE) // 2, small)
        top += heights[number]
    return picture


_Word = tuple[str, tuple[int, int, int] | None, tuple[int, int, int]]
"""A text, the colour of the square before it, and its own."""
_SQUARE = 12


def _words(stage: Stage) -> list[_Word]:
    words: list[_Word] = [
        (f"{count:,} {reason}", _colour(index), INK) for index, (reason, count) in enumerate(stage.dropped.items())
    ]
    words += [(f"{count:,} {note}", None, FAINT_INK) for note, count in stage.noted.items()]
    return words


def _colour(index: int) -> tuple[int, int, int]:
    return _DROPPED[index % len(_DROPPED)]


def _flow(words: Sequence[_Word], font: Font, width: int) -> list[list[tuple[int, _Word]]]:
    """Lines of words, each with its distance from the left; only one that is longer than a line is cut."""
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
    """The most frequent first, equals by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
