"""Figures are written whole, and take the place of earlier figures only."""

import pytest
from PIL import Image

from gadms_cli.figures import save_figure


FIGURE = Image.new("RGB", (40, 30), "navy")
OTHER = Image.new("RGB", (20, 10), "red")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_an_earlier_figure_is_replaced_and_this_is_said(tmp_path, suffix):
    out = tmp_path / "new" / f"r{suffix}"
    assert save_figure(OTHER, out) == str(out)
    assert save_figure(FIGURE, out) == f"{out} (replaces an earlier figure)"
    assert Image.open(out).size == (40, 30) and len(list(out.parent.iterdir())) == 1


@pytest.mark.parametrize("content", ["image", "text"])
def test_any_other_file_is_kept_under_another_name(tmp_path, content):
    out = tmp_path / "r.png"
    if content == "image":
        OTHER.save(out)
    else:
        out.write_text("Dear Sir or Madam")
    (tmp_path / "r-1.png").touch()
    before = out.read_bytes()
    assert save_figure(FIGURE, out) == f"{out} (the file that was there is now r-2.png)"
    assert Image.open(out).size == (40, 30)
    assert (tmp_path / "r-2.png").read_bytes() == before
    assert save_figure(FIGURE, out).endswith("(replaces an earlier figure)")


def test_a_figure_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    out = tmp_path / "r.png"
    save_figure(FIGURE, out)
    before = out.read_bytes()

    def cut(self, path, **_):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", cut)
    with pytest.raises(OSError, match="No space left"):
        save_figure(OTHER, out)
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


def test_a_folder_and_an_unknown_suffix_are_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        save_figure(FIGURE, tmp_path)
    with pytest.raises(ValueError, match="unknown file extension"):
        save_figure(FIGURE, tmp_path / "r.sheet")
    assert list(tmp_path.iterdir()) == []
