"""The pipeline report: counted from rows, summed over shards, as a text table and as a chart."""

import numpy as np
import pyarrow as pa
import pytest
from row_tables import new_rows

from dataset_scripts.construction.pipeline_report import (
    BlockCounts,
    count_rows,
    draw_report,
    format_report,
    sum_counts,
)
from modeling_gadms.media.drawing import PAPER


KEPT_BLUE = (46, 111, 149)


def passed(*steps: tuple[str, str | None]) -> list[dict]:
    return [{"block": block, "note": note} for block, note in steps]


def table_of(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, new_rows(0).schema)


# Image 0 cannot be read, image 1 holds nobody, image 2 two persons: one is too small, one stays with a note.
ROWS = table_of(
    [
        {
            "row_id": "i0",
            "position": 0,
            "trail": passed(("read", None)),
            "rejected_by": "read",
            "reason": "unreadable",
        },
        {
            "row_id": "i1",
            "position": 1,
            "trail": passed(("read", None), ("detect", "dark")),
            "rejected_by": "detect",
            "reason": "no person found",
        },
        {
            "row_id": "i2-00",
            "position": 2,
            "trail": passed(("read", None), ("detect", "dark"), ("box", None)),
            "rejected_by": "box",
            "reason": "too small",
        },
        {
            "row_id": "i2-01",
            "position": 2,
            "trail": passed(("read", None), ("detect", "dark"), ("box", None), ("crop", "face blurred")),
        },
    ]
)
UNITS = [("read", "images"), ("detect", "images"), ("box", "persons"), ("crop", "persons")]


def test_an_account_counts_images_once_and_persons_from_the_detector_on():
    assert count_rows(ROWS, UNITS) == (
        BlockCounts("read", "images", 3, 2, {"unreadable": 1}),
        BlockCounts("detect", "images", 2, 1, {"no person found": 1}, {"dark": 2}),
        BlockCounts("box", "persons", 2, 1, {"too small": 1}),
        BlockCounts("crop", "persons", 1, 1, {}, {"face blurred": 1}),
    )


def test_the_account_of_no_rows_has_every_block():
    assert count_rows(ROWS.slice(0, 0), UNITS) == tuple(BlockCounts(name, unit, 0, 0) for name, unit in UNITS)


def test_reasons_are_told_by_frequency_and_then_by_name():
    reasons = ["b", "c", "a", "c", "d", "a", "c"]
    rows = [
        {"row_id": str(n), "position": n, "trail": passed(("box", None)), "rejected_by": "box", "reason": reason}
        for n, reason in enumerate(reasons)
    ]
    (block,) = count_rows(table_of(rows), [("box", "persons")])
    assert list(block.dropped.items()) == [("c", 3), ("a", 2), ("b", 1), ("d", 1)]


def test_accounts_of_shards_add_up_block_by_block():
    first = (BlockCounts("read", "images", 3, 2, {"a": 1}), BlockCounts("box", "persons", 5, 3, {"x": 2}, {"n": 1}))
    second = (
        BlockCounts("read", "images", 4, 4),
        BlockCounts("box", "persons", 9, 5, {"y": 3, "x": 1}, {"n": 2, "m": 4}),
    )
    total = sum_counts([first, second])
    assert total == (
        BlockCounts("read", "images", 7, 6, {"a": 1}),
        BlockCounts("box", "persons", 14, 8, {"x": 3, "y": 3}, {"m": 4, "n": 3}),
    )
    assert list(total[1].noted) == ["m", "n"] and sum_counts([]) == ()


@pytest.mark.parametrize(("seen", "kept", "dropped"), [(3, 2, {}), (3, 2, {"a": 2}), (2, 2, {"a": 1}), (0, 1, {})])
def test_a_stage_whose_numbers_do_not_add_up_is_refused(seen, kept, dropped):
    with pytest.raises(ValueError, match=f"box: saw {seen}, kept {kept}.*rows are lost"):
        BlockCounts("box", "persons", seen, kept, dropped)


COUNTS = [
    BlockCounts("fetch", "images", 0, 0),
    BlockCounts("detect", "images", 746_972_269, 746_972_268, {"no person found": 1}),
    BlockCounts("verify 1, attempt 2", "persons", 33, 22, {"garbled": 6, "names a protected trait": 5}, {"hedges": 4}),
]


def test_the_account_as_text():
    assert (
        format_report(COUNTS)
        == """\
block                        unit            seen         kept  dropped  share kept
fetch                        images             0            0        0           -
detect                       images   746,972,269  746,972,268        1    > 99.9 %
  - no person found                                                   1
verify 1, attempt 2          persons           33           22       11      66.7 %
  - garbled                                                           6
  - names a protected trait                                           5
  ~ hedges                                                          (4)

~ noted, not dropped: a failed caption is requested again while attempts remain; removed: parts of a caption"""
    )


def test_without_notes_there_is_no_word_on_them():
    assert "~" not in format_report(COUNTS[:2])


def pixels(counts: list[BlockCounts]) -> np.ndarray:
    return np.asarray(draw_report(counts))


def bars(picture: np.ndarray) -> list[int]:
    """The lengths of the blue bars, from the top; the legend's square is not one."""
    lengths = (picture == KEPT_BLUE).all(-1).sum(1)
    starts = np.flatnonzero((lengths[1:] > 0) & (lengths[:-1] == 0)) + 1
    return [int(lengths[start]) for start in starts][1:]


def test_bars_of_one_unit_are_as_long_as_what_was_kept():
    counts = [
        BlockCounts("read", "images", 10, 10),
        BlockCounts("detect", "images", 10, 4, {"a": 6}),
        BlockCounts("box", "persons", 1000, 500, {"a": 500}),
        BlockCounts("crop", "persons", 500, 250, {"a": 250}),
    ]
    images, detect, box, crop = bars(pixels(counts))
    assert abs(detect - 0.4 * images) <= 1 and abs(box - images / 2) <= 1 and abs(crop - images / 4) <= 1


def test_what_was_dropped_makes_up_the_rest_of_the_bar():
    whole = pixels([BlockCounts("a", "images", 10, 10), BlockCounts("b", "images", 10, 5, {"x": 3, "y": 2})])[
        75:
    ]  # no legend
    rows = np.flatnonzero((whole == KEPT_BLUE).all(-1).any(1))
    cut = whole[rows[-1]]
    blue = np.flatnonzero((cut == KEPT_BLUE).all(-1))
    left, longest = blue[0], int((whole[rows[0]] == KEPT_BLUE).all(-1).sum())
    assert not (cut[left : left + longest] == PAPER).all(-1).any()
    colours = {tuple(pixel) for pixel in cut[left : left + longest].tolist()}
    assert len(colours) == 3


def test_a_handful_of_dropped_rows_among_millions_is_seen():
    picture = pixels([BlockCounts("a", "images", 10**9, 10**9 - 1, {"x": 1})])
    row = picture[np.flatnonzero((picture == KEPT_BLUE).all(-1).sum(1) > 100)[0]]
    end = np.flatnonzero((row == KEPT_BLUE).all(-1))[-1]
    assert (row[end + 1] != PAPER).any()


def test_blocks_that_saw_nothing_have_no_bar():
    assert bars(pixels([BlockCounts("read", "images", 0, 0), BlockCounts("box", "persons", 0, 0)])) == []


def test_no_blocks_make_a_picture_with_a_heading_alone():
    assert draw_report([]).size[1] < 120


def test_a_block_with_many_reasons_has_as_many_lines_as_they_need_and_loses_none(monkeypatch):
    from dataset_scripts.construction import pipeline_report

    shortened = []

    def shorten(text, font, width):
        shortened.append(font.getlength(text) > width)
        return text

    monkeypatch.setattr(pipeline_report, "shorten", shorten)
    reasons = {f"a reason of some length, the {number}th": 1 for number in range(15)}
    many = draw_report([BlockCounts("verify 1, attempt 2", "persons", 15, 0, reasons)])
    one = draw_report([BlockCounts("verify 1, attempt 2", "persons", 15, 0, {"a reason": 15})])
    assert len(shortened) > 15 and not any(shortened)
    assert many.size[0] == one.size[0] and many.size[1] > one.size[1] + 100


def test_nothing_reaches_the_margins_of_the_picture():
    reasons = {f"reason {number} " + "x" * number: 10**6 for number in range(25)}
    counts = [
        BlockCounts(f"verify {number}, attempt 2", "persons", 25 * 10**6, 0, reasons, {"y" * 300: 3})
        for number in range(25)
    ]
    picture = pixels(counts)
    for edge in (picture[:20], picture[-20:], picture[:, :20], picture[:, -20:]):
        assert (edge == PAPER).all()
