"""`examples/publish.py` as a program."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard, ModelCard

from dataset_scripts.loading import load_splits
from modeling_gadms.encoders.atomic_files import write_json
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.evaluation.reports import make_record
from modeling_gadms.evaluation.retrieval import evaluate_retrieval
from modeling_gadms.training.data import DatasetColumns
from tests.hub_server import HubServer
from tests.hub_state import FIRST_FILES
from tests.waiting import PATIENCE_SECONDS


REPOSITORY = Path(__file__).parents[2]
PROGRAM = REPOSITORY / "examples" / "publish.py"
TOKEN = "hf_mine"


@pytest.fixture
def drawn(tmp_path) -> dict:
    """Arguments of a small drawn data set."""
    persons = {"num_train_persons": 2, "num_validation_persons": 1, "num_test_persons": 3}
    return persons | {"image_size": [48, 16], "cache_dir": str(tmp_path / "cache")}


@pytest.fixture
def arguments(tmp_path, tiny_model, processor, drawn) -> list[str]:
    """Arguments with a model that was trained and measured on these persons."""
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    data = {"dataset": "synthetic_persons", "dataset_args": drawn}
    write_json(folder / "run.json", {"seed": 0, "config": {"model": {}, "data": data, "training": {"seed": 0}}})
    model, processor = load_model_and_processor(folder)
    test, columns = load_splits("synthetic_persons", **drawn)["test"], DatasetColumns(person_id="person_id")
    report = evaluate_retrieval(model, processor, test, columns, progress=False)
    where = {"name": "synthetic_persons", "arguments": drawn, "split": "test"}
    write_json(tmp_path / "metrics.json", make_record(report, model, folder, test, columns, **where))
    words = ["--namespace", "me", "--model", str(folder), "--metrics", str(tmp_path / "metrics.json")]
    return [*words, "--dataset-args", *(f"{key}={json.dumps(value)}" for key, value in drawn.items())]


@pytest.fixture
def run(run_program, monkeypatch, tmp_path):
    """Run the program in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(run_program, PROGRAM)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_push_it_writes_what_would_be_pushed(run, arguments, tmp_path):
    code, text, error = run(*arguments)
    assert code == 0, error
    out = tmp_path / "runs" / "publish"
    assert text.count("Nothing was pushed") == 2 and "from_pretrained" not in text
    model, dataset = ModelCard.load(out / "model" / "README.md"), DatasetCard.load(out / "dataset" / "README.md")
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert [result.metric_value for result in model.data.eval_results] == [
        *record["text_to_image"].values(),
        *record["image_to_text"].values(),
    ]
    assert model.data.datasets == ["me/drawn-persons"]  # the training data is the published data set
    assert dataset.data.pretty_name == "drawn-persons"
    assert len(datasets.load_dataset(str(out / "dataset"), split="test")) == 3


@pytest.mark.slow
def test_with_push_both_are_on_the_hub_as_in_the_dry_run(run, arguments, tmp_path):
    run(*arguments)
    with HubServer() as hub:
        hub.add_token(TOKEN, write=True, namespaces=["me"])
        environment = os.environ | hub.environment(tmp_path / "home", TOKEN) | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, str(PROGRAM), *arguments, "--push", "--tag", "v1", "--private"]
        finished = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        assert finished.returncode == 0, finished.stderr
        for kind, name in (("model", "me/ga-dms-demo"), ("dataset", "me/drawn-persons")):
            files = hub.files(name, "v1", repo_type=kind)
            pushed = {path: content for path, content in files.items() if path not in FIRST_FILES}
            assert pushed == contents(tmp_path / "runs" / "publish" / kind)
            assert hub.repositories[kind, name].private and f"Pushed to {name}" in finished.stdout
    assert 'AutoModel.from_pretrained("me/ga-dms-demo", trust_remote_code=True)' in finished.stdout


@pytest.mark.slow
def test_neither_is_pushed_where_one_is_refused(arguments, tmp_path):
    record = json.loads((tmp_path / "metrics.json").read_text())
    record["model"]["weights_sha256"]["model.safetensors"] = "0" * 64
    write_json(tmp_path / "metrics.json", record)
    with HubServer() as hub:
        hub.add_token(TOKEN, write=True, namespaces=["me"])
        environment = os.environ | hub.environment(tmp_path / "home", TOKEN) | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, str(PROGRAM), *arguments, "--push"]
        finished = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        assert finished.returncode == 2 and "was measured on other weights" in finished.stderr
        assert hub.repositories == {} and hub.writes() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--model", "nowhere"], "there is no folder nowhere"),
        (["--metrics", "nowhere.json"], "nowhere.json"),
        (["--namespace", "a/b"], "Repo id must be"),
        (["--dataset-args", "seed"], "'seed' must read KEY=VALUE"),
        (["--dataset-args", "colour=1"], "synthetic_persons has no field 'colour'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, arguments, changes, message):
    code, _, error = run(*arguments, *changes)
    last = error.strip().splitlines()[-1]
    assert code == 2 and "publish.py: " in last and message in last
    assert "Traceback" not in error


def test_a_second_dry_run_does_not_mix_with_the_first(run, arguments):
    assert run(*arguments)[0] == 0
    code, _, error = run(*arguments)
    assert code == 2 and "dataset already exists; give a new or an empty folder" in error


def test_it_is_short_enough_to_copy():
    assert len(PROGRAM.read_text().splitlines()) < 150
