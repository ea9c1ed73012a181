"""The comparison of adapters with the training of all weights is fair, resumable, and true to its runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.adapters import run as adapters
from benchmarks.adapters.run import RATES, Tuning, cost_summary, report
from tests.waiting import PATIENCE_SECONDS


ROOT = Path(__file__).parents[2]


def test_new_modules_learn_at_the_same_rate_whichever_way_the_encoders_are_trained():
    for way, rates in RATES.items():
        for rate in rates:
            settings = dict(override.split("=") for override in Tuning(way, 0, rate).overrides)
            learning_rate = float(settings["training.learning_rate"])
            assert learning_rate * float(settings["training.new_module_lr_multiplier"]) == pytest.approx(
                1e-3, rel=1e-4
            )
            assert ("adapter.method" in settings) == (way != "full")


def test_the_shipped_recipe_differs_from_that_of_all_weights_in_adapter_and_rate_alone():
    recipes = []
    for name in ("reproduce_synthetic_finetune", "finetune_synthetic_lora"):
        recipes.append(yaml.safe_load((ROOT / "examples" / "configs" / f"{name}.yaml").read_text()))
    whole, lora = recipes
    assert lora.pop("adapter")["method"] == "lora"
    assert lora["model"].pop("from_pretrained") and lora["data"]["dataset_args"].pop("data_dir")
    for recipe in recipes:
        for key in ("output_dir", "learning_rate", "new_module_lr_multiplier"):
            del recipe["training"][key]
    assert lora == whole


class Fake:
    """What a training would leave, without one; notes the calls."""

    def __init__(self, validation_r1: dict[str, float]):
        self.validation_r1, self.calls = validation_r1, []

    def __call__(self, command, *, threads, capture=False):
        self.calls.append(command)
        settings = dict(part.split("=", 1) for part in command if "=" in part)
        if command[1].endswith("train.py"):
            folder = Path(settings["training.output_dir"])
            (folder / "model").mkdir(parents=True)
            (folder / "model" / "adapter_model.safetensors").write_bytes(b"12345")
            footprint = {"trained_parameters": 7, "parameters": 9, "peak_memory_bytes": 5_000_000, "memory": "process"}
            (folder / "model" / "run.json").write_text(json.dumps({"footprint": footprint}))
            state = {"global_step": 4, "best_metric": self.validation_r1[settings["training.learning_rate"]]}
            (folder / "trainer_state.json").write_text(json.dumps(state))
        elif command[1].endswith("evaluate.py"):
            counts = {"captions": 20, "images": 10, "identities": 5}
            record = {"text_to_image": {"r1": 40.0, "map": 30.0}, "counts": counts}
            Path(command[command.index("--output") + 1]).write_text(json.dumps(record))
        elif command[2] == "benchmarks.adapters.worker":
            seconds = {"frozen": 1.0, "lora": 2.0, "dora": 3.0, "full": 4.0}[command[4]]
            numbers = {"peak_bytes": seconds * 1e9, "libraries_bytes": 5e8, "trained_parameters": 5, "parameters": 10}
            return "a warning\n" + json.dumps(numbers | {"seconds": [seconds] * 2, "threads": 2})
        return ""


VALIDATION_R1 = {"2e-4": 10.0, "5e-4": 30.0, "1e-3": 20.0, "2e-3": 25.0, "4e-3": 40.0, "8e-3": 5.0}


def test_rates_are_chosen_on_validation_persons_and_nothing_is_repeated(tmp_path, monkeypatch):
    fake = Fake(VALIDATION_R1)
    monkeypatch.setattr(adapters, "_run", fake)
    first = adapters.Bench(tmp_path, "ci").quality([0, 1, 2])
    assert first["chosen_rate"] == {"full": "5e-4", "lora": "4e-3", "dora": "4e-3"}
    assert first["validation_r1_by_rate"]["lora"] == {"1e-3": 20.0, "2e-3": 25.0, "4e-3": 40.0, "8e-3": 5.0}
    assert {way: len(runs) for way, runs in first["runs"].items()} == {"full": 3, "lora": 3, "dora": 3}
    tuned = [call for call in fake.calls if call[1].endswith("train.py")]
    assert len(tuned) == 12 + 6, "twelve to choose the rates with one seed, six for the others"
    done = len(fake.calls)
    assert adapters.Bench(tmp_path, "ci").quality([0, 1, 2]) == first
    assert [call[1].endswith("reproduce.py") for call in fake.calls[done:]] == [True], "which repeats nothing either"


def test_a_training_that_was_begun_with_other_settings_is_not_taken_for_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "_run", Fake(VALIDATION_R1))
    bench = adapters.Bench(tmp_path, "ci")
    bench.tune(adapters.Tuning("lora", 0, "1e-3"))
    monkeypatch.setitem(adapters.RANK, "demo", 4)
    with pytest.raises(ValueError, match="was trained with other settings"):
        bench.tune(adapters.Tuning("lora", 0, "1e-3"))


def test_all_ways_take_turns_and_finished_steps_are_not_timed_again(tmp_path, monkeypatch):
    fake = Fake(VALIDATION_R1)
    monkeypatch.setattr(adapters, "_run", fake)
    bench = adapters.Bench(tmp_path, "ci")
    first = bench.cost({"demo": 2}, 2, 2)
    assert [call[4] for call in fake.calls] == ["frozen", "lora", "dora", "full"] * 2
    assert bench.cost({"demo": 2}, 2, 2) == first and len(fake.calls) == 8


def test_the_report_says_what_the_runs_say_also_where_it_disappoints():
    def run(r1: float, **footprint) -> dict:
        counts = {"captions": 2100, "images": 1050, "identities": 300}
        trained = {"trained_parameters": 1000, "saved_bytes": 2_500_000, "peak_memory_bytes": 9e8, "steps": 264}
        return {"text_to_image": {"r1": r1, "map": r1 / 2}, "counts": counts, **trained, **footprint}

    def cost(seconds: list[float], peak: float) -> dict:
        numbers = {"parameters": 400, "trained_parameters": 100, "libraries_bytes": 5e8, "threads": 2, "batch": 8}
        return {"seconds": seconds, "peak_bytes": peak, **numbers}

    quality = {
        "seeds": [0, 1, 2], "rank": 8, "new_module_rate": 1e-3,
        "chosen_rate": {"full": "5e-4", "lora": "2e-3", "dora": "4e-3"},
        "validation_r1_by_rate": {"full": {"5e-4": 31.0}, "lora": {"1e-3": 3.0, "2e-3": 4.0}, "dora": {}},
        "bases": [run(10.0), run(12.0), run(14.0)],
        "runs": {"full": [run(30.0), run(20.0), run(40.0)], "lora": [run(20.0), run(21.0), run(31.0)],
                 "dora": [run(31.0), run(22.0), run(43.0)]},
    }  # fmt: skip
    ways = {
        "frozen": [cost([1.0], 1e9), cost([2.0], 1e9)],
        "lora": [cost([2.0, 3.0, 10.0], 2e9), cost([6.0], 2e9)],
        "dora": [cost([8.0], 4e9), cost([4.0], 4e9)],
        "full": [cost([6.0], 4e9), cost([4.0], 4e9)],
    }
    text = report(
        {
            "quality": quality,
            "cost": {"vit-b-16": {way: cost_summary(runs) for way, runs in ways.items()}},
            "command": "c",
            "machine": {"cpu": "m", "cores": 2},
        }
    )
    assert "| frozen encoders: the base without fine-tuning |  | 12.00 ± 2.00 | 6.00 ± 1.00 | 0 |  |  |" in text
    assert "| all weights | 5e-4 | 30.00 ± 10.00 | 15.00 ± 5.00 | 1,000 | 2.5 | 900 |" in text
    assert "LoRA -10.00, +1.00, -9.00 (mean -6.00 ± 6.08)" in text
    assert "LoRA 1e-3: 3.00, 2e-3: 4.00" in text and "for 264 steps" in text
    # Three over six and six over four: within a repetition.
    assert "### Size of ViT-B/16, batch 8" in text
    assert "| LoRA | 100 (25.0%) | 2,000 | 0.50 | 4.50 | 1.00 (0.50 to 1.50) |" in text
    assert "| all weights | 100 (25.0%) | 4,000 | 1.00 | 5.00 | 1.00 (1.00 to 1.00) |" in text


@pytest.mark.slow
def test_a_worker_trains_what_it_says():
    def work(way: str) -> dict:
        command = [sys.executable, "-m", "benchmarks.adapters.worker", "demo", way, "1", "--rank", "2"]
        command += ["--batch", "2"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    frozen, dora, full = (work(way) for way in ("frozen", "dora", "full"))
    assert adapters.COST_WAYS.keys() == {"frozen", "lora", "dora", "full"}
    assert frozen["trained_parameters"] < dora["trained_parameters"] < full["trained_parameters"] == full["parameters"]
    # 4 layers in each of two encoders of width 128 and 512: attention has four layers of 128 to 128, and two are wide.
    block = 4 * (2 * (128 + 128) + 128) + 2 * 2 * (128 + 512) + 128 + 512
    assert dora["trained_parameters"] - frozen["trained_parameters"] == 8 * block
    assert len(full["seconds"]) == 1 and full["peak_bytes"] > full["libraries_bytes"] > 1e8
