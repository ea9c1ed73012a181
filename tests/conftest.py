"""A saved model, a folder of persons, a video and a detector, for tests of galleries and commands."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_gadms import GADMSModel
from modeling_gadms.media import detection
from modeling_gadms.media.detection import PersonBox


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
    """Twelve readable images, six unusable files (one for each reason), and a text file."""
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


@pytest.fixture
def video(tmp_path) -> Path:
    """Twenty frames; a red person walks through those from the tenth on."""
    import cv2

    path = tmp_path / "walk.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 120))
    for index in range(20):
        frame = np.full((120, 160, 3), 90, dtype=np.uint8)
        if index >= 10:
            cv2.rectangle(frame, (index * 4, 20), (index * 4 + 20, 80), (0, 0, 255), -1)
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def red_detector(monkeypatch):
    """Replaces the person detector by one that finds red pixels; `made_with` is its argument."""

    class RedDetector:
        made_with: detection.PersonBoxFilter

        def __init__(self, *, box_filter):
            RedDetector.made_with = box_filter

        def __call__(self, images):
            return [self.detect(np.asarray(image).astype(int)) for image in images]

        def detect(self, pixels):
            rows, columns = np.nonzero((pixels[..., 0] > 180) & (pixels[..., 1] < 60))
            return [PersonBox(columns.min(), rows.min(), columns.max(), rows.max(), 0.9)] if len(rows) else []

    monkeypatch.setattr(detection, "SsdMobileNetDetector", RedDetector)
    return RedDetector
