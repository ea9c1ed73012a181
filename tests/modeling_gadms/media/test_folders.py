"""Folders: images are found, all else is counted by kind."""

import os

import pytest
from PIL import Image

from modeling_gadms.media import folders
from modeling_gadms.media.folders import list_images
from modeling_gadms.media.images import IMAGE_SUFFIXES
from modeling_gadms.media.video import FrameReader


def names(root) -> list[str]:
    return [path.relative_to(root).as_posix() for path in list_images(root)[0]]


def test_images_are_found_recursively_in_order_by_suffix(tmp_path):
    nested = [f"{letter}/{letter}.webp" for letter in "qwertzuiopasdfghjkl"]
    every_kind = [f"0{suffix.upper()}" for suffix in IMAGE_SUFFIXES]
    for name in (*every_kind, *nested):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert names(tmp_path) == [*sorted(every_kind), *sorted(nested)]


def test_what_is_passed_over_is_counted_by_kind_and_adds_up(tmp_path):
    files = ["a.png", "b.mp4", "c.MP4", "d.mp4", "e.mp4", "notes", "x.tar.gz", ".DS_Store", "sub/.x.png", "sub/f.jpe"]
    unread = ["@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg", "sub/@eaDir/b.jpg", ".cache/2.png", "#recycle/3.png"]
    for name in files + unread:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.mkfifo(tmp_path / "pipe.png")  # reading it would never end
    found, passed_over = list_images(tmp_path)
    assert names(tmp_path) == ["a.png", "sub/f.jpe"]
    assert dict(passed_over.counts) == {
        ".mp4": 4,
        ".gz": 1,
        folders.NO_SUFFIX: 1,
        folders.HIDDEN: 3,
        folders.SERVER_FOLDER: 3,
        folders.SPECIAL_FILE: 1,
    }
    assert passed_over.examples[".mp4"] == ["b.mp4", "c.MP4", "d.mp4"]
    assert "4 .mp4 (b.mp4, c.MP4, d.mp4, ...)" in passed_over.lines()
    unread_folders = 4  # @eaDir twice, .cache, #recycle
    assert len(found) + passed_over.counts.total() == len(files) + unread_folders + 1


def test_linked_folders_are_followed_once_and_never_in_a_circle(tmp_path):
    for name in ("other/x.png", "p/a.png", "p/z/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 32), "red").save(tmp_path / name)
    (tmp_path / "p" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "p" / "again").symlink_to(tmp_path / "other")
    (tmp_path / "p" / "z" / "up").symlink_to("..")
    (tmp_path / "p" / "self.png").symlink_to("self.png")
    _, passed_over = list_images(tmp_path / "p")
    assert names(tmp_path / "p") == ["a.png", "self.png", "again/x.png", "z/b.png"]
    assert dict(passed_over.counts) == {folders.ALREADY_READ: 2}
    reader = FrameReader(tmp_path / "p")
    assert [frame.source for frame in reader] == [
        f"{tmp_path}/{name}" for name in ("p/a.png", "other/x.png", "p/z/b.png")
    ]
    assert dict(reader.skipped) == {"missing": 1}
    assert [frame.source for frame in FrameReader(tmp_path / "p", name="persons")][1] == "persons/again/x.png"


def test_names_that_are_not_utf_8_are_read_and_named_reversibly(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"gate \xe9")
    os.mkdir(folder)
    Image.new("RGB", (16, 32), "red").save(os.path.join(folder, b"caf\xe9.png").decode("utf-8", "surrogateescape"))
    open(os.path.join(folder, b"\xff.txt"), "w").close()
    reader = FrameReader(tmp_path)
    (frame,) = reader
    assert frame.source == rf"{tmp_path}/gate \xe9/caf\xe9.png"
    assert reader.passed_over.examples == {".txt": [r"gate \xe9/\xff.txt"]}


def test_a_folder_without_images_says_what_it_has(tmp_path):
    (tmp_path / "cctv.mp4").touch()
    with pytest.raises(ValueError, match=r"no image file, but 1 \.mp4 \(cctv\.mp4\): give a video"):
        FrameReader(tmp_path)
    with pytest.raises(NotADirectoryError, match="nowhere"):
        list_images(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_opened_is_counted(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refused(folder):  # root, who may run the tests, may open every folder
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refused)
    _, passed_over = list_images(tmp_path)
    assert (passed_over.counts, passed_over.examples) == (
        {folders.UNREADABLE_FOLDER: 1},
        {folders.UNREADABLE_FOLDER: ["locked"]},
    )
