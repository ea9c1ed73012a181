"""Counts of indexed and skipped images and persons add up."""

import io
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord
from modeling_gadms.indexing.indexer import NO_PERSON, WRONG_VALUE, BrokenSourceError, IndexProgress, index_frames
from modeling_gadms.indexing.sources import RowReader, open_source
from modeling_gadms.media.detection import PersonBox
from modeling_gadms.media.names import unescape_name
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


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": "soon"},
        {"time": datetime.max.replace(tzinfo=timezone(timedelta(hours=-9)))},
        {"stock": 2**63},
        {"stock": "many"},
    ],
)
def test_a_row_whose_value_fits_no_column_is_counted_and_the_next_one_is_read(tmp_path, model, processor, wrong):
    gallery = PersonGallery.create(tmp_path / "g", model, processor, columns={"title": "string", "stock": "integer"})
    image = Image.new("RGB", (16, 32))
    rows = [{"image": image, "stock": -(2**63)}, {"image": image, **wrong}, {"image": image, "title": "🧥\n"}]
    report = index_frames(gallery, RowReader(rows, "t"), progress=False)
    assert (report.seen, report.persons, report.unread, report.skipped) == (3, 2, 1, {WRONG_VALUE: 1})
    (example,) = report.examples[WRONG_VALUE]
    assert example.startswith("row 2: ") and str(*wrong) in example
    assert len(gallery) == 2


def test_a_source_that_breaks_off_keeps_its_persons_and_raises_with_its_counts(gallery):
    def rows():
        yield from ({"image": Image.new("RGB", (16, 32), (number, 0, 0))} for number in range(3))
        raise ZeroDivisionError("no such row")

    with pytest.raises(
        BrokenSourceError, match=r"ZeroDivisionError: no such row \(after 3 images, with 3 persons"
    ) as broken:
        index_frames(gallery, RowReader(rows(), "t"), progress=False)
    assert (broken.value.report.seen, broken.value.report.persons, len(gallery)) == (3, 3, 3)


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


def counts(report) -> tuple[int, int, int, int]:
    assert report.found == report.persons + report.updated + report.already_there + report.skipped_crops
    assert report.seen == report.used + sum(report.skipped.values())
    return report.persons, report.updated, report.already_there, report.outdated


def add(gallery, source, **options):
    return index_frames(gallery, open_source(source, **options), progress=False)


def test_what_has_changed_in_a_source_is_updated_and_nothing_is_there_twice(gallery, tmp_path, monkeypatch):
    for day, colour in (("mon", "red"), ("tue", "blue")):
        (tmp_path / day / "persons").mkdir(parents=True)
        Image.new("RGB", (16, 32), colour).save(tmp_path / day / "persons" / "a.png")
    monkeypatch.chdir(tmp_path / "mon")
    assert counts(add(gallery, "persons")) == (1, 0, 0, 0)
    assert counts(add(gallery, "../mon/persons/a.png")) == counts(add(gallery, tmp_path / "mon")) == (0, 0, 1, 0)
    monkeypatch.chdir(tmp_path / "tue")
    assert counts(add(gallery, "persons")) == (1, 0, 0, 0)
    Image.new("RGB", (16, 32), "green").save("persons/a.png")
    report = add(gallery, "persons")
    assert counts(report) == (0, 1, 0, 0)
    assert "1 person updated, because the source has changed" in str(report)
    first = gallery.search(Image.new("RGB", (16, 32), "green"), 1)[0]
    assert (first.source, first.score) == (f"{tmp_path}/tue/persons/a.png", pytest.approx(1, abs=1e-3))
    assert len(gallery) == 2


def test_a_row_at_the_top_of_a_table_a_changed_price_and_bad_values(tmp_path, model, processor):
    gallery = PersonGallery.create(tmp_path / "g", model, processor, columns={"price": "float", "sku": "string"})
    for number in range(3):
        Image.new("RGB", (16, 32), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    table = tmp_path / "t.csv"
    table.write_text("image_path,price,sku,camera,time\n0.png,2.5,007,3,2026-11-25\n1.png,NaN,8.0,3,1764057600\n")
    assert counts(add(gallery, table)) == (2, 0, 0, 0)
    table.write_text(
        "image_path,price,sku,camera,time\n2.png,7,009,3,\n0.png,2.5,007,3,2026-11-25\n1.png,4,8.0,3,1764057600\n"
        '0.png,"12,50",1,3,\n'
    )
    report = add(gallery, table)
    assert counts(report) == (1, 1, 1, 0)
    assert report.examples == {WRONG_VALUE: ["row 4: price: '12,50' is not a float"]}
    found = {Path(result.source).name: result for result in gallery.search("a person")}
    assert {name: result.columns for name, result in found.items()} == {
        "0.png": {"price": 2.5, "sku": "007"},
        "1.png": {"price": 4.0, "sku": "8.0"},
        "2.png": {"price": 7.0, "sku": "009"},
    }
    assert {result.camera for result in found.values()} == {"3"}
    times = [found[name].time and found[name].time.isoformat() for name in ("0.png", "1.png", "2.png")]
    assert times == ["2026-11-25T00:00:00+00:00", "2025-11-25T08:00:00+00:00", None]


def test_videos_of_one_name_keep_their_tracks_apart_and_a_replaced_one_leaves_nobody(gallery, tmp_path, monkeypatch):
    for day, seen in (("mon", range(10)), ("tue", range(5, 15))):
        (tmp_path / day).mkdir()
        write_track(tmp_path / day / "cctv.avi", frames=15, seen=seen)
        monkeypatch.chdir(tmp_path / day)
        report = index_frames(gallery, open_source("cctv.avi"), detector=red_detector, progress=False)
        assert report.tracks == 1 and report.persons
    assert len(gallery.search("a person")) == 2
    write_track(tmp_path / "mon" / "cctv.avi", frames=15, seen=range(10, 15))
    before = len(gallery)
    report = index_frames(gallery, open_source("../mon/cctv.avi"), detector=red_detector, progress=False)
    assert report.outdated == before + report.persons - len(gallery) > 0
    assert "removed, because the file was replaced" in str(report)
    tracks = {result.source: result.track_summary.start_seconds for result in gallery.search("a person")}
    assert tracks == {
        f"{tmp_path}/mon/cctv.avi": pytest.approx(1, abs=0.6),
        f"{tmp_path}/tue/cctv.avi": pytest.approx(0.5),
    }


def test_a_gallery_of_an_earlier_version_goes_on_under_its_names(gallery, tmp_path, monkeypatch):
    (tmp_path / "persons").mkdir()
    Image.new("RGB", (16, 32), "red").save(tmp_path / "persons" / "a.png")
    gallery.add([PersonRecord(Image.new("RGB", (16, 32), "red"), "persons/a.png")])  # as it was named before
    gallery._table.drop_columns(["content"])
    old = PersonGallery.open(tmp_path / "gallery", *gallery._encoders)
    assert counts(add(old, tmp_path / "persons", name="persons")) == (0, 1, 0, 0)  # its content was unknown
    assert counts(add(old, tmp_path / "persons", name="persons")) == (0, 0, 1, 0)
    assert counts(add(old, tmp_path / "persons")) == (1, 0, 0, 0)


def test_the_account_of_a_folder_adds_up(gallery, person_folder):
    for name in ("a.mp4", "b.mp4", "notes.txt", ".hidden.png"):
        (person_folder / name).touch()
    report = add(gallery, person_folder)
    assert report.passed_over == {".mp4": 2, ".txt": 1, "hidden": 1}
    assert report.used + sum(report.skipped.values()) + sum(report.passed_over.values()) == 22
    assert "  passed over 2: .mp4 (a.mp4, b.mp4)" in str(report).splitlines()


def test_names_that_are_not_utf_8_are_indexed_whatever_the_source(gallery, tmp_path):
    folder = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"stra\xdfe")))
    folder.mkdir()
    image = Image.new("RGB", (16, 32), "red")
    with open(folder / os.fsdecode(b"\xe9.png"), "wb") as file:
        image.save(file, "PNG")
    write_track(tmp_path / "v.avi", frames=5)
    video = (tmp_path / "v.avi").rename(folder / os.fsdecode(b"\xe9.avi"))
    table = folder / os.fsdecode(b"\xe9.csv")
    table.write_bytes(b"image_path,camera\n\xe9.png,stra\xdfe\n")  # as a table in Latin-1 writes it
    assert counts(add(gallery, folder)) == (1, 0, 0, 0)
    assert counts(add(gallery, table)) == (0, 1, 0, 0)
    assert index_frames(gallery, open_source(video), detector=red_detector, progress=False).persons
    names = {unescape_name(result.source) for result in gallery.search("a person", 99)}
    assert names == {str(folder / os.fsdecode(b"\xe9.png")), str(video)}
    assert gallery.search("a person", where=r"camera = 'stra\xdfe'")
