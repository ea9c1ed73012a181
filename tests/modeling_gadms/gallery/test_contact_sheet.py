"""A contact sheet shows every result, in rank order."""

import io

import numpy as np
import pytest
from PIL import Image

from modeling_gadms.gallery.contact_sheet import draw_contact_sheet, place_and_time
from modeling_gadms.gallery.person_gallery import SearchResult


COLOURS = [(220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30), (30, 200, 220), (200, 30, 220), (120, 60, 20)]


def result(rank: int, size=(60, 150), **fields) -> SearchResult:
    content = io.BytesIO()
    Image.new("RGB", size, COLOURS[rank - 1]).save(content, "JPEG", quality=95)
    nothing = dict.fromkeys(("frame", "time_seconds", "box", "camera", "time", "track"))
    values = nothing | {"id": str(rank), "source": f"{rank}.png", "columns": {}} | fields
    return SearchResult(rank=rank, score=1 - rank / 10, thumbnail=content.getvalue(), **values)


def where(sheet: Image.Image, colour) -> tuple[float, float]:
    """Centre (row, column) of the pixels of about this colour."""
    close = (np.abs(np.asarray(sheet).astype(int) - colour) < 12).all(axis=-1)
    assert close.sum() > 5000, "a thumbnail is missing or too small to see"
    rows, columns = np.nonzero(close)
    return float(rows.mean()), float(columns.mean())


def test_thumbnails_come_in_rank_order_from_left_to_right_and_down():
    sheet = draw_contact_sheet("a person", [result(rank) for rank in range(1, 8)])
    centres = [where(sheet, colour) for colour in COLOURS]
    first_row, second_row = centres[:5], centres[5:]
    assert np.ptp([row for row, _ in first_row]) < 1
    assert [column for _, column in first_row] == sorted(column for _, column in first_row)
    assert min(row for row, _ in second_row) > max(row for row, _ in first_row) + 100
    assert second_row[0][1] == pytest.approx(first_row[0][1], abs=1)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_any_number_of_results_fits(count):
    sheet = draw_contact_sheet("a person", [result(rank) for rank in range(1, count + 1)])
    assert sheet.mode == "RGB"
    for colour in COLOURS[:count]:
        where(sheet, colour)


@pytest.mark.parametrize("size", [(8, 256), (256, 8), (8, 8)])
def test_a_thumbnail_of_any_shape_stays_in_its_cell(size):
    sheet = np.asarray(draw_contact_sheet("a person", [result(1, size=size), result(2)]))
    columns = np.nonzero((np.abs(sheet.astype(int) - COLOURS[0]) < 12).all(axis=-1))[1]
    assert 28 < columns.min() <= columns.max() < 28 + 168


def test_a_long_description_of_any_script_and_a_long_name_leave_the_width_alone():
    plain = draw_contact_sheet("a person", [result(1)])
    long = draw_contact_sheet("人物 😀 " * 250, [result(1, source="x" * 300 + ".png")])
    assert long.width == plain.width
    assert long.height < plain.height + 100, "more than four lines of title"


def test_frame_and_time_are_told_for_a_video():
    assert place_and_time(result(1, frame=120, time_seconds=72.46)) == "frame 120, 1:12.5"
    assert place_and_time(result(1, frame=120)) == "frame 120"
    assert place_and_time(result(1)) == ""


def test_the_score_and_the_rank_are_written():
    def ink(**fields) -> np.ndarray:
        changed = result(1)
        return np.asarray(draw_contact_sheet("a person", [SearchResult(**{**vars(changed), **fields})]))

    assert not np.array_equal(ink(), ink(score=0.1))
    assert not np.array_equal(ink(), ink(rank=7))
    assert not np.array_equal(ink(), ink(source="other.png"))
    assert not np.array_equal(ink(), ink(frame=3))
