"""Counts of indexed and skipped images and persons add up."""

import io
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from modeling_gadms.gallery.person_gallery import PersonGallery
from modeling_gadms.indexing.indexer import NO_PERSON, IndexProgress, index_frames
from modeling_gadms.indexing.sources import RowReader
from modeling_gadms.media.detection import PersonBox
from modeling_gadms.media.video import FrameReader


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
    assert set(report.skipped) == {"missing", "empty file", "truncated", "not an image", "too large", "too small"}
    assert len(gallery) == 12
    lines = ["12 persons from 12 of 18 images", f"  skipped 1: empty file ({person_folder / 'empty.jpg'})"]
    assert str(report).splitlines()[:2] == lines
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


def write_track(path, *, frames: int = 40, seen=range(40)) -> None:
    """A red person of 40 x 100 pixels who walks to the right by 4 pixels a frame, 10 frames a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 10, (320, 160))
    for index in range(frames):
        frame = np.full((160, 320, 3), 90, dtype=np.uint8)
        if index in seen:
            cv2.rectangle(frame, (20 + 4 * index, 30), (59 + 4 * index, 129), (0, 0, 255), -1)
        writer.write(frame)
    writer.release()


def test_one_track_is_one_result_with_its_best_crops(gallery, tmp_path):
    write_track(tmp_path / "v.avi")
    report = index_frames(gallery, FrameReader(tmp_path / "v.avi"), detector=red_detector, progress=False)
    assert (report.found, report.tracks, report.persons, report.skipped_crops) == (40, 1, 3, 37)
    assert "1 track; 37 crops of lower quality skipped" in str(report)
    (result,) = gallery.search("a person in red")
    assert (result.track, result.track_summary.persons) == (0, 3)
    assert [crop.frame // 10 for crop in gallery.crops(result.source, result.track)] == [0, 1, 2]


def test_two_tracks_are_two_results(gallery, tmp_path):
    write_track(tmp_path / "v.avi", frames=60, seen=[*range(10), *range(35, 60)])
    report = index_frames(gallery, FrameReader(tmp_path / "v.avi"), detector=red_detector, progress=False)
    assert report.tracks == 2
    assert sorted(result.track for result in gallery.search("a person in red")) == [0, 35_000]


def test_nobody_is_followed_on_request(gallery, tmp_path):
    write_track(tmp_path / "v.avi", frames=5)
    frames = FrameReader(tmp_path / "v.avi")
    report = index_frames(gallery, frames, detector=red_detector, crops_per_track=0, progress=False)
    assert (report.persons, report.tracks, report.skipped_crops) == (5, 0, 0)
    assert {result.track for result in gallery.search("a person in red")} == {None}


def test_camera_and_time_of_each_person(gallery, tmp_path):
    write_track(tmp_path / "v.avi", frames=10)
    start = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
    index_frames(
        gallery,
        FrameReader(tmp_path / "v.avi", every=5),
        detector=red_detector,
        crops_per_track=0,
        camera="gate-2",
        start=start,
        progress=False,
    )
    found = sorted(gallery.search("a person in red"), key=lambda result: result.frame)
    assert [result.time for result in found] == [start, start + timedelta(seconds=0.5)]
    assert {result.camera for result in found} == {"gate-2"}
    assert len(gallery.search("a person", where="time > '2026-11-25 08:00:00.2' AND camera = 'gate-2'")) == 1


def test_a_start_is_of_a_video(gallery, person_folder):
    with pytest.raises(ValueError, match="is not a video"):
        index_frames(gallery, FrameReader(person_folder), start=datetime(2026, 11, 25), progress=False)


def test_what_a_table_says_goes_into_columns_and_the_rest_is_named(tmp_path, model, processor):
    gallery = PersonGallery.create(tmp_path / "g", model, processor, columns={"price": "float"})
    image = Image.new("RGB", (16, 32), (200, 0, 0))
    rows = [
        {"image": image, "price": 2.5, "camera": "shop", "time": "2026-11-25T10:00:00+02:00", "brand": "Acme"},
        {"image": image, "price": None, "size": "L"},
    ]
    report = index_frames(gallery, RowReader(rows, "t"), camera="elsewhere", progress=False)
    assert (report.persons, report.unused_fields) == (2, ("brand", "size"))
    assert "fields that the gallery has no column for: brand, size" in str(report)
    first, second = sorted(gallery.search("a person"), key=lambda result: result.source)
    assert (first.columns, first.camera, first.time) == ({"price": 2.5}, "shop", datetime(2026, 11, 25, 8, tzinfo=UTC))
    assert (second.columns, second.camera, second.time) == ({"price": None}, "elsewhere", None)


def test_progress_is_told_for_each_picture(gallery, person_folder):
    told: list[IndexProgress] = []
    index_frames(gallery, FrameReader(person_folder), progress=told.append)
    assert [step.found for step in told] == list(range(1, 13))
    assert [step.seen for step in told] == sorted(step.seen for step in told)
    assert {step.expected for step in told} == {18}


def test_a_run_that_is_stopped_keeps_what_it_found_and_can_be_repeated(gallery, tmp_path):
    write_track(tmp_path / "v.avi")
    frames = FrameReader(tmp_path / "v.avi")
    asked = iter(range(100))
    stopped = index_frames(gallery, frames, detector=red_detector, progress=False, cancelled=lambda: next(asked) >= 14)
    assert stopped.cancelled
    assert (stopped.seen, stopped.found, stopped.persons) == (15, 15, 2)  # seconds 0 and 1
    assert "stopped before the end" in str(stopped)
    again = index_frames(gallery, frames, detector=red_detector, progress=False)
    assert not again.cancelled
    assert again.found == again.persons + again.already_there + again.skipped_crops
    assert again.already_there == 2


def test_more_frames_than_allowed_are_refused_before_or_as_they_come(gallery, tmp_path, monkeypatch):
    write_track(tmp_path / "v.avi")
    frames = FrameReader(tmp_path / "v.avi")
    with pytest.raises(ValueError, match="has 40 frames; the maximum is 39"):
        index_frames(gallery, frames, detector=red_detector, max_frames=39, progress=False)
    monkeypatch.setattr(frames, "expected", None)  # as of a file that does not say how long it is
    with pytest.raises(ValueError, match="has more than 39 frames; the maximum is"):
        index_frames(gallery, frames, detector=red_detector, max_frames=39, progress=False)
    assert index_frames(gallery, frames, detector=red_detector, max_frames=40, progress=False).seen == 40
