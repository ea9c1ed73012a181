"""Videos as they are found: the frames, told by the number that each shows, and the times they were written with."""

import math
import os
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_gadms.media import video_decoding
from modeling_gadms.media.images import load_image
from modeling_gadms.media.video import UNDECODABLE, FrameReader, count_frames, read_frames
from modeling_gadms.media.video_decoding import open_video
from tests.videos import B_FRAMES, BRIGHT, DARK, number_shown, numbers_and_times, picture, remux, write_video


VARIABLE = [*range(0, 1000, 40), *range(1500, 9000, 500)]
"""25 frames a second for one second, then two a second: a recorder that saves what does not move."""
MPEG2 = {"codec": "mpeg2video", "rate": 25, "options": {"bf": "2", "g": "12", "qscale": "2"}}
RAW = {"options": B_FRAMES}
KINDS = {
    "h264-with-b-frames.avi": {"options": B_FRAMES},
    "mpeg4-with-b-frames.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
    "program-stream.mpg": MPEG2,
    "program-stream.vob": MPEG2,
    "elementary.m2v": MPEG2,
    "raw.h264": RAW,
    "raw-of-25.264": {**RAW, "rate": 25},
    "raw.hevc": {"codec": "libx265", "rate": 25, "options": {"x265-params": "log-level=none:bframes=3:keyint=12"}},
    "transport.ts": {"options": B_FRAMES},
    "with-sound-longer-than-the-picture.mp4": {"options": B_FRAMES, "sound_seconds": 6},
    "with-sound-longer-than-the-picture.mkv": {"options": B_FRAMES, "sound_seconds": 6},
    "late.mp4": {"options": B_FRAMES, "start": 37},
    "late.mkv": {"options": B_FRAMES, "start": 37},
    "late.ts": {"options": B_FRAMES, "start": 37},
    "fragmented.mp4": {"options": B_FRAMES, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "two-streams.mkv": {"options": B_FRAMES, "second_stream": True},
    "flash.flv": {"options": B_FRAMES},
    "windows.wmv": {"codec": "wmv2"},
    "motion-jpeg.avi": {"codec": "mjpeg"},
    "any.nut": {"options": B_FRAMES},
    "plain.y4m": {"codec": "wrapped_avframe"},
    "broadcast.mxf": {**MPEG2, "rate": 25},
    "vp8.ivf": {"codec": "libvpx"},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_comes_once_at_the_time_it_was_written_with(tmp_path, name):
    write_video(tmp_path / name, **KINDS[name])
    rate = KINDS[name].get("rate", 10)
    reader = FrameReader(tmp_path / name)
    frames = list(reader)
    assert [frame.index for frame in frames] == list(range(24))
    assert [number_shown(frame.image) for frame in frames] == list(range(24))
    assert [frame.time_seconds for frame in frames] == pytest.approx([number / rate for number in range(24)], abs=1e-3)
    assert (reader.seen, reader.expected, reader.undecodable, reader.skipped.total()) == (24, 24, 0, 0)


@pytest.mark.parametrize("name", ["variable.mkv", "variable.webm", "variable.mp4"])
@pytest.mark.parametrize("per_second", [0.4, 2, 7, 25, 1000])
def test_frames_per_second_are_chosen_by_their_times(tmp_path, name, per_second):
    codec = "libvpx" if name.endswith("webm") else "libx264"
    write_video(tmp_path / name, len(VARIABLE), codec=codec, milliseconds=VARIABLE)
    reader = FrameReader(tmp_path / name, per_second=per_second)
    first: dict[int, int] = {}
    for number, milliseconds in enumerate(VARIABLE):
        first.setdefault(math.floor(Fraction(milliseconds, 1000) * Fraction(str(per_second))), number)
    found = numbers_and_times(reader)
    assert [number for number, _ in found] == list(first.values())
    assert [at for _, at in found] == pytest.approx([VARIABLE[number] / 1000 for number in first.values()], abs=1e-6)
    assert reader.expected == reader.seen == len(first)


def test_times_that_a_container_rounds_lose_no_frame(tmp_path):
    write_video(tmp_path / "a.mkv", 60, rate=30)  # Matroska knows 33 ms and 67 ms
    assert len(list(FrameReader(tmp_path / "a.mkv", per_second=30))) == 60
    assert [frame.index for frame in FrameReader(tmp_path / "a.mkv", per_second=10)] == list(range(0, 60, 3))


@pytest.mark.parametrize("second", ["same", "earlier", "slightly earlier"])
def test_times_grow_in_joined_recordings_and_keep_their_distances(tmp_path, second):
    write_video(tmp_path / "a.ts", options=B_FRAMES, start={"same": 0, "earlier": 70, "slightly earlier": 3}[second])
    write_video(tmp_path / "b.ts", options=B_FRAMES)
    (tmp_path / "joined.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    found = numbers_and_times(FrameReader(tmp_path / "joined.ts"))
    assert [number for number, _ in found] == [*range(24), *range(24)]
    assert [at for _, at in found] == pytest.approx([number / 10 for number in range(48)], abs=1e-3)
    at_most_one_a_second = [frame.index for frame in FrameReader(tmp_path / "joined.ts", per_second=1)]
    assert at_most_one_a_second == [0, 10, 20, 30, 40]


def test_a_time_that_repeats_or_falls_once_shifts_no_other():
    # Stated in tenths; the interval is one tenth.
    clock = video_decoding._Clock(Fraction(1, 10), Fraction(1, 10))
    stated = [5, 6, 6, 8, 9, 7, 11, None, 13, 10**9, 15, 2, 3, 4, 40]
    found = [clock(Shown(ticks)) * 10 for ticks in stated]
    assert found == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 35]


class Shown:
    """A picture of which only the time is known."""

    dts = None

    def __init__(self, pts: int | None):
        self.pts = pts


def test_frames_before_an_edit_lists_start_are_not_shown(tmp_path):
    write_video(tmp_path / "whole.mp4", options=B_FRAMES)
    cut = remux(tmp_path / "whole.mp4", tmp_path / "cut.mp4", -1, avoid_negative_ts="disabled")
    reader = FrameReader(cut)
    found = numbers_and_times(reader)
    assert [number for number, _ in found] == list(range(10, 24))
    assert [at for _, at in found] == pytest.approx([number / 10 for number in range(14)])
    assert (reader.expected, reader.undecodable) == (14, 0)


# From https://en.wikipedia.org/wiki/Rotation_matrix: entries a, b, c, d; a corner of the upright picture is marked.
MATRICES = {
    "upright": ((1, 0, 0, 1), (0, 0)),
    "a quarter turn": ((0, 1, -1, 0), (0, -1)),
    "half a turn": ((-1, 0, 0, -1), (-1, -1)),
    "three quarters": ((0, -1, 1, 0), (-1, 0)),
    "mirrored": ((-1, 0, 0, 1), (0, -1)),
    "upside down": ((1, 0, 0, -1), (-1, 0)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_video_is_seen_upright(tmp_path, name):
    """The first block of the frames (bit 0) is bright in frame 1 alone: its place tells how the frame is turned."""
    (a, b, c, d), corner = MATRICES[name]
    write_video(tmp_path / "v.mp4", 2)
    content = bytearray((tmp_path / "v.mp4").read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    matrix = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4")
    content[place : place + 36] = matrix.tobytes()
    (tmp_path / "v.mp4").write_bytes(content)
    _, image = [np.asarray(frame.image)[..., 0].astype(int) for frame in FrameReader(tmp_path / "v.mp4")]
    assert image.shape == ((64, 128) if a else (128, 64))
    bright = image > 180
    assert 0.08 < bright.mean() < 0.12
    row, column = (10 if side == 0 else -10 for side in corner)
    row, column = (row, (4 if column > 0 else -4)) if a else ((4 if row > 0 else -4), column)
    assert bright[row, column]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_of_the_jpegs_of_a_camera_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a camera"
    Image.fromarray(picture(1)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    (tmp_path / "a.mjpeg").write_bytes((tmp_path / "a.jpg").read_bytes() * 3)
    upright = np.asarray(load_image(tmp_path / "a.jpg")).astype(int)
    images = [np.asarray(frame.image) for frame in FrameReader(tmp_path / "a.mjpeg")]
    assert len(images) == 3
    assert all(image.shape == upright.shape and np.abs(image - upright).mean() < 4 for image in images)


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(2), (256, 64)), (Fraction(1, 2), (128, 128))])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_pixels_that_are_not_square_are_stretched(tmp_path, name, aspect, size):
    write_video(tmp_path / name, 2, aspect=aspect)
    assert [frame.image.size for frame in FrameReader(tmp_path / name)] == [size, size]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p"])
def test_black_and_white_are_those_of_the_colour_range(tmp_path, pixel_format):
    full = {"dst_color_range": 2 if pixel_format == "yuvj420p" else 1}
    write_video(tmp_path / "v.mp4", 2, pixel_format=pixel_format, options={"crf": "1"}, **full)
    shades = np.asarray([frame.image for frame in FrameReader(tmp_path / "v.mp4")][1])[32, 8::16, 0]
    assert shades == pytest.approx([BRIGHT] + [DARK] * 7, abs=3)


@pytest.mark.parametrize(("size", "matrix"), [((1280, 720), "ITU709"), ((128, 64), "ITU601")])
def test_colours_without_a_named_matrix_are_those_of_the_resolution(tmp_path, monkeypatch, size, matrix):
    red = np.full((size[1], size[0], 3), (200, 30, 30), np.uint8)
    monkeypatch.setattr("tests.videos.picture", lambda number, _: red)
    write_video(tmp_path / "v.mkv", 1, size=size, dst_colorspace=matrix, dst_color_range=1)
    (frame,) = FrameReader(tmp_path / "v.mkv")
    assert frame.image.getpixel((60, 30)) == pytest.approx((200, 30, 30), abs=5)


# ---------------------------------------------------------------------------------------------------------------------
# Damage.
# ---------------------------------------------------------------------------------------------------------------------
CUT = {
    "a.avi": {"codec": "mjpeg"},
    "b.avi": {"options": B_FRAMES},
    "a.mkv": {"options": B_FRAMES},
    "a.mp4": {"options": B_FRAMES, "container_options": {"movflags": "faststart"}},
    "fragments.mp4": {"options": B_FRAMES, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_cut_anywhere_is_told(tmp_path, name):
    whole = write_video(tmp_path / name, **CUT[name]).read_bytes()
    cut = tmp_path / f"cut-{name}"
    read = 0
    for place in range(40, len(whole) - 40, len(whole) // 12):
        cut.write_bytes(whole[:place])
        try:
            reader = FrameReader(cut)
            frames = list(reader)
        except ValueError as error:
            assert cut.name in str(error)  # no frame is left, or the index is missing
            continue
        read += 1
        assert reader.undecodable >= 1
        assert reader.seen == len(frames) + reader.skipped[UNDECODABLE] == len(frames) + reader.undecodable
        numbers = [number_shown(frame.image) for frame in frames]
        assert numbers == sorted(set(numbers)) and set(numbers) <= set(range(24))
        assert reader.undecodable + len(frames) <= 24 + 1
        assert count_frames(cut) == reader.seen
    assert read >= 2


@pytest.mark.parametrize("name", ["a.ts", "a.mpg", "a.h264", "a.flv"])
def test_a_cut_stream_that_states_no_length_gives_its_frames(tmp_path, name):
    options = MPEG2 if name == "a.mpg" else {"options": B_FRAMES}
    whole = write_video(tmp_path / name, **options).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 6 // 10])
    reader = FrameReader(tmp_path / name)
    numbers = [number for number, _ in numbers_and_times(reader)]
    assert len(numbers) > 4 and numbers == sorted(set(numbers))
    assert reader.seen == len(numbers) + reader.undecodable


def test_frames_of_parts_are_those_of_the_whole_also_when_damaged(tmp_path):
    content = bytearray(write_video(tmp_path / "v.mp4", options=B_FRAMES).read_bytes())
    place = content.index(b"mdat") + 900
    content[place : place + 300] = np.random.default_rng(0).bytes(300)
    (tmp_path / "v.mp4").write_bytes(content)
    total = count_frames(tmp_path / "v.mp4")
    whole = list(read_frames(tmp_path / "v.mp4", 1, 0, total))
    assert 0 < sum(frame.image is None for frame in whole) < total
    parts = [frame for start in range(total) for frame in read_frames(tmp_path / "v.mp4", 1, start, start + 1)]
    assert [(frame.index, frame.time_seconds) for frame in parts] == [
        (frame.index, frame.time_seconds) for frame in whole
    ]
    assert all(
        one.image is other.image is None or np.array_equal(one.image, other.image)
        for one, other in zip(parts, whole, strict=True)
    )
    beyond = list(read_frames(tmp_path / "v.mp4", 1, total, total + 2))
    assert [(frame.index, frame.image) for frame in beyond] == [(total, None), (total + 1, None)]


# ---------------------------------------------------------------------------------------------------------------------
# What a file may name.
# ---------------------------------------------------------------------------------------------------------------------
NAMES = [
    "08:00.mp4",
    "gate:2/a.mp4",
    "http:x.mp4",
    "concat:a.mp4",
    "frame%02d.mp4",
    "a.m3u8",
    os.fsdecode(b"caf\xe9.mp4"),
]


def test_a_name_is_a_file_and_selects_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = write_video(Path("real.mp4"), 3).read_bytes()
    for name in NAMES:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
        assert [number for number, _ in numbers_and_times(FrameReader(name))] == [0, 1, 2], name


PLAYLISTS = {
    "names itself": "ffconcat version 1.0\nfile {self}\n",
    "concat": "ffconcat version 1.0\nfile {real}\n",
    "a folder above": "ffconcat version 1.0\nfile ../{real}\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{real}\n#EXT-X-ENDLIST\n",
    "HLS of an address": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1"><BaseURL>{real}</BaseURL></Representation></AdaptationSet></Period>'
    "</MPD>",
    "RTSP text": "RTSPtext\nrtsp://127.0.0.1:9/a\n",
}
_OPENED: list[str] | None = None


def _note_opened(event: str, arguments: tuple) -> None:
    if _OPENED is not None and event == "open":
        _OPENED.append(str(arguments[0]))


sys.addaudithook(_note_opened)


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".m3u8", ".sdp", ".ffconcat", ".mpd"])
def test_a_file_that_names_others_is_refused_at_once_and_opens_none(tmp_path, monkeypatch, suffix):
    global _OPENED
    monkeypatch.chdir(tmp_path)
    write_video(Path("real.ts"), 3)
    for kind, text in PLAYLISTS.items():
        path = Path(f"list{suffix}")
        path.write_text(text.format(self=path, real="real.ts"))
        descriptors, start = len(os.listdir("/proc/self/fd")), time.monotonic()
        _OPENED = []
        try:
            with pytest.raises(ValueError, match=f"list{suffix} does not open as a video") as caught, open_video(path):
                pass
            opened = _OPENED
        finally:
            _OPENED = None
        assert "concat, HLS, DASH, SDP" in str(caught.value), kind
        assert [name for name in opened if "real" in name] == [], kind
        assert time.monotonic() - start < 2, kind
        assert len(os.listdir("/proc/self/fd")) == descriptors, kind


def test_a_picture_and_an_animation_are_no_videos(tmp_path):
    for name, file_format in (("a.mp4", "PNG"), ("b.mp4", "GIF"), ("frame%03d.mp4", "TIFF")):
        Image.new("RGB", (64, 64)).save(tmp_path / name, file_format)
        with pytest.raises(ValueError, match="does not open as a video"):
            FrameReader(tmp_path / name)
