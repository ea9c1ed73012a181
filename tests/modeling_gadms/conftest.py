"""A saved model and a folder of persons, for the tests of search."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_gadms import GADMSModel


@pytest.fixture
def model_folder(tmp_path, tiny_model, processor) -> Path:
    """What training leaves behind: the whole model and its processor."""
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def model(model_folder) -> GADMSModel:
    return GADMSModel.from_pretrained(model_folder).eval()


@pytest.fixture
def person_folder(tmp_path) -> Path:
    """Twelve sound images, six files that cannot be used, one for each reason, and a text file."""
    folder = tmp_path / "persons"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(folder / f"person{number:02d}.png")
    content = (folder / "person00.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").touch()
    (folder / "letter.jpg").write_text("Dear Sir or Madam")
    (folder / "notes.txt").write_text("not counted")
    Image.new("RGB", (1, 1)).save(folder / "beacon.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    Image.new("1", (9_500, 9_500)).save(folder / "vast.png")
    return folder
