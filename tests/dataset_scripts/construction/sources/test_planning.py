"""Folders and videos as sources: cut into shards, every item a row, an image or a reason."""

import io
import os
import re
import struct
from collections.abc import Container
from pathlib import Path

import cv2
import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset_scripts.construction.sources import planning as sources
from dataset_scripts.construction.sources.items import SourceProblem, plain_text
from dataset_scripts.construction.sources.planning import SOURCE_SCHEMA, SourceSettings, plan_shards, read_shard
from modeling_gadms.media.video import FrameReader, count_frames, read_frames


def read(*settings: SourceSettings, images_per_shard: int = 100) -> list[dict]:
    plan = plan_shards(settings, images_per_shard)
    return [row for shard in plan.shards for row in read_shard(shard).to_pylist()]


def without_shard(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "shard"} for row in rows]


def problems(rows: list[dict]) -> dict[str, str]:
    return {row["source"]: row["reason"] for row in rows if row["reason"]}


def fill(folder: Path, *names: str) -> SourceSettings:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content of {name}".encode())
    return SourceSettings("folder", str(folder))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "pictures"


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "walk.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(23):
        frame = np.full((48, 64, 3), 10 * number, np.uint8)
        frame[:, : 2 * number] = (0, 0, 255)
        writer.write(frame)
    writer.release()
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Settings and plan.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"kind": "zip", "path": "x"}, "'zip'"),
        ({"kind": "folder", "path": ""}, "`path`"),
        ({"kind": "video", "path": "x.avi", "every": 0}, "`every` must be 1 or more, not 0"),
        ({"kind": "folder", "path": "x", "every": 2}, "for videos"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SourceSettings(**settings)


def test_a_source_without_a_name_of_its_own_is_refused(folder, monkeypatch):
    fill(folder, "a.jpg")
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="name ''"):
        plan_shards([SourceSettings("folder", ".")], 1)
    assert len(plan_shards([SourceSettings("folder", ".", name="here")], 1).shards) == 1


def test_two_sources_of_one_name_are_refused(tmp_path):
    twins = [fill(tmp_path / side / "crawl", "a.jpg") for side in ("left", "right")]
    with pytest.raises(ValueError, match="2 of the sources have the name 'crawl'"):
        plan_shards(twins, 1)


def test_what_is_not_there_or_empty_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plan_shards([SourceSettings("folder", str(tmp_path / "nowhere"))], 1)
    (tmp_path / "notes.txt").touch()
    for kind, missing in (("folder", "image file"), ("tars", "tar file")):
        with pytest.raises(ValueError, match=missing):
            plan_shards([SourceSettings(kind, str(tmp_path))], 1)
    with pytest.raises(NotADirectoryError):
        plan_shards([SourceSettings("folder", str(tmp_path / "notes.txt"))], 1)
    with pytest.raises(ValueError, match="fetched"):
        plan_shards([SourceSettings("urls", str(tmp_path / "notes.txt"))], 1)
    with pytest.raises(ValueError, match="images_per_shard"):
        plan_shards([], 0)


def test_a_folder_is_cut_into_shards_of_the_wanted_size(folder):
    plan = plan_shards([fill(folder, *(f"{number}.jpg" for number in range(7)))], 3)
    assert [(shard.number, shard.start, shard.stop, shard.expected) for shard in plan.shards] == [
        (0, 0, 3, 3),
        (1, 3, 6, 3),
        (2, 6, 7, 1),
    ]


def test_the_digest_tells_of_every_change_of_name_size_number_and_setting(tmp_path):
    def digest(files: dict[str, int], **settings) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, size in files.items():
            (folder / name).write_bytes(b"x" * size)
        return plan_shards([SourceSettings("folder", str(folder), **{"name": "n"} | settings)], 5).digest

    same = digest({"a.jpg": 1, "b.jpg": 2})
    assert same == digest({"b.jpg": 2, "a.jpg": 1, "notes.txt": 3})
    others = [
        digest({"a.jpg": 1, "b.jpg": 3}),
        digest({"a.jpg": 1, "c.jpg": 2}),
        digest({"a.jpg": 1}),
        digest({"a.jpg": 1, "b.jpg": 2}, name="other"),
        digest({'a.jpg", 1], ["b.jpg': 2}),
    ]
    assert len({same, *others}) == 6


def test_the_digest_does_not_depend_on_the_place_or_the_shard_size(tmp_path):
    plans = [
        plan_shards([fill(tmp_path / place / "set", "a.jpg", "b.jpg")], size) for place, size in (("x", 1), ("y", 2))
    ]
    assert plans[0].digest == plans[1].digest
    assert len(plans[0].shards) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Folders.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_row_holds_the_file_and_where_it_is(folder):
    settings = fill(folder, "b.jpg", "sub/a.png")
    plan = plan_shards([settings], 10)
    table = read_shard(plan.shards[0])
    assert table.schema == SOURCE_SCHEMA
    first, second = table.to_pylist()
    assert (first["source"], first["image"]) == ("pictures/b.jpg", b"content of b.jpg")
    assert (second["source"], second["image"]) == ("pictures/sub/a.png", b"content of sub/a.png")
    assert first["row_id"] == first["image_id"] != second["image_id"]
    assert first["trail"] == [{"block": "read", "note": None}]
    assert {first[name] for name in ("person", "rejected_by", "reason", "detail", "url", "frame")} == {None}


def test_ids_do_not_depend_on_where_the_folder_lies(tmp_path):
    here, there = (read(fill(tmp_path / place / "set", "a.jpg", "b.jpg")) for place in ("x", "y/z"))
    assert here == there
    named = SourceSettings("folder", str(tmp_path / "x" / "set"), name="other")
    assert read(named)[0]["image_id"] != here[0]["image_id"]


@hypothesis.settings(deadline=None)  # it writes files
@given(files=st.integers(1, 9), second=st.integers(1, 5), size=st.integers(1, 10))
def test_rows_do_not_depend_on_the_shard_size(tmp_path_factory, files, second, size):
    base = tmp_path_factory.mktemp("sizes")
    settings = [
        fill(base / "one", *(f"{number}.jpg" for number in range(files))),
        fill(base / "two", *(f"{number}.jpg" for number in range(second))),
    ]
    rows = read(*settings, images_per_shard=size)
    assert without_shard(rows) == without_shard(read(*settings, images_per_shard=100))
    assert [row["position"] for row in rows] == list(range(files + second))
    assert [row["shard"] for row in rows] == sorted(row["shard"] for row in rows)


def test_a_file_that_is_too_large_is_refused_unread(folder, monkeypatch):
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 20)
    settings = fill(folder, "a.jpg", "one_letter.jpg", "one_letters.jpg")
    monkeypatch.setattr(Path, "read_bytes", lambda path: path.open("rb").read(20))
    (folder / "a.jpg").write_bytes(b"x" * 20)
    rows = read(settings)
    assert problems(rows) == {
        "pictures/one_letter.jpg": SourceProblem.TOO_LARGE,
        "pictures/one_letters.jpg": SourceProblem.TOO_LARGE,
    }
    assert [row["image"] is None for row in rows] == [False, True, True]
    assert rows[1]["detail"] == "25 bytes"
    assert (rows[1]["rejected_by"], rows[1]["trail"]) == ("read", [{"block": "read", "note": None}])


def test_a_file_that_vanishes_after_planning_is_a_reason_and_moves_no_other(folder):
    plan = plan_shards([fill(folder, *(f"{number}.jpg" for number in range(6)))], 2)
    (folder / "1.jpg").unlink()
    fill(folder, "00.jpg")  # nor does one that comes
    rows = [row for shard in plan.shards for row in read_shard(shard).to_pylist()]
    assert [row["source"] for row in rows] == [f"pictures/{number}.jpg" for number in range(6)]
    assert problems(rows) == {"pictures/1.jpg": SourceProblem.UNREADABLE}
    assert rows[1]["detail"] == "No such file or directory"


def test_a_file_that_may_not_be_read_is_a_reason_without_its_path(folder, monkeypatch):
    settings = fill(folder, "a.jpg", "b.jpg")

    def read_bytes(path: Path) -> bytes:
        if path.name == "a.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return b"content"

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    rows = read(settings)
    assert [row["reason"] for row in rows] == [SourceProblem.UNREADABLE, None]
    assert rows[0]["detail"] == "Permission denied"


def test_a_link_is_followed_to_a_file_and_refused_where_it_leads_nowhere(folder):
    settings = fill(folder, "a.jpg")
    (folder / "b.jpg").symlink_to("a.jpg")
    (folder / "c.jpg").symlink_to("nowhere.jpg")
    rows = read(settings)
    assert [row["image"] for row in rows] == [b"content of a.jpg", b"content of a.jpg", None]
    assert problems(rows) == {"pictures/c.jpg": SourceProblem.UNREADABLE}


@pytest.mark.timeout(20)
def test_a_pipe_and_a_device_that_never_end_are_refused(folder):
    settings = fill(folder, "a.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    assert problems(read(settings)) == {
        "pictures/pipe.jpg": SourceProblem.NOT_A_FILE,
        "pictures/zero.jpg": SourceProblem.NOT_A_FILE,
    }


STRANGE_NAMES = [
    b"new\nline.jpg",
    b"caf\xc3\xa9.jpg",
    b"latin\xe9.jpg",
    b"latin\\xe9.jpg",
    b"tab\t\x7f.jpg",
    b'"{}.jpg',
]


def test_names_of_any_bytes_become_text_that_stays_distinct(folder):
    folder.mkdir()
    for name in STRANGE_NAMES:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(name)
    rows = read(SourceSettings("folder", str(folder)), images_per_shard=1)
    assert {row["image"] for row in rows} == set(STRANGE_NAMES)
    assert len({row["image_id"] for row in rows}) == len({row["source"] for row in rows}) == len(STRANGE_NAMES)
    assert all("\n" not in row["source"] and row["source"].encode() for row in rows)
    assert "pictures/café.jpg" in {row["source"] for row in rows}


@given(st.lists(st.text(st.characters(codec=None)), min_size=2, max_size=2, unique=True))
def test_plain_text_is_one_encodable_line_and_tells_names_apart(names):
    first, second = map(plain_text, names)
    assert first != second
    assert len(first.encode().splitlines()) <= 1


# ---------------------------------------------------------------------------------------------------------------------
# Videos.
# ---------------------------------------------------------------------------------------------------------------------
def pixels(row: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]))).astype(int)


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("images_per_shard", [1, 3, 100])
def test_frames_are_those_of_the_frame_reader_for_any_shard_size(video, every, images_per_shard):
    rows = read(SourceSettings("video", str(video), every=every), images_per_shard=images_per_shard)
    frames = list(FrameReader(video, every))
    assert [(row["frame"], row["time_seconds"]) for row in rows] == [
        (frame.index, frame.time_seconds) for frame in frames
    ]
    assert all(
        np.abs(pixels(row) - np.asarray(frame.image)).max() < 25 for row, frame in zip(rows, frames, strict=True)
    )
    assert without_shard(rows) == without_shard(read(SourceSettings("video", str(video), every=every)))
    assert [row["position"] for row in rows] == list(range(len(frames)))


def test_frames_are_told_by_number_and_time(video):
    rows = read(SourceSettings("video", str(video), every=10))
    assert [row["source"] for row in rows] == ["walk.avi/frame 0", "walk.avi/frame 10", "walk.avi/frame 20"]
    assert [row["time_seconds"] for row in rows] == pytest.approx([0, 1, 2])
    assert len({row["image_id"] for row in rows}) == 3


def test_the_frames_of_a_video_cut_short_are_rows_with_a_reason(video, tmp_path):
    cut = tmp_path / "cut.avi"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    reader = FrameReader(cut)
    whole = [frame.index for frame in reader]
    assert 0 < len(whole) < 23
    for size in (4, 100):
        rows = read(SourceSettings("video", str(cut)), images_per_shard=size)
        assert [row["frame"] for row in rows] == list(range(reader.seen))
        assert [row["frame"] for row in rows if row["image"]] == whole
        assert {row["reason"] for row in rows if not row["image"]} == {SourceProblem.UNDECODABLE_FRAME}
        assert {row["time_seconds"] for row in rows if not row["image"]} == {None}


@pytest.mark.parametrize("announced", [3, 1_000_000])
def test_the_number_of_frames_that_a_header_announces_does_not_matter(video, tmp_path, announced):
    content = bytearray(video.read_bytes())
    for place in (content.index(b"avih") + 8 + 16, content.index(b"strh") + 8 + 32):
        assert content[place : place + 4] == struct.pack("<I", 23)
        content[place : place + 4] = struct.pack("<I", announced)
    path = tmp_path / "walk.avi"
    path.write_bytes(content)
    assert count_frames(path) == 23
    assert [row["frame"] for row in read(SourceSettings("video", str(path)), images_per_shard=2)] == list(range(23))


def with_blank_frames(video: Path, numbers: Container[int], target: Path) -> Path:
    """A copy of an AVI, the content of some frames replaced by zeros."""
    content = bytearray(video.read_bytes())
    for number, match in enumerate(re.finditer(rb"00dc(....)\xff\xd8", video.read_bytes(), re.DOTALL)):
        start, (length,) = match.start() + 8, struct.unpack("<I", match[1])
        if number in numbers:
            content[start : start + length] = bytes(length)
    target.write_bytes(content)
    return target


def test_a_frame_in_the_middle_that_does_not_decode_costs_no_other(video, tmp_path):
    path = with_blank_frames(video, [9], tmp_path / "walk.avi")
    frames = list(read_frames(path, 1, 0, count_frames(path)))
    assert [frame.index for frame in frames if frame.image is None] == [9]
    times = [frame.time_seconds for frame in frames if frame.image]
    assert times == pytest.approx([number / 10 for number in range(23) if number != 9])
    assert frames[5].image.getpixel((0, 24)) == pytest.approx((255, 0, 0), abs=12)


def test_a_video_without_a_frame_and_a_file_that_is_none_are_refused(video, folder, tmp_path):
    fill(folder, "text.avi")
    with pytest.raises(ValueError, match=r"text\.avi does not open"):
        plan_shards([SourceSettings("video", str(folder / "text.avi"))], 1)
    with pytest.raises(ValueError, match="no frame that decodes"):
        count_frames(with_blank_frames(video, range(23), tmp_path / "walk.avi"))


def test_the_digest_of_a_video_changes_with_its_content_and_settings(video, tmp_path):
    copy = tmp_path / "walk.avi"
    copy.write_bytes(video.read_bytes())
    original = plan_shards([SourceSettings("video", str(video))], 5).digest
    assert plan_shards([SourceSettings("video", str(copy))], 5).digest == original
    assert plan_shards([SourceSettings("video", str(video), every=2)], 5).digest != original
    copy.write_bytes(video.read_bytes() + b"x")
    assert plan_shards([SourceSettings("video", str(copy))], 5).digest != original


def test_a_shard_without_rows_still_has_its_columns(tmp_path):
    shard = sources.Shard(0, SourceSettings("folder", str(tmp_path)), 0, 0, 0, 0)
    assert read_shard(shard).equals(pa.Table.from_pylist([], SOURCE_SCHEMA))
