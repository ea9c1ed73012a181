"""Files are decoded in a process with limits; whatever happens to it is the failure of one file."""

import io
import os
import struct
import tarfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from modeling_gadms.indexing import isolation
from modeling_gadms.indexing.indexer import SourceOptions
from modeling_gadms.indexing.isolation import DecodingError, DecodingLimits, IsolatedSource, check_upload, load_frame
from modeling_gadms.indexing.sources import open_source
from modeling_gadms.media.images import MAX_PIXELS


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 120))
    for number in range(10):
        writer.write(np.full((120, 160, 3), 20 * number, dtype=np.uint8))
    writer.release()
    return path


@pytest.fixture
def archive(tmp_path) -> Path:
    path = tmp_path / "s.tar"
    buffer = io.BytesIO()
    Image.new("RGB", (16, 32), "red").save(buffer, "PNG")
    with tarfile.open(path, "w") as file:
        for name, content in (("a.png", buffer.getvalue()), ("a.json", b'{"price": 1.5}'), ("b.png", b"no")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def rows(source) -> list[tuple]:
    return [(f.image.tobytes(), f.image.size, f.source, f.index, f.time_seconds, dict(f.fields)) for f in source]


def test_it_gives_what_reading_here_gives(video, archive):
    for path, options in ((video, {"every": 3}), (video, {"per_second": 5}), (archive, {})):
        here = open_source(path, root=path.parent, **options)
        with IsolatedSource(path, root=path.parent, **options) as there:
            assert (there.is_video, there.expected) == (here.is_video, here.expected)
            assert rows(there) == rows(here)
            assert (there.seen, there.skipped, there.undecodable) == (here.seen, here.skipped, here.undecodable)
            assert not there.stopped
    assert load_frame(video, 4).tobytes() == rows(open_source(video, 4))[1][0]


def test_a_file_without_an_image_is_refused_with_the_reason(tmp_path, video, archive):
    check_upload(video, SourceOptions(per_second=1))
    check_upload(archive, SourceOptions())  # one of its two can be read
    (tmp_path / "letter.png").write_text("Dear Sir or Madam")
    (tmp_path / "letter.avi").write_text("Dear Sir or Madam")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    for name, said in (
        ("letter.png", "letter.png has no image that can be read: 1 not an image"),
        ("letter.avi", "letter.avi"),
        ("empty.tar", "empty.tar has no image that can be read"),
        ("gone.avi", "gone.avi does not exist"),
    ):
        with pytest.raises((ValueError, OSError), match=said):
            check_upload(tmp_path / name, SourceOptions())
    with pytest.raises(ValueError, match="are for videos and folders"):
        check_upload(archive, SourceOptions(per_second=1))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"memory_bytes": 60_000_000}, "cannot be decoded|too much memory|memory"),
        ({"open_files": 4}, "Too many open files"),
        ({"cpu_seconds": 1}, "more than 1 seconds of computing"),
        ({"stall_seconds": 1.0}, "no image came within 1 seconds"),
    ],
)
def test_at_a_limit_one_file_fails(tmp_path, video, monkeypatch, limits, said):
    if "cpu_seconds" in limits or "stall_seconds" in limits:
        busy = "while True: pass" if "cpu_seconds" in limits else "import time; time.sleep(600)"
        monkeypatch.setattr(isolation, "_START", isolation._START.replace("main(sys", f"{_PATCH}main(sys") % busy)
    with pytest.raises((DecodingError, ValueError, OSError), match=said):
        with IsolatedSource(video, limits=DecodingLimits(**limits)) as source:
            list(source)


# The process of the test reads its file for ever, as a decoder that a file has caught.
_PATCH = """
import modeling_gadms.indexing.isolation as isolation
def caught(*_, **__):
    %s
isolation.open_source = caught
"""


def test_a_process_that_dies_is_an_error_and_a_cancelled_one_is_killed(video, monkeypatch):
    start = isolation._START
    monkeypatch.setattr(isolation, "_START", start.replace("main(sys", f"{_PATCH}main(sys") % "import os; os.abort()")
    with pytest.raises(DecodingError, match=r"v\.avi cannot be decoded: .*SIGABRT"):
        IsolatedSource(video)
    sleeping = start.replace("main(sys", f"{_PATCH}main(sys") % "import time; time.sleep(600)"
    monkeypatch.setattr(isolation, "_START", sleeping)
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    started = time.monotonic()
    with IsolatedSource(video, cancelled=cancelled.is_set) as source:
        assert (source.stopped, list(source)) == (True, [])
        assert source._process._process.returncode == -9
    assert time.monotonic() - started < 60


def test_the_process_has_no_secret_writes_no_file_and_opens_none_of_ours(tmp_path, video, monkeypatch):
    monkeypatch.setenv("GADMS_TOKEN", "secret")
    path = str(tmp_path / "written")
    told = f"""
import os, errno
def told(*_, **__):
    try:
        written = os.write(os.open({path!r}, os.O_CREAT | os.O_WRONLY), b"x") > 0
    except OSError as error:
        written = error.errno != errno.EFBIG
    raise ValueError("GADMS_TOKEN" in os.environ, sorted(os.listdir("/proc/self/fd")), written)
isolation.open_source = told
"""
    patch = "import modeling_gadms.indexing.isolation as isolation\n" + told
    monkeypatch.setattr(isolation, "_START", isolation._START.replace("main(sys", f"{patch}main(sys"))
    with open(video, "rb") as ours, pytest.raises(ValueError, match=r"\(False, .*, False\)") as raised:
        os.set_inheritable(ours.fileno(), True)
        IsolatedSource(video)
    assert len(eval(str(raised.value))[1]) <= 7
    assert not (tmp_path / "written").read_bytes()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (struct.pack(">IQ", 2, 3 * MAX_PIXELS + 1), "more than is read"),
        (struct.pack(">IQ", 64_000_001, 0), "more than is read"),
        (struct.pack(">IQ", 100, 0) + b"{", "ended with code 0"),
        (b"Dear", "ended with code 0"),
    ],
)
def test_messages_that_are_none_are_refused(video, monkeypatch, sent, said):
    """A decoder that a file has taken over may send anything."""
    monkeypatch.setattr(isolation, "_START", f"import os; os.write(1, {sent!r})")
    with pytest.raises(DecodingError, match=said):
        IsolatedSource(video)


def test_an_image_of_another_size_than_its_pixels_is_refused():
    for size, pixels in (((4, 4), b"x" * 47), ((0, 0), b""), ((-4, -4), b"x" * 48)):
        with pytest.raises(DecodingError, match="pixels came with"):
            isolation._image(size, bytearray(pixels))
