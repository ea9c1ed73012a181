"""What is indexed and what is not adds up."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modeling_gadms.detection import PersonBox
from modeling_gadms.gallery import PersonGallery
from modeling_gadms.indexing import NO_PERSON, index_frames
from modeling_gadms.video import FrameReader


@pytest.fixture
def gallery(tmp_path, model, processor) -> PersonGallery:
    return PersonGallery.create(tmp_path / "gallery", model, processor)


def red_detector(images: list[Image.Image]) -> list[list[PersonBox]]:
    """One box around the red pixels, if there are any."""
    found = []
    for image in images:
        rows, columns = np.nonzero((np.asarray(image) == (255, 0, 0)).all(axis=-1))
        box = PersonBox(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, 0.9) if len(rows) else None
        found.append([box] if box else [])
    return found


def test_a_folder_of_persons_seen_is_added_plus_skipped_by_reason(gallery, person_folder):
    report = index_frames(gallery, FrameReader(person_folder), progress=False)
    assert (report.seen, report.used, report.persons, report.lost_frames) == (18, 12, 12, 0)
    assert report.seen == report.used + sum(report.skipped.values())
    assert set(report.skipped) == {
        "missing",
        "empty file",
        "truncated",
        "not an image",
        "too large",
        "too small",
    }
    assert len(gallery) == 12
    assert str(report).splitlines()[:2] == ["12 persons from 12 of 18 images", "  skipped 1: empty file"]
    assert {result.source for result in gallery.search("a person", 20)} == {
        str(person_folder / f"person{number:02d}.png") for number in range(12)
    }


def test_full_frames_give_their_persons_cropped_and_frames_without_are_counted(gallery, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(4):
        frame = Image.new("RGB", (200, 100), "gray")
        if number % 2:
            ImageDraw.Draw(frame).rectangle((60, 20, 79, 79), fill=(255, 0, 0))
        frame.save(folder / f"{number}.png")
    report = index_frames(gallery, FrameReader(folder), detector=red_detector, progress=False)
    assert (report.seen, report.used, report.persons, report.skipped) == (4, 2, 2, {NO_PERSON: 2})
    for result in gallery.search("a person in red"):
        assert result.box == PersonBox(60, 20, 80, 80, pytest.approx(0.9))
        assert result.source.endswith(("1.png", "3.png"))
        assert Image.open(io.BytesIO(result.thumbnail)).size == (22, 66)  # the person and a margin
    assert "  skipped 2: no person found" in str(report)
