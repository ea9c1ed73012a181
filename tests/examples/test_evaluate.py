"""`examples/evaluate.py`, run as a user runs it."""

import hashlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
import transformers
from miniature_releases import cuhk_pedes, rstpreid, write
from PIL import Image
from safetensors.torch import load_file, save_file

from modeling_gadms import GADMSModel
from modeling_gadms.evaluation.retrieval import evaluate_retrieval
from modeling_gadms.training.data import DatasetColumns
from tests.waiting import PATIENCE_SECONDS


REPOSITORY = Path(__file__).parents[2]
PROGRAM = REPOSITORY / "examples" / "evaluate.py"


@pytest.fixture
def model_folder(tmp_path, tiny_model, processor):
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)  # with all that training adds, as examples/train.py saves it
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def data_folder(tmp_path):
    """Splits written by `save_to_disk`; eight images of four persons."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 40, 20, 3), dtype=np.uint8)
    rows = {
        "image": [Image.fromarray(pixels) for pixels in noise],
        "caption1": [f"A man in a red coat number {row}." for row in range(8)],
        "caption2": [f"Person with {row} bags." for row in range(8)],
        "person_id": [row // 2 for row in range(8)],
    }
    split = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    folder = tmp_path / "persons"
    datasets.DatasetDict(train=split.select(range(2)), test=split).save_to_disk(folder)
    return folder


@pytest.fixture
def run(run_program):
    return partial(run_program, PROGRAM)


@pytest.mark.slow
def test_it_evaluates_synthetic_persons_from_the_command_line(model_folder, tmp_path):
    output = tmp_path / "runs" / "metrics.json"
    command = [sys.executable, PROGRAM, "--model", model_folder, "--dataset", "synthetic_persons"]
    command += ["--dataset-args", "num_train_persons=1", "num_validation_persons=1", "num_test_persons=3"]
    command += ["image_size=[48, 16]", f"cache_dir={tmp_path / 'cache'}"]
    command += ["--output", output, "--short-queries"]
    run = subprocess.run(
        list(map(str, command)),
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert run.returncode == 0, run.stderr
    assert "R@1" in run.stdout and "text-to-image" in run.stdout and f"Written to {output}" in run.stdout
    record = json.loads(output.read_text())
    assert record["counts"]["images"] == record["dataset"]["rows"] == 3
    assert record["dataset"]["arguments"]["image_size"] == [48, 16]
    assert record["dataset"]["columns"]["person_id"] == "person_id"
    # Of three persons, everybody is among the first ten.
    assert set(record["short_queries"]) == {"1", "2", "3"} and "R-precision" in run.stdout
    for measured in record["short_queries"].values():
        assert measured["hit_at_10"] == 1 and 0 < measured["r_precision"] <= 1 and measured["queries"] == 300


def test_the_record_holds_the_metrics_and_what_repeats_them(run, model_folder, data_folder, tmp_path, processor):
    output = tmp_path / "new" / "folder" / "metrics.json"
    code, _, error = run("--model", model_folder, "--dataset", data_folder, "--output", output)
    assert code == 0, error
    record = json.loads(output.read_text())

    model = GADMSModel.from_pretrained(model_folder)
    test_split = datasets.load_from_disk(data_folder)["test"]
    report = evaluate_retrieval(model, processor, test_split, DatasetColumns(person_id="person_id"), progress=False)
    assert record["text_to_image"] == pytest.approx(report.text_to_image.to_dict())
    assert record["image_to_text"] == pytest.approx(report.image_to_text.to_dict())
    assert record["counts"] == report.to_dict()["counts"]
    weights = hashlib.sha256((model_folder / "model.safetensors").read_bytes()).hexdigest()
    assert record["model"]["weights_sha256"] == {"model.safetensors": weights}
    assert record["dataset"]["name"] == str(data_folder) and record["dataset"]["split"] == "test"
    assert record["versions"]["transformers"] == transformers.__version__
    assert record["command"].endswith(f"--output {output}")
    assert list(output.parent.iterdir()) == [output]  # nothing unfinished is left behind


def test_columns_and_split_can_be_named(run, model_folder, data_folder, tmp_path):
    renamed = datasets.load_from_disk(data_folder)["test"].rename_columns({"image": "photo", "caption1": "text"})
    folder = tmp_path / "renamed"
    renamed.remove_columns("person_id").save_to_disk(folder)
    output = tmp_path / "metrics.json"
    arguments = ["--image", "photo", "--captions", "text", "--split", "train", "--output", output]
    code, shown, error = run("--model", model_folder, "--dataset", folder, *arguments)
    assert code == 0, error
    assert "No person ids: each image is its own person" in shown
    record = json.loads(output.read_text())
    assert record["counts"]["captions"] == record["counts"]["identities"] == 8
    assert record["dataset"]["columns"] == {"image": "photo", "captions": ["text"], "person_id": None}


def test_two_runs_give_the_same_metrics(run, model_folder, data_folder, tmp_path):
    outputs = [tmp_path / "first.json", tmp_path / "second.json"]
    for output, batch_size in zip(outputs, (3, 64), strict=True):
        run("--model", model_folder, "--dataset", data_folder, "--batch-size", batch_size, "--output", output)
    first, second = (json.loads(output.read_text()) for output in outputs)
    assert first["text_to_image"] == pytest.approx(second["text_to_image"])


def drop_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["gadms.text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "header"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "its tokenizer has"),
        (drop_the_tokenizer, "Couldn't instantiate the backend tokenizer"),  # several lines, where it is raised
        (drop_a_weight, "lacks 1 weights of GADMSModel, such as text_projection.weight"),
    ],
)
def test_a_damaged_model_folder_is_one_line_and_exit_code_2(run, model_folder, data_folder, change, message):
    change(model_folder)
    code, _, error = run("--model", model_folder, "--dataset", data_folder)
    last_line = error.strip().splitlines()[-1]
    assert code == 2 and last_line.startswith("evaluate.py: ") and message in last_line
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "There is no model 'nowhere'"),
        (["--dataset", "no_such_data"], "no_such_data"),
        (["--dataset", "synthetic_persons", "--dataset-args", "colour=1"], "synthetic_persons has no field 'colour'"),
        (["--split", "dev"], "has no split `dev`; it has train, test"),
        (["--captions", "legend"], "no column `legend`"),
        (["--batch-size", "0"], "batch_size must be positive, not 0"),
        (["--dataset-args", "seed"], "'seed' must read KEY=VALUE"),
        (["--output", "."], "--output . is a folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    run, model_folder, data_folder, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, _, error = run("--model", model_folder, "--dataset", data_folder, "--output", "m.json", *arguments)
    last_line = error.strip().splitlines()[-1]
    assert code == 2 and "evaluate.py: " in last_line and message in last_line
    assert "Traceback" not in error
    assert not Path("m.json").exists()


def test_several_models_are_measured_on_several_benchmarks(run, model_folder, tmp_path, tiny_model, processor):
    other = tmp_path / "other"
    tiny_model().save_pretrained(other)
    processor.save_pretrained(other)
    (other / "run.json").write_text(json.dumps({"seed": 5, "config": {"training": {"seed": 5}}}))
    write(tmp_path / "root" / "CUHK-PEDES", "reid_raw.json", cuhk_pedes())
    write(tmp_path / "root" / "RSTPReid", "data_captions.json", rstpreid())
    output = tmp_path / "cells.json"
    arguments = (
        "--model",
        model_folder,
        other,
        "--benchmarks",
        tmp_path / "root",
        "--dataset-args",
        "check_counts=false",
        "--output",
        output,
    )
    code, text, _ = run(*arguments)
    assert code == 0
    cells = json.loads(output.read_text())["cells"]
    assert [(cell["dataset"]["name"], Path(cell["model"]["folder"]).name) for cell in cells] == [
        ("cuhk_pedes", "model"), ("cuhk_pedes", "other"), ("rstpreid", "model"), ("rstpreid", "other")
    ]  # fmt: skip
    captions = [caption for entry in cuhk_pedes() if entry["split"] == "test" for caption in entry["captions"]]
    cut = sum(len(processor.tokenizer(caption)["input_ids"]) > 24 for caption in captions)
    assert cells[0]["counts"] == {"images": 4, "captions": 8, "identities": 2, "truncated_captions": cut}
    assert [cell["training"] and cell["training"]["seed"] for cell in cells] == [None, 5, None, 5]
    rows = [line for line in text.splitlines() if line.startswith((str(model_folder) + " ", str(other) + " "))]
    matrix = [row for row in rows if "(" in row]
    for row, (first, second) in zip(matrix, ((0, 2), (1, 3)), strict=True):
        for cell in (cells[first], cells[second]):
            metrics = cell["text_to_image"]
            assert f"{metrics['r1']:.2f} ({metrics['map']:.2f})" in row


def test_short_queries_need_to_know_what_the_persons_wear(run, model_folder, data_folder, tmp_path):
    code, _, error = run(
        "--model", model_folder, "--dataset", data_folder, "--output", tmp_path / "m.json", "--short-queries"
    )
    assert code == 2 and "--short-queries needs to know what the persons wear" in error


def test_several_models_go_with_benchmarks_alone(run, model_folder, data_folder, tmp_path):
    code, _, error = run("--model", model_folder, model_folder, "--dataset", data_folder)
    assert code == 2 and "several models need --benchmarks" in error
    code, _, error = run("--model", model_folder, "--benchmarks", tmp_path / "nowhere")
    assert code == 2 and "holds none of the folders" in error


def test_what_benchmarks_settle_themselves_is_not_ignored(run, model_folder, tmp_path):
    for option, value in (
        ("--split", "train"),
        ("--captions", "caption1"),
        ("--person-id", "id"),
        ("--image", "photo"),
        ("--short-queries", None),
    ):
        given = [option] if value is None else [option, value]
        code, _, error = run("--model", model_folder, "--benchmarks", tmp_path, *given)
        assert code == 2 and f"{option} goes with --dataset" in error
