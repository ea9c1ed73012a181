"""Files and folders that are whole or not there."""

import pytest

from modeling_gadms.encoders.atomic_files import new_folder


def test_a_new_folder_is_there_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "folder"
    with new_folder(target) as folder:
        (folder / "file").write_text("content")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["file"]
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_of_a_failure_nothing_is_left(tmp_path, error):
    with pytest.raises(error):
        with new_folder(tmp_path / "folder") as folder:
            (folder / "file").write_text("content")
            raise error
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken_and_a_full_one_or_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "file").write_text("content")
    assert (tmp_path / "empty" / "file").read_text() == "content"
    for taken in ("empty", "empty/file"):
        with pytest.raises(FileExistsError, match=f"{taken} is there already"):
            with new_folder(tmp_path / taken):
                pytest.fail("the work began")
    assert (tmp_path / "empty" / "file").read_text() == "content"
