"""The comparison with CLIP is of the same work, ratios point the right way, and misses are told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.encoding.run import FULL, MAX_TOKENS, draw_persons, make_captions, make_config, report
from modeling_gadms import GADMSProcessor
from modeling_gadms.training.tokenizer import train_tokenizer
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_both_models_do_the_same_work_and_an_index_run_is_measured_beside_the_encoder(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.encoding.run", "--quick", "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads((tmp_path / "results" / "encoding.json").read_text())
    clip, (run,) = results["clip"], results["index"]
    assert set(clip["largest_difference"]) == {"images", "captions", "from text"}
    assert max(clip["largest_difference"].values()) < 1e-4  # the same weights, the same embeddings
    assert run["largest_difference"] < 1e-5
    assert set(results["ratio_to_clip"]) == {"images", "captions"}
    for kind in ("images", "captions"):
        assert {len(values) for values in clip["seconds"][kind].values()} == {61}
    assert set(run["seconds"]) == {"alone", "read", "sequence", "ahead", "index"}
    assert {name: entry["better"] for name, entry in results["guarded"].items()} == dict.fromkeys(
        ("images_to_clip", "captions_to_clip", "index_to_reading"), "higher"
    )
    assert set(results["index_to_encoder"]) == {"a small model, threads: 1"}
    assert "<!-- encoding: begin -->" in (tmp_path / "RESULTS.md").read_text()


def test_captions_have_20_to_50_tokens():
    captions = make_captions(200)
    tokenizer = train_tokenizer(captions, vocab_size=1024, max_length=MAX_TOKENS)
    processor = GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 16))
    lengths = processor(text=captions)["attention_mask"].sum(1)
    assert lengths.min() == 20 and lengths.max() == 50
    assert make_captions(200) == captions


def test_the_drawn_files_are_of_upright_persons(tmp_path):
    draw_persons(tmp_path / "persons", 12)
    pictures = [Image.open(path) for path in sorted((tmp_path / "persons").glob("*.jpg"))]
    assert len(pictures) == 12 and {picture.format for picture in pictures} == {"JPEG"}
    for width, height in (picture.size for picture in pictures):
        assert 200 <= height < 480 and 1.9 < height / width < 3.1


def test_the_full_comparison_is_of_vit_b_16_and_the_demo_model_is_that_of_its_recipe():
    tokenizer = train_tokenizer(make_captions(20), vocab_size=600, max_length=77)
    GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 16))
    config = make_config(tokenizer, (FULL.side, FULL.side), FULL.encoder, FULL.encoder)
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, config.image_size) == (
        768,
        12,
        16,
        (224,) * 2,
    )
    assert (text.hidden_size, text.num_hidden_layers, text.vocab_size) == (512, 12, 49_409)
    real, demo, spared = FULL.index
    assert (real.image_size, real.vision) == ((384, 128), {})
    assert (demo.threads, spared.threads) == (2, 1) and spared.vision == demo.vision
    config = make_config(tokenizer, demo.image_size, demo.text, demo.vision, demo.projection_dim)
    assert (config.image_size, config.vision_config.patch_size, config.projection_dim) == ((96, 32), 8, 128)
    assert (config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers) == (4, 2)


def test_a_miss_is_told_and_more_is_better():
    seconds = {"ours": [0.5, 1.0, 1.0], "clip": [1.0, 1.0, 1.1]}
    run = {"alone": [2.0], "read": [1.0], "sequence": [4.0], "ahead": [2.5], "index": [2.0]}
    sizes = {"image_size": [384, 128], "images": 10, "batch": 5, "threads": 2}
    results = {
        "command": "c",
        "machine": {"cpu": "m", "cores": 2, "memory_gb": 8, "python": "3", "torch": "2"},
        "threads": 2,
        "clip": {
            "image_size": [224, 224],
            "batch": {"images": 4, "captions": 8},
            "tokens": {"least": 20, "most": 50},
            "largest_difference": {"images": 1e-6, "captions": 2e-6},
            "seconds": {
                "images": seconds,
                "captions": {"ours": [2.0], "clip": [1.0]},
                "from text": {"ours": [1.0], "longest": [2.0], "77": [4.0]},
            },
            "texts": {"captions": 32, "batch": 8},
        },
        "index": [
            {"name": "large", **sizes, "seconds": run},
            {"name": "little", **sizes, "seconds": run | {"index": [8.0]}},
        ],
    }
    text = report(results)
    assert "| images | 4 | 4.0 (4.0 to 8.0) | 4.0 (3.6 to 4.0) | 1.100 (1.000 to 2.000) | 1e-06 |" in text
    assert "| captions | 8 | 4.0 | 8.0 | 0.500 | 2e-06 |" in text
    assert "| ours, similar lengths together and packed | 32.0 | 2.00 |" in text
    assert "| CLIP, padded to 77 | 8.0 | 0.50 |" in text
    assert "| large, 384x128, batches of 5, threads: 2 | 5.0 | 100.0 | 0.50 | 0.80 | 1.00 |" in text
    assert "met: images at least 1.0 times CLIP's (1.100); MISSED: captions at least 1.0 times CLIP's (0.500)" in text
    assert "met: an index run at least 0.9 of the encoder alone, large, threads: 2 (1.00)" in text
    assert "MISSED: an index run at least 0.9 of the encoder alone, little, threads: 2 (0.25)" in text
