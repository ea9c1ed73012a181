"""The benchmark of streaming runs, and its table says what its runs measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.streaming.run import SIZE, augment_by_image, report
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_loader_is_measured_and_told_of(tmp_path):
    command = [sys.executable, "-m", "benchmarks.streaming.run", "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads((tmp_path / "results/streaming.json").read_text())
    for workers in ("1", "2"):
        assert set(results["rows_per_second"][workers]) == {
            "ours", "datasets, in order", "datasets, shuffled", "webdataset"
        }  # fmt: skip
        assert all(speed > 0 for speeds in results["rows_per_second"][workers].values() for speed in speeds)
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count("| webdataset | ") == 2 and "| by batch, kornia |" in text


def test_ratios_are_taken_within_a_repetition():
    speeds = {"ours": [10.0, 40.0], "datasets, in order": [5.0, 10.0], "datasets, shuffled": [1.0, 1.0]}
    speeds["webdataset"] = [10.0, 10.0]
    results = {
        "rows": 7, "repetitions": 2, "rows_per_second": {"1": speeds, "2": speeds}, "command": "c",
        "machine": {"cpu": "m", "cores": 2},
        "augmentation": {"none": [10.0, 20.0], "by image, Pillow": [5.0, 5.0]},
    }  # fmt: skip
    text = report(results)
    assert "| ours | 1 | 25 (10 to 40) | 3.00 (2.00 to 4.00) |" in text
    assert "| webdataset | 2 | 10 (10 to 10) | 1.50 (1.00 to 2.00) |" in text
    assert "| by image, Pillow | 5 (5 to 5) | 0.38 (0.25 to 0.50) |" in text


def test_augmentation_by_image_keeps_size_and_erases_to_the_mean():
    images = [Image.new("RGB", (SIZE[1], SIZE[0]), (200, 0, 0)) for _ in range(64)]
    done = augment_by_image(images, np.random.default_rng(0), (1, 2, 3))
    assert {image.size for image in done} == {(SIZE[1], SIZE[0])}
    colours = {tuple(colour) for image in done for colour in np.asarray(image).reshape(-1, 3)}
    assert colours == {(200, 0, 0), (0, 0, 0), (1, 2, 3)}
    erased = sum((np.asarray(image) == (1, 2, 3)).all(axis=2).any() for image in done)
    assert 20 < erased < 44
