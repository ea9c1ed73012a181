"""Atomic writes of files and folders."""

import pytest

from modeling_gadms.encoders.atomic_files import atomic_file, atomic_folder


def test_a_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "deep" / "folder"
    with atomic_folder(target) as folder:
        (folder / "file").write_text("content")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["file"]
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "file").write_text("content")
            raise error
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path):
    with pytest.raises(OSError, match="no space left"):
        with atomic_file(tmp_path / "out.pth") as part:
            part.write_bytes(b"half")
            raise OSError("no space left")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_replaced_and_existing_content_is_refused_before_the_work(tmp_path):
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty") as folder:
        (folder / "file").write_text("content")
    assert (tmp_path / "empty" / "file").read_text() == "content"
    for taken in ("empty", "empty/file"):
        with pytest.raises(FileExistsError, match=f"{taken} already exists"):
            with atomic_folder(tmp_path / taken):
                pytest.fail("the work began")
    assert (tmp_path / "empty" / "file").read_text() == "content"
