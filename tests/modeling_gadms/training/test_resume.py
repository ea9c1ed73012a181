"""A run that was killed and resumed ends where an uninterrupted one does, to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.waiting import PATIENCE_SECONDS


# One worker of several runs them all, so that the runs are killed once.
pytestmark = pytest.mark.slow
TRAIN = Path(__file__).parents[3] / "examples" / "train.py"
# 22 rows make 5 batches of 4 an epoch: 15 steps. Masks, augmentation and captions are all drawn.
CONFIG = """
model:
  vocab_size: 520
  text_config: {hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 2}
  vision_config: {hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2,
                  image_size: [32, 16], patch_size: 8}
  projection_dim: 16
  score_layers: 2
  fusion_num_hidden_layers: 1
  fusion_num_attention_heads: 2
  fusion_intermediate_size: 16
  informative_mask_rate: 0.6
  temperature: 0.1
data: {dataset: DATASET, crop_padding: 3, streaming: STREAMING, shuffle_buffer: 8}
training:
  per_device_train_batch_size: 4
  num_train_epochs: 3
  learning_rate: 1e-3
  lr_scheduler_type: cosine
  warmup_steps: 3
  masking_start: 0.2
  logging_steps: 1
  eval_strategy: steps
  eval_steps: 4
  save_strategy: steps
  save_steps: 2
  report_to: none
  disable_tqdm: true
  use_cpu: true
"""


def persons(num_rows: int) -> datasets.Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (num_rows, 32, 16, 3), dtype=np.uint8)
    rows = {
        "image": [Image.fromarray(values) for values in pixels],
        "caption1": [f"person number {row} in red" for row in range(num_rows)],
        "caption2": [f"a long coat, {row * row} buttons and a hat" for row in range(num_rows)],
    }
    return datasets.Dataset.from_dict(rows)


@pytest.fixture(scope="module", params=[False, True], ids=["random access", "stream"])
def folder(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    (folder / "persons").mkdir()
    for split, num_rows in (("train", 22), ("validation", 3)):
        persons(num_rows).to_parquet(folder / "persons" / f"{split}.parquet", batch_size=4)  # rows of a row group
    config = CONFIG.replace("DATASET", str(folder / "persons")).replace("STREAMING", str(request.param).lower())
    (folder / "run.yaml").write_text(config)
    worker = Path(__file__).with_name("resume_worker.py")
    result = subprocess.run(
        [sys.executable, worker, TRAIN, folder / "run.yaml", folder],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return folder


def test_the_run_was_killed_four_times(folder):
    report = json.loads((folder / "report.json").read_text())
    assert report["codes"] == [0, *[-signal.SIGKILL] * 4, 0]
    # The last death left weights and optimizer, but no state.
    assert "model.safetensors" in report["left_behind"]
    assert "trainer_state.json" not in report["left_behind"]


def test_the_final_parameters_are_equal_to_the_bit(folder):
    whole, killed = (load_file(folder / name / "model" / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    for name, value in whole.items():
        assert torch.equal(value, killed[name]), name


@pytest.mark.parametrize("step", [12, 14])
def test_checkpoints_after_the_last_death_are_equal_too(folder, step):
    def load(name: str, file: str):
        return torch.load(folder / name / f"checkpoint-{step}" / file, weights_only=False)

    torch.testing.assert_close(load("killed", "optimizer.pt"), load("whole", "optimizer.pt"), rtol=0, atol=0)
    assert load("killed", "scheduler.pt") == load("whole", "scheduler.pt")
    assert torch.equal(load("killed", "rng_state.pth")["cpu"], load("whole", "rng_state.pth")["cpu"])


def test_every_step_was_trained_once_and_alike(folder):
    whole, killed = (
        json.loads((folder / name / "trainer_state.json").read_text())["log_history"] for name in ("whole", "killed")
    )
    names = ("step", "loss", "grad_norm", "alignment_loss", "mtp_loss", "noise_mask_rate", "eval_r1", "eval_loss")

    def numbers(history: list[dict]) -> list[dict]:
        return [{name: entry[name] for name in names if name in entry} for entry in history[:-1]]

    assert [entry["step"] for entry in whole if "loss" in entry] == list(range(1, 16))
    assert numbers(killed) == numbers(whole)


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_killed_at_twenty_random_moments(folder, tmp_path):
    rng = random.Random(0)
    whole = load_file(folder / "whole" / "model" / "model.safetensors")
    resumed = [sys.executable, TRAIN, "--config", folder / "run.yaml", "--resume"]
    began = time.monotonic()
    subprocess.run([*resumed, f"training.output_dir={tmp_path / 'timed'}"], check=True, capture_output=True)
    usual = time.monotonic() - began
    runs = deaths = 0
    while deaths < 20:
        output = tmp_path / f"run-{runs}"
        runs += 1
        command = [*resumed, f"training.output_dir={output}"]
        while not (output / "model" / "model.safetensors").is_file() or not (output / "trainer_state.json").is_file():
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                # More than half of it is loading libraries; some live to the end.
                process.wait(timeout=rng.uniform(0.4, 1.3) * usual)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                deaths += 1
        killed = load_file(output / "model" / "model.safetensors")
        assert all(torch.equal(value, killed[name]) for name, value in whole.items())
