"""`examples/reproduce.py`: the plan of each table, what is published, and whole runs on drawn data."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


EXAMPLES = Path(__file__).parents[2] / "examples"
ALL = ["cuhk_pedes", "icfg_pedes", "rstpreid"]


@pytest.fixture(scope="module")
def reproduction():
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module("reproduction")
    sys.path.remove(str(EXAMPLES))


@pytest.fixture
def reproduce(run_program, monkeypatch) -> Callable[..., subprocess.CompletedProcess]:
    """A function that runs the program in this process, as importing the libraries takes longer than most calls."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def call(*arguments: object) -> subprocess.CompletedProcess:
        code, output, error = run_program(EXAMPLES / "reproduce.py", *arguments)
        message = code if isinstance(code, str) else ""  # what `sys.exit` prints
        return subprocess.CompletedProcess(arguments, 1 if message else code, output, error + message)

    return call


# ---------------------------------------------------------------------------------------------------------------------
# The tables.
# ---------------------------------------------------------------------------------------------------------------------
def test_published_numbers_are_those_of_the_papers(reproduction):
    assert {name: list(values.values()) for name, values in reproduction.PUBLISHED.items()} == {
        "fine-tuned 5M": ["77.60 (69.82)", "69.51 (42.30)", "71.25 (55.43)"],
        "fine-tuned 1M": ["77.02 (69.65)", "69.07 (41.91)", "70.30 (54.89)"],
        "fine-tuned HAM-PEDES + RDE": ["77.99 (69.72)", "69.95", "72.50"],
        "fine-tuned IRRA": ["73.38 (66.13)", "63.46 (38.05)", "60.20 (47.17)"],
        "transfer 5M": ["68.34 (60.22)", "54.64 (30.68)", "57.60 (42.00)"],
        "transfer HAM-PEDES": ["70.15", "59.63", "58.85"],
        "transfer CLIP": ["12.65 (11.15)", "6.67 (2.51)", "13.45 (10.31)"],
        "no masking": ["56.75", "34.63", "45.50"],
        "noise cosine": ["63.29", "43.39", "51.95"],
        "noise gass": ["63.87", "44.02", "52.30"],
        "noise gass + mtp": ["64.25", "44.39", "52.70"],
    }


def test_the_ablation_has_seven_rows_and_the_control(reproduction):
    rows = reproduction.table_rows(4, ALL)
    assert len(rows) == 8
    changes = [rows[number].trainings["rstpreid"].overrides for number in range(8)]
    assert len(set(changes)) == 8
    assert changes[0] == ("model.token_score=none", "model.noise_masking=false", "model.masked_token_prediction=false")
    assert changes[6] == ("model.token_score=gass", "model.noise_masking=true", "model.masked_token_prediction=true")
    assert changes[7] == ("model.token_score=random", "model.noise_masking=true", "model.masked_token_prediction=true")
    assert [bool(row.published) for row in rows] == [True, True, True, False, False, False, True, False]
    assert len(reproduction.trainings_of(rows)) == 8, "one pre-training serves all benchmarks"


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (1, ["finetune-only-rstpreid", "pretrain", "finetune-rstpreid"]),
        (2, ["pretrain"]),
        (3, ["pretrain-part", "pretrain", "finetune-part-rstpreid", "finetune-rstpreid"]),
    ],
)
def test_trainings_come_once_and_after_what_they_go_on_from(reproduction, table, names):
    trainings = reproduction.trainings_of(reproduction.table_rows(table, ["rstpreid"]))
    assert [training.name for training in trainings] == names
    for number, training in enumerate(trainings):
        assert training.after is None or training.after in trainings[:number]


def test_there_is_no_fifth_table(reproduction):
    with pytest.raises(ValueError, match="there is no table 5; choose one of 1, 2, 3, 4"):
        reproduction.table_rows(5, ALL)


# ---------------------------------------------------------------------------------------------------------------------
# Whole runs.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("reproduce")


@pytest.mark.slow
def test_table_4_runs_whole_on_drawn_data_and_is_not_run_twice(output, reproduce):
    arguments = ("--table", 4, "--data-root", "synthetic", "--size", "ci", "--output", output)
    result = reproduce(*arguments)
    assert result.returncode == 0, result.stderr[-4000:]
    assert (
        result.stdout.count("$ python examples/train.py") == result.stdout.count("$ python examples/evaluate.py") == 8
    )
    table = (output / "synthetic-ci" / "table-4.md").read_text()
    assert table.strip() in result.stdout
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert [row.split("|")[1].strip() for row in rows] == [
        "no masking", "noise mask, cosine", "noise mask, GASS", "MTP, cosine", "MTP, GASS", "noise mask + MTP, cosine",
        "noise mask + MTP, GASS (the method)", "noise mask + MTP, random scores (control, not in the paper)",
    ]  # fmt: skip
    assert "| 63.87 |" in rows[2] and "52.70" in rows[6]
    content = json.loads((output / "synthetic-ci" / "table-4.json").read_text())
    assert len(content["cells"]) == 24
    for cell in content["cells"]:
        (run,) = cell["runs"]
        assert run["training"]["seed"] == 0
        assert run["dataset"]["name"] == cell["benchmark"]
        score = run["training"]["config"]["model"]["token_score"]
        assert f"-{score}" in cell["training"]
        best = run["text_to_image"]["r1"]
        row = next(line for line in rows if f"{best:.2f} (" in line)
        assert row
    other = reproduce(*arguments, "model.temperature=0.1")
    assert other.returncode == 1 and "was trained with other settings" in other.stderr
    again = reproduce(*arguments)
    assert again.returncode == 0 and "$ python" not in again.stdout
    assert (output / "synthetic-ci" / "table-4.md").read_text() == table


@pytest.mark.slow
def test_fine_tuning_runs_from_a_checkpoint_over_two_seeds(output, reproduce):
    arguments = ("--table", 1, "--data-root", "synthetic", "--size", "ci", "--output", output, "--seeds", 0, 1,
                 "--benchmarks", "icfg_pedes")  # fmt: skip
    result = reproduce(*arguments)
    assert result.returncode == 0, result.stderr[-4000:]
    table = (output / "synthetic-ci" / "table-1.md").read_text()
    ours = next(line for line in table.splitlines() if line.startswith("| GA-DMS, WebPerson"))
    assert "69.51 (42.30)" in ours and ours.count("±") == 2
    run = json.loads((output / "synthetic-ci" / "finetune-icfg_pedes-seed1" / "model" / "run.json").read_text())
    assert run["seed"] == 1
    (measured,) = json.loads((output / "synthetic-ci" / "table-1.json").read_text())["cells"][-3]["runs"][1:]
    assert measured["training"]["started_from"]["config"]["data"]["dataset"] == "webperson"
    across = table.partition("## Across benchmarks")[2].splitlines()
    assert across[-1].startswith("| GA-DMS, WebPerson: ICFG-PEDES | ") and across[-1].count("±") == 2
    assert run["config"]["model"]["from_pretrained"].endswith("pretrain-seed1/model")
    assert run["config"]["model"]["num_identities"] == 15, "one of 16 is held out to validate on"
    assert run["config"]["data"]["dataset_args"]["name"] == "holdout"


@pytest.mark.slow
def test_a_checkpoint_takes_the_place_of_a_training_and_counts_once(output, reproduce):
    model = output / "synthetic-ci" / "ablation-gass-noise-mtp-seed0" / "model"
    arguments = ("--table", 2, "--data-root", "synthetic", "--size", "ci", "--output", output / "two", "--seeds", 0, 1,
                 "--checkpoints", f"pretrain={model}")  # fmt: skip
    result = reproduce(*arguments)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "train.py" not in result.stdout
    ours = next(line for line in result.stdout.splitlines() if line.startswith("| GA-DMS, WebPerson"))
    four = (output / "synthetic-ci" / "table-4.md").read_text()
    row = next(line for line in four.splitlines() if line.startswith("| noise mask + MTP, GASS"))
    assert [ours.split("|")[column] for column in (3, 5, 7)] == [row.split("|")[column] for column in (3, 5, 7)]


@pytest.mark.slow
def test_another_checkpoint_or_benchmark_is_measured_anew(output, tmp_path, reproduce):
    root, runs = tmp_path / "data", output / "synthetic-ci"
    root.mkdir()
    (root / "RSTPReid").symlink_to(runs / "data" / "RSTPReid")

    def measured(name: str) -> set[tuple[str, str]]:
        given = f"pretrain={runs / name / 'model'}"
        result = reproduce("--table", 2, "--data-root", root, "--checkpoints", given, "--output", tmp_path / "out")
        assert result.returncode == 0, result.stderr[-4000:]
        cells = json.loads((tmp_path / "out" / "real" / "table-2.json").read_text())["cells"]
        return {
            (cell["benchmark"], Path(run["model"]["folder"]).parent.name) for cell in cells for run in cell["runs"]
        }

    assert measured("ablation-none-seed0") == {("rstpreid", "ablation-none-seed0")}
    assert measured("ablation-gass-noise-seed0") == {("rstpreid", "ablation-gass-noise-seed0")}
    (root / "CUHK-PEDES").symlink_to(runs / "data" / "CUHK-PEDES")
    assert {benchmark for benchmark, _ in measured("ablation-gass-noise-seed0")} == {"rstpreid", "cuhk_pedes"}


def test_what_is_not_there_is_named_before_anything_runs(tmp_path, reproduce):
    result = reproduce("--table", 2, "--data-root", tmp_path)
    assert result.returncode == 1
    assert f"reproduce.py: {tmp_path} holds none of the folders CUHK-PEDES" in result.stderr
    (tmp_path / "RSTPReid").mkdir()
    for arguments, message in (
        (["--benchmarks", "cuhk_pedes"], "has no folder of cuhk_pedes; it has rstpreid"),
        (["--checkpoints", "teacher=/nowhere"], "table 2 has no training 'teacher' to take"),
        (["--checkpoints", f"pretrain={tmp_path}"], "is not a model folder"),
    ):
        result = reproduce("--table", 2, "--data-root", tmp_path, *arguments)
        assert result.returncode == 1 and message in result.stderr, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["RSTPReid"]


def test_a_dry_run_prints_the_calls_of_real_data(tmp_path, reproduce):
    (tmp_path / "data" / "ICFG-PEDES").mkdir(parents=True)
    result = reproduce("--table", 3, "--data-root", tmp_path / "data", "--launcher", "accelerate launch", "--dry-run",
                       "--output", tmp_path / "out")  # fmt: skip
    assert result.returncode == 0, result.stderr
    calls = [line for line in result.stdout.splitlines() if line.startswith("$ ")]
    assert len(calls) == 8
    assert calls[0].startswith("$ accelerate launch examples/train.py") and "data.dataset_args.name=1m" in calls[0]
    assert "data.dataset=icfg_pedes" in calls[4] and "data.dataset_args.name=holdout" in calls[4]
    assert "from_pretrained=" in calls[4]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_draws_nothing(tmp_path, reproduce):
    result = reproduce("--table", 3, "--data-root", "synthetic", "--dry-run", "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert len([line for line in result.stdout.splitlines() if line.startswith("$ ")]) == 16
    assert not (tmp_path / "out").exists()
