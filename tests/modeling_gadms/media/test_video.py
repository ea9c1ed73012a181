"""Frames of folders and videos, with counts of the unreadable ones."""

import cv2
import numpy as np
import pytest
from PIL import Image

from modeling_gadms.media.video import UNDECODABLE, FrameReader


def write_video(path, frames: int = 30, size=(160, 120), rate: int = 10) -> None:
    """Frame i is noise, except for a red corner square whose brightness encodes i."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, size)
    rng = np.random.default_rng(0)
    for index in range(frames):
        frame = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        frame[:40, :40] = (0, 0, 8 * index)  # BGR
        writer.write(frame)
    writer.release()


def number_shown(image: Image.Image) -> int:
    red, green, blue = np.asarray(image)[5:35, 5:35].reshape(-1, 3).mean(axis=0)
    assert max(green, blue) < 12, "red and blue are exchanged"
    return round(red / 8)


def test_every_third_frame_of_a_video_with_its_number_and_time(tmp_path):
    write_video(tmp_path / "v.avi")
    reader = FrameReader(tmp_path / "v.avi", every=3)
    frames = list(reader)
    assert reader.is_video
    assert [frame.index for frame in frames] == list(range(0, 30, 3))
    assert [number_shown(frame.image) for frame in frames] == list(range(0, 30, 3))
    assert [frame.time_seconds for frame in frames] == pytest.approx([index / 10 for index in range(0, 30, 3)])
    assert {frame.source for frame in frames} == {str(tmp_path / "v.avi")}
    assert (reader.expected, reader.seen, reader.skipped.total(), reader.undecodable) == (10, 10, 0, 0)


@pytest.mark.parametrize("every", [1, 7])
def test_a_video_cut_short_gives_its_frames_and_counts_the_lost_ones(tmp_path, every):
    write_video(tmp_path / "v.avi")
    content = (tmp_path / "v.avi").read_bytes()
    (tmp_path / "v.avi").write_bytes(content[: len(content) // 2])
    reader = FrameReader(tmp_path / "v.avi", every=every)
    frames = list(reader)
    whole = (frames[-1].index // every + 1) * every
    assert reader.undecodable == 2  # the frame that is cut, and an unknown number of others
    assert reader.seen == len(frames) + reader.skipped[UNDECODABLE]
    assert [number_shown(frame.image) for frame in frames] == list(range(0, whole, every))


def test_frames_damaged_midway_are_counted(tmp_path):
    write_video(tmp_path / "v.avi")
    content = bytearray((tmp_path / "v.avi").read_bytes())
    third = len(content) // 3
    content[third : third + 60_000] = np.random.default_rng(0).bytes(60_000)
    (tmp_path / "v.avi").write_bytes(content)
    reader = FrameReader(tmp_path / "v.avi")
    frames = list(reader)
    assert reader.undecodable > 0
    assert reader.seen == 30 == len(frames) + reader.skipped[UNDECODABLE]
    assert frames[-1].time_seconds == pytest.approx(2.9, abs=0.5)


def test_a_second_iteration_counts_anew(tmp_path):
    write_video(tmp_path / "v.avi", frames=5)
    reader = FrameReader(tmp_path / "v.avi")
    assert len(list(reader)) == len(list(reader)) == reader.seen == 5


@pytest.mark.parametrize("content", [b"Dear Sir or Madam", b"", b"RIFF\x00\x00\x00\x00AVI LIST"])
def test_a_file_that_is_not_a_video_is_named(tmp_path, content, capfd):
    (tmp_path / "letter.avi").write_bytes(content)
    with pytest.raises(ValueError, match="letter.avi does not open as a video"):
        FrameReader(tmp_path / "letter.avi")
    assert capfd.readouterr().err == ""


def test_a_video_of_which_no_frame_decodes_is_an_error(tmp_path):
    write_video(tmp_path / "v.avi")
    content = (tmp_path / "v.avi").read_bytes()
    (tmp_path / "v.avi").write_bytes(content[: content.index(b"movi") + 64])
    with pytest.raises(ValueError, match="v.avi"):
        list(FrameReader(tmp_path / "v.avi"))


def test_a_folder_gives_its_images_in_order_and_counts_the_unreadable_by_reason(person_folder):
    reader = FrameReader(person_folder)
    frames = list(reader)
    assert not reader.is_video
    assert [frame.source for frame in frames] == [str(person_folder / f"person{n:02d}.png") for n in range(12)]
    assert {(frame.index, frame.time_seconds) for frame in frames} == {(None, None)}
    assert reader.skipped == {
        "missing": 1,
        "empty file": 1,
        "truncated": 1,
        "not an image": 1,
        "too large": 1,
        "too small": 1,
    }
    assert reader.expected == reader.seen == 18 == len(frames) + reader.skipped.total()


def test_a_place_that_does_not_exist_a_folder_without_images_and_a_bad_step_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FrameReader(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no image file"):
        FrameReader(tmp_path)
    with pytest.raises(ValueError, match="every must be 1 or more, not 0"):
        FrameReader(tmp_path, every=0)


@pytest.mark.parametrize(
    ("per_second", "numbers"),
    [
        (10, range(30)),
        (5, range(0, 30, 2)),
        (2, range(0, 30, 5)),
        (3, [0, 4, 7, 10, 14, 17, 20, 24, 27]),
        (0.5, [0, 20]),
        (50, range(30)),
    ],
)
def test_frames_per_second(tmp_path, per_second, numbers):
    write_video(tmp_path / "v.avi", rate=10)
    reader = FrameReader(tmp_path / "v.avi", per_second=per_second)
    assert [frame.index for frame in reader] == list(numbers)
    assert reader.expected == reader.seen


def test_per_second_needs_a_video_and_excludes_every(tmp_path, person_folder):
    write_video(tmp_path / "v.avi")
    for no_number in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"per_second must be positive, not {no_number}"):
            FrameReader(tmp_path / "v.avi", per_second=no_number)
    with pytest.raises(ValueError, match=r"every \(2\) and per_second \(5\) exclude each other"):
        FrameReader(tmp_path / "v.avi", 2, per_second=5)
    with pytest.raises(ValueError, match=r"per_second \(5\) applies to videos, and .* is not a video"):
        FrameReader(person_folder, per_second=5)


def test_an_image_file_is_a_folder_of_one(tmp_path, person_folder):
    (frame,) = FrameReader(person_folder / "person00.png")
    assert (frame.source, frame.index, frame.time_seconds) == (str(person_folder / "person00.png"), None, None)
    reader = FrameReader(person_folder / "cut.png")
    assert (list(reader), reader.is_video, dict(reader.skipped)) == ([], False, {"truncated": 1})


def test_sources_are_named_relative_to_a_root(tmp_path, person_folder):
    write_video(tmp_path / "v.avi", frames=2)
    assert {frame.source for frame in FrameReader(tmp_path / "v.avi", root=tmp_path)} == {"v.avi"}
    names = {frame.source for frame in FrameReader(person_folder, root=tmp_path)}
    assert names == {f"persons/person{number:02d}.png" for number in range(12)}
