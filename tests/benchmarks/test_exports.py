"""The benchmark of exports runs, and its tables say what it measured, also where it disappoints."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from benchmarks.exports import run as inference_exports
from benchmarks.exports.run import report, speed_summary
from modeling_gadms import GADMSProcessor
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]
KINDS = ("captions 1", "captions 32", "images 1", "images 32")


@pytest.mark.slow
def test_every_runtime_is_measured_at_both_sizes(tmp_path, tiny_model, processor):
    tiny_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    noise = np.random.default_rng(0).integers(0, 256, (6, 40, 20, 3), dtype=np.uint8)
    rows = {
        "image": [Image.fromarray(pixels) for pixels in noise],
        "caption1": [f"A man in a red coat number {row}." for row in range(6)],
        "caption2": [f"Person with {row} bags." for row in range(6)],
        "person_id": [row // 2 for row in range(6)],
    }
    split = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    datasets.DatasetDict(test=split).save_to_disk(tmp_path / "persons")

    command = [sys.executable, "-m", "benchmarks.exports.run", "--quick", "--model", tmp_path / "model"]
    command += ["--dataset", tmp_path / "persons", "--output", tmp_path, "--dataset-args"]
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads((tmp_path / "results" / "exports.json").read_text())
    demo, large = results["models"]
    assert demo["compared"] == {"images": 6, "captions": 12}
    assert set(demo["text_to_image"]) == {"torch", "onnx", "onnx-int8"} and "text_to_image" not in large
    assert demo["text_to_image"]["onnx"] == pytest.approx(demo["text_to_image"]["torch"])
    for model in (demo, large):
        assert model["agreement"]["onnx"]["images"]["largest_difference"] < 1e-4
        assert model["agreement"]["onnx-int8"]["captions"]["mean_cosine"] > 0.99
        assert set(model["speed"]) == set(KINDS)
        for measured_speed in model["speed"].values():
            assert set(measured_speed) == {"torch_ms", "onnx", "onnx-int8"}
            assert all(value > 0 for values in measured_speed.values() for value in values.values())
    text = (tmp_path / "RESULTS.md").read_text()
    assert "<!-- exports: begin -->" in text and text.count("| ONNX int8 |") == 5 + 1


def measured(name: str, **more: object) -> dict:
    agreement = {
        kind: {"largest_difference": 2e-7, "mean_cosine": 0.99912, "least_cosine": 0.5}
        for kind in ("images", "captions")
    }
    return {
        "name": name,
        "opset": 18,
        "megabytes": {
            "image_encoder.onnx": 1.0,
            "image_encoder.onnx.data": 300.0,
            "image_encoder_int8.onnx": 80.0,
            "text_encoder.onnx": 200.0,
            "text_encoder_int8.onnx": 70.0,
        },
        "compared": {"images": 1000, "captions": 2000},
        "agreement": {"onnx": agreement, "onnx-int8": agreement},
        "speed": dict.fromkeys(
            KINDS, speed_summary({"torch": [0.01, 0.04, 0.03], "onnx": [0.005] * 3, "onnx-int8": [0.02] * 3})
        ),
        **more,
    }


def test_losses_and_slowness_are_told():
    metrics = {
        runtime: {"r1": r1, "r5": 80.0, "r10": 90.0, "map": 60.0}
        for runtime, r1 in (("torch", 53.15), ("onnx", 53.15), ("onnx-int8", 52.4))
    }
    models = [measured("the demo's", text_to_image=metrics), measured("ViT-B/16")]
    text = report({"models": models, "command": "c", "machine": {"cpu": "m", "cores": 2}})
    assert "| ONNX int8 | 52.40 | 80.00 | 90.00 | 60.00 | -0.75 |" in text
    assert "| ONNX float32 | 53.15 | 80.00 | 90.00 | 60.00 | +0.00 |" in text
    assert "| ViT-B/16 | images | 32 | 30.0 (10.0 to 40.0) | 6.00 (2.00 to 8.00) | 1.50 (0.50 to 2.00) |" in text
    assert "| the demo's | ONNX float32 | 1,000 images | 2.0e-07 | 0.9991 (0.5000) | 301.0 |" in text
    assert "| ViT-B/16 | ONNX int8 | 2,000 captions | 2.0e-07 | 0.9991 (0.5000) | 70.0 |" in text


def test_the_large_model_has_the_vocabulary_of_clip_and_reads_captions_as_the_small_one(tmp_path, monkeypatch):
    captions = ["A man in a red coat.", "A woman with a white bag."] * 3
    saved = []
    monkeypatch.setattr(inference_exports, "GADMSModel", lambda config: saved.append(config) or Unsaved())
    inference_exports.make_model(tmp_path / "large", captions, quick=False)
    inference_exports.make_model(tmp_path / "small", captions, quick=True)
    config = saved[0]
    assert (config.text_config.vocab_size, config.mask_token_id, config.image_size) == (49_409, 49_408, (384, 128))
    assert config.vision_config.num_hidden_layers == config.text_config.num_hidden_layers == 12
    large, small = (GADMSProcessor.from_pretrained(tmp_path / name).tokenizer for name in ("large", "small"))
    assert large.eos_token_id == 49_407
    for caption in captions[:2]:
        assert large.tokenize(caption) == small.tokenize(caption)


class Unsaved:
    """Stands in for a model of 150 million random weights."""

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir()
