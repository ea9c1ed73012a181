"""Publishing a model: the upload folder, the card and its metrics, and what is refused before a push."""

import hashlib
import json
import math
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import typer
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import modeling_gadms
from gadms_cli.publishing import publish_model as command
from modeling_gadms import GADMSForPreTraining, GADMSModel
from modeling_gadms.encoders.atomic_files import write_json
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.evaluation.reports import make_record
from modeling_gadms.evaluation.retrieval import evaluate_retrieval
from modeling_gadms.publishing.model import publish_model
from modeling_gadms.publishing.model_card import TrainingCost
from modeling_gadms.publishing.upload_folder import PublishReport
from modeling_gadms.training.adapters import AdapterArguments, add_adapter
from modeling_gadms.training.data import DatasetColumns
from modeling_gadms.training.history import is_local, read_training_history
from modeling_gadms.training.model_setup import build_model_and_processor
from modeling_gadms.training.run_config import ModelArguments
from tests.hub_client import MINE
from tests.hub_server import HubServer
from tests.hub_state import FIRST_FILES
from tests.modeling_gadms.publishing.hub_stories import embeddings


pytestmark = pytest.mark.slow


PACKAGE = Path(modeling_gadms.__file__).parent
CODE = {path.name for path in PACKAGE.glob("*_gadms.py")}
CLIP = "openai/clip-vit-base-patch16"


@pytest.fixture
def persons() -> datasets.Dataset:
    noise = np.random.default_rng(0).integers(0, 256, (8, 40, 20, 3), dtype=np.uint8)
    rows = {
        "image": [Image.fromarray(pixels) for pixels in noise],
        "caption1": [f"A man in a red coat number {row}." for row in range(8)],
        "caption2": [f"Person with {row} bags." for row in range(8)],
        "person_id": [row // 2 for row in range(8)],
    }
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


@pytest.fixture
def measure(persons, tmp_path):
    """A function that measures a model like examples/evaluate.py. Returns the metrics file and its record."""

    def call(folder: Path, file: str = "metrics.json", **where) -> tuple[Path, dict]:
        model, processor = load_model_and_processor(folder)
        columns = DatasetColumns(person_id="person_id")
        report = evaluate_retrieval(model, processor, persons, columns, progress=False)
        where = {"name": str(tmp_path / "data" / "my_persons"), "arguments": {}, "split": "test"} | where
        record = make_record(report, model, folder, persons, columns, **where)
        path = tmp_path / file
        write_json(path, record)
        return path, record

    return call


@pytest.fixture
def trained(model_folder, tmp_path) -> Path:
    """A folder written by the Trainer: trained from CLIP on WebPerson, then on a local data set."""
    first = tmp_path / "runs" / "first" / "model"
    first.mkdir(parents=True)
    run_record(first, {"from_clip": CLIP}, "webperson", {"name": "1m", "cache_dir": str(tmp_path)}, learning_rate=1e-4)
    own = str(tmp_path / "data" / "my_persons")
    run_record(model_folder, {"from_pretrained": str(first)}, own, {}, learning_rate=1e-5, output_dir=str(tmp_path))
    (model_folder / "training_args.bin").write_bytes(b"a pickle")
    (model_folder / "optimizer.pt").write_bytes(b"a pickle")
    (model_folder / "checkpoint-5").mkdir()
    (model_folder / "README.md").write_text("By hand.")
    return model_folder


def run_record(folder: Path, model: dict, dataset: str, arguments: dict, seed: int = 3, **training) -> None:
    data = {"dataset": dataset, "dataset_args": arguments}
    config = {"model": model | {"token_score": "gass"}, "data": data, "training": {"seed": seed} | training}
    write_json(folder / "run.json", {"seed": seed, "config": config})


def dry(folder: Path, tmp_path: Path, name: str = "out", **options) -> tuple[Path, ModelCard, PublishReport]:
    out = tmp_path / name
    report = publish_model(folder, "me/demo", dry_run=out, **options)
    return out, ModelCard.load(out / "README.md"), report


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------------------------
# The folder.
# ---------------------------------------------------------------------------------------------------------------------
def test_it_holds_weights_byte_for_byte_and_what_loads_them(model_folder, tmp_path):
    out, _, report = dry(model_folder, tmp_path)
    names = {"README.md", "config.json", "model.safetensors", "processor_config.json"}
    names |= {"tokenizer.json", "tokenizer_config.json"} | CODE
    assert set(report.files) == set(contents(out)) == names
    assert (out / "model.safetensors").read_bytes() == (model_folder / "model.safetensors").read_bytes()
    assert report.files == {name: len(c) for name, c in contents(out).items()}
    model, processor = load_model_and_processor(model_folder)
    assert embeddings(*load_model_and_processor(out)) == embeddings(model, processor)


def test_what_is_no_part_of_a_model_is_left_out_by_name(trained, tmp_path):
    out, _, report = dry(trained, tmp_path)
    left = {entry.name: entry.reason for entry in report.excluded}
    assert set(left) == {"training_args.bin", "optimizer.pt", "checkpoint-5/", "README.md"}
    assert "pickle" in left["training_args.bin"] and "pickle" in left["optimizer.pt"]
    assert not [name for name in contents(out) if name.endswith((".bin", ".pt"))]


def test_shards_and_their_index_are_published(tiny_model, processor, tmp_path):
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder, max_shard_size="50KB")
    processor.save_pretrained(folder)
    out, _, report = dry(folder, tmp_path)
    shards = {path.name for path in folder.glob("*.safetensors")}
    assert len(shards) > 2 and shards | {"model.safetensors.index.json"} <= report.files.keys()


def test_the_code_is_that_of_the_package_that_loaded_it(model_folder, tmp_path):
    (model_folder / "modeling_gadms.py").write_text("raise SystemExit('foreign code')")
    out, _, report = dry(model_folder, tmp_path)
    assert (out / "modeling_gadms.py").read_bytes() == (PACKAGE / "modeling_gadms.py").read_bytes()
    assert [entry.name for entry in report.excluded] == ["modeling_gadms.py"]


def test_no_place_on_this_machine_is_told(trained, tmp_path, measure):
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((trained / name).read_text()) | {
            "_name_or_path": str(trained),
            "name_or_path": str(trained),
        }
        (trained / name).write_text(json.dumps(values))
    metrics, _ = measure(trained, arguments={"data_dir": str(tmp_path), "seed": 1})
    out, _, _ = dry(trained, tmp_path, metrics=[metrics])
    for name, content in contents(out).items():
        assert str(tmp_path).encode() not in content and str(Path.home()).encode() + b"/" not in content, name


def test_a_place_that_slips_in_is_found_before_it_is_published(model_folder, tmp_path):
    values = json.loads((model_folder / "tokenizer_config.json").read_text())
    (model_folder / "tokenizer_config.json").write_text(json.dumps(values | {"made_by": str(model_folder / "x")}))
    with pytest.raises(ValueError, match=r"tokenizer_config.json contains the path .*model"):
        dry(model_folder, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_takes_no_folder_that_holds_something(model_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(FileExistsError, match="out already exists; give a new or an empty folder"):
        dry(model_folder, tmp_path)
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "mine"]


def test_a_dry_run_is_whole_or_not_there(trained, tmp_path):
    before = set(tmp_path.iterdir())
    weights = load_file(trained / "model.safetensors")
    weights["gadms.visual_projection.weight"][0, 0] = math.nan
    save_file(weights, trained / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"visual_projection.weight has values that are not finite"):
        dry(trained, tmp_path)
    assert set(tmp_path.iterdir()) == before


def drop_a_weight(folder: Path) -> None:
    """Drop a weight that retrieval does not need."""
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if not name.startswith("gadms."))]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def one_shard_short(folder: Path) -> None:
    GADMSForPreTraining.from_pretrained(folder).save_pretrained(folder, max_shard_size="50KB")
    (folder / "model-00002-of-00006.safetensors").unlink()


def another_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "clip"}')


def cut_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])


def without(name: str):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_weights, r"lacks model.safetensors.*pytorch_model.bin, and pickles are not published"),
        (one_shard_short, r"lacks model-00002-of-00006.safetensors"),
        (drop_a_weight, "lacks 1 weights of GADMSForPreTraining"),
        (another_model, "contains a model of type 'clip'"),
        (cut_weights, r"model does not load: .*model/model.safetensors is damaged"),
        (without("config.json"), "contains no model: neither config.json nor adapter_config.json"),
        (without("processor_config.json"), "lacks a processor"),
        (without("tokenizer.json"), "its tokenizer has"),
        (
            lambda folder: shutil.copy(folder / "model.safetensors", folder / "old.safetensors"),
            "contains old.safetensors",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), "is not valid JSON"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "gadms"}'), "names no code"),
        (lambda folder: (folder / "run.json").write_text("[]"), "is no run record"),
        (shutil.rmtree, "there is no folder"),
    ],
)
def test_what_is_no_whole_model_is_refused(model_folder, tmp_path, change, message):
    change(model_folder)
    with pytest.raises((ValueError, OSError), match=message):
        dry(model_folder, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_model": "/models/clip"}, "Repo id"),
        ({"base_model": "clip"}, "base model: 'clip' must be a name on the Hub"),
        ({"datasets": ["a/b/c"]}, "Repo id"),
    ],
)
def test_names_that_are_none_are_refused(model_folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        dry(model_folder, tmp_path, **options)


# ---------------------------------------------------------------------------------------------------------------------
# The card.
# ---------------------------------------------------------------------------------------------------------------------
def test_the_metadata_tells_where_the_model_comes_from(trained, tmp_path):
    _, card, _ = dry(trained, tmp_path)
    data = card.data.to_dict()
    assert data["base_model"] == CLIP  # not the local folder in between
    assert data["base_model_relation"] == "finetune"
    assert data["datasets"] == ["Kaichengalex/WebPerson-1M"]  # and not the folder
    assert (data["license"], data["library_name"], data["language"]) == ("apache-2.0", "transformers", ["en"])
    assert data["pipeline_tag"] == "zero-shot-image-classification" and "person-retrieval" in data["tags"]
    assert "model-index" not in data and "co2_eq_emissions" not in data


def test_what_is_given_goes_before_what_is_recorded(trained, tmp_path):
    _, card, _ = dry(trained, tmp_path, base_model="me/base", datasets=["me/persons"], license="cc-by-nc-4.0")
    data = card.data.to_dict()
    assert (data["base_model"], data["datasets"], data["license"]) == ("me/base", ["me/persons"], "cc-by-nc-4.0")


def test_the_model_index_holds_the_values_of_the_file_exactly(model_folder, tmp_path, measure):
    metrics, record = measure(model_folder, name="cuhk_pedes", arguments={"data_dir": str(tmp_path), "seed": 7})
    _, card, _ = dry(model_folder, tmp_path, metrics=[metrics])
    found = {(result.task_type, result.metric_type): result.metric_value for result in card.data.eval_results}
    expected = {
        (f"{direction.replace('_', '-')}-retrieval", metric): value
        for direction in ("text_to_image", "image_to_text")
        for metric, value in record[direction].items()
    }
    assert found == expected and len(found) == 10
    for result in card.data.eval_results:
        assert (result.dataset_type, result.dataset_split, result.dataset_args) == ("cuhk_pedes", "test", {"seed": 7})
        assert result.dataset_config == "default (seed=7)"


def test_the_text_rounds_them_and_tells_how_they_were_measured(model_folder, tmp_path, measure):
    metrics, record = measure(model_folder, name="cuhk_pedes", arguments={"data_dir": str(tmp_path)})
    _, card, _ = dry(model_folder, tmp_path, metrics=[metrics])
    row = " | ".join(f"{value:.2f}" for value in record["text_to_image"].values())
    assert f"| cuhk_pedes, default | test | text-to-image | {row} |" in card.text
    assert (
        "16 captions (`caption1`, `caption2`) and 8 images of 4 persons; 0 captions truncated at 24 tokens"
        in card.text
    )
    assert f"in float32 on cpu; python {record['versions']['python']}, torch {torch.__version__}" in card.text
    assert "--dataset cuhk_pedes --dataset-args data_dir=FOLDER --split test --captions caption1 caption2" in card.text


def test_measurements_on_several_data_sets_and_arguments_stay_apart(model_folder, tmp_path, measure):
    one = measure(model_folder, "one.json", name="synthetic_persons", arguments={"seed": 1})
    two = measure(model_folder, "two.json", name="synthetic_persons", arguments={"seed": 2})
    three = measure(model_folder, "three.json", name="cuhk_pedes")
    write_json(tmp_path / "cells.json", {"cells": [two[1], three[1]]})
    _, card, report = dry(model_folder, tmp_path, metrics=[one[0], tmp_path / "cells.json", three[0]])
    (model,) = card.data.to_dict()["model-index"]
    assert [len(result["metrics"]) for result in model["results"]] == [5] * 6
    assert [entry.reason for entry in report.excluded] == ["given more than once: 1"]  # `three`


def test_results_on_data_sets_of_the_hub_are_also_in_its_format(model_folder, tmp_path, measure):
    """Read by huggingface_hub's own parser: R@1 with the digest of the weights, and no data set without repository."""
    sha = "5503434ddd753f426f4b38109466949a1217c2bb"
    measured = [
        measure(model_folder, "one.json", name="me/persons", arguments={"revision": sha}),
        measure(model_folder, "two.json", name="me/persons", arguments={"name": "crowded"}, split="validation"),
        measure(model_folder, "three.json", name="cuhk_pedes"),
        measure(model_folder, "four.json"),
        measure(model_folder, "five.json", name="webperson", arguments={"name": "1m"}),
    ]
    out, card, _ = dry(model_folder, tmp_path, metrics=[file for file, _ in measured])
    files = sorted(path.name for path in (out / ".eval_results").iterdir())
    assert files == ["Kaichengalex_WebPerson-1M.yaml", "me_persons.yaml"]
    entries = parse_eval_result_entries(yaml.safe_load((out / ".eval_results" / "me_persons.yaml").read_text()))
    assert [(entry.dataset_id, entry.value) for entry in entries] == [
        ("me/persons", record[direction]["r1"])
        for _, record in measured[:2]
        for direction in ("text_to_image", "image_to_text")
    ]
    assert len({entry.task_id for entry in entries}) == 4 and [entry.dataset_revision for entry in entries[1:3]] == [
        sha,
        None,
    ]
    digest = hashlib.sha256((model_folder / "model.safetensors").read_bytes()).hexdigest()
    assert all(f"model.safetensors has SHA-256 {digest}" in entry.notes for entry in entries)
    assert len(card.data.eval_results) == 5 * 10  # and all of them stay in the card


def test_the_card_tells_the_trainings_oldest_first(trained, tmp_path):
    out, card, _ = dry(trained, tmp_path)
    first = card.text.index("[Kaichengalex/WebPerson-1M]")
    assert first < card.text.index("- `my_persons`, continuing the training before, seed 3")
    assert f'(name="1m"), from {CLIP}, seed 3' in card.text or f"(name=1m), from {CLIP}, seed 3" in card.text
    assert "| `learning_rate` | 0.0001 | 1e-05 |" in card.text and "| `token_score` | gass | gass |" in card.text
    record = json.loads((out / "run.json").read_text())
    assert record["seed"] == 3 and record["config"]["data"]["dataset"] == "./my_persons"
    assert "output_dir" not in record["config"]["training"] and record["config"]["model"]["from_pretrained"] is None
    assert record["started_from"]["config"]["model"]["from_clip"] == CLIP


def test_the_card_tells_sizes_and_digests(model_folder, tmp_path):
    _, card, _ = dry(model_folder, tmp_path)
    encoders = sum(parameter.numel() for parameter in GADMSModel.from_pretrained(model_folder).parameters())
    stored = sum(value.numel() for value in load_file(model_folder / "model.safetensors").values())
    assert f"| parameters | {encoders:,} in the two encoders; {stored:,} in the files |" in card.text
    assert "| image | 32 x 16 pixels (height x width), patches of 8 x 8 |" in card.text
    assert "| precision of the weights | float32 |" in card.text
    digest = hashlib.sha256((model_folder / "model.safetensors").read_bytes()).hexdigest()
    assert f"`model.safetensors`, SHA-256 `{digest}`" in card.text


def test_half_precision_is_told(tiny_model, processor, tmp_path):
    folder = tmp_path / "model"
    tiny_model().to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    _, card, _ = dry(folder, tmp_path)
    assert "| precision of the weights | bfloat16" in card.text


def test_hardware_and_carbon_are_told_only_if_they_are_known(model_folder, tmp_path):
    _, card, _ = dry(model_folder, tmp_path)
    assert "| hardware | not recorded |\n| training time | not recorded |\n| carbon | not recorded |" in card.text
    file = tmp_path / "cost.yaml"
    file.write_text("hardware: 8 x A100\nhours: 20.5\nemissions_grams: 1200\nemissions_source: CodeCarbon\n")
    _, card, _ = dry(model_folder, tmp_path, "second", cost=TrainingCost.from_file(file))
    assert (
        "| hardware | 8 x A100 |\n| training time | 20.5 h |\n| carbon | 1200 g CO2 equivalent (CodeCarbon) |"
        in card.text
    )
    emissions = card.data.to_dict()["co2_eq_emissions"]
    assert emissions == {"emissions": 1200, "source": "CodeCarbon", "hardware_used": "8 x A100"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hardwear: 8 x A100", "unknown key `hardwear`.*did you mean `hardware`"),
        ("hours: long", "`hours` in .* is 'long'"),
        ("hours: -1", "hours = -1 must be a number of 0 or more"),
        ("emissions_source: CodeCarbon", "give emissions_grams too"),
    ],
)
def test_a_faulty_cost_file_is_refused(tmp_path, text, message):
    (tmp_path / "cost.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        TrainingCost.from_file(tmp_path / "cost.yaml")


def test_misuse_and_limits_stand_in_every_card(model_folder, tmp_path):
    _, card, _ = dry(model_folder, tmp_path)
    for words in ("Clothing is not identity", "mass surveillance", "scores rank, they do not verify"):
        assert words in card.text


def test_nothing_in_a_card_is_left_unfilled(trained, tmp_path, measure):
    metrics, _ = measure(trained)
    for name, options in (("bare", {}), ("full", {"metrics": [metrics]})):
        _, card, _ = dry(trained, tmp_path, name, **options)
        assert not any(mark in card.text for mark in ("{{", "{%", "None", "<namespace>", "\n\n\n")), card.text
        assert card.text.endswith(".\n")


# ---------------------------------------------------------------------------------------------------------------------
# Measurements that do not belong.
# ---------------------------------------------------------------------------------------------------------------------
def test_metrics_of_other_weights_are_refused_with_both_digests(model_folder, tmp_path, measure, tiny_model):
    metrics, record = measure(model_folder)
    measured = record["model"]["weights_sha256"]["model.safetensors"]
    tiny_model(seed=1).save_pretrained(model_folder)
    with pytest.raises(
        ValueError, match=rf"metrics.json was measured on other weights .*model.safetensors.*{measured}"
    ):
        dry(model_folder, tmp_path, metrics=[metrics])
    assert not (tmp_path / "out").exists()


def test_one_changed_bit_is_other_weights(model_folder, tmp_path, measure):
    metrics, _ = measure(model_folder)
    content = bytearray((model_folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model_folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="other weights"):
        dry(model_folder, tmp_path, metrics=[metrics])


def test_of_a_file_with_several_models_the_own_is_taken_and_the_others_are_counted(model_folder, tmp_path, measure):
    metrics, record = measure(model_folder)
    foreign = json.loads(json.dumps(record))
    foreign["model"]["weights_sha256"] = {"model.safetensors": "0" * 64}
    foreign["text_to_image"]["r1"] = 99.0
    write_json(metrics, {"cells": [foreign, record, foreign]})
    _, card, report = dry(model_folder, tmp_path, metrics=[metrics])
    assert card.data.eval_results[0].metric_value == record["text_to_image"]["r1"]
    assert [(entry.name, entry.reason) for entry in report.excluded] == [
        (f"records of {metrics}", "measured on other weights: 2")
    ]


def set_value(*keys, value):
    def change(record: dict) -> dict:
        inside = record
        for key in keys[:-1]:
            inside = inside[key]
        inside[keys[-1]] = value
        return record

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_value("model", "weights_sha256", value={}), "does not name the measured weights"),
        (set_value("model", value={}), "does not name the measured weights"),
        (set_value("model", value=None), "does not name the measured weights"),
        (set_value("text_to_image", "map", value=math.nan), "mAP text-to-image is nan"),
        (set_value("image_to_text", "r1", value=101.0), r"R@1 image-to-text is 101.0"),
        (set_value("image_to_text", "r1", value="99"), r"R@1 image-to-text is '99'"),
        (set_value("image_to_text", "r1", value=True), r"R@1 image-to-text is True"),
        (set_value("text_to_image", value={}), r"R@1 text-to-image is None"),
        (set_value("counts", "images", value=None), "`images` is None, not a count"),
        (lambda record: {"cells": []}, "contains no measurement"),
        (lambda record: {"loss": 1.0}, "holds no measurement of examples/evaluate.py"),
    ],
)
def test_a_file_that_measures_nothing_is_refused(model_folder, tmp_path, measure, change, message):
    metrics, record = measure(model_folder)
    metrics.write_text(json.dumps(change(record)))
    with pytest.raises(ValueError, match=f"metrics.json.*{message}"):
        dry(model_folder, tmp_path, metrics=[metrics])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (set_value("text_to_image", "r5", value=1.0), "values"),
        (set_value("dataset", "columns", value={"captions": ["caption1"], "person_id": None}), "captions"),
        (set_value("counts", "images", value=9), "counts"),
        (set_value("model", "dtype", value="float16"), "precision"),
    ],
)
def test_two_measurements_that_disagree_are_refused(model_folder, tmp_path, measure, change, what):
    metrics, record = measure(model_folder)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(change(record)))
    with pytest.raises(ValueError, match=f"metrics.json and .*other.json disagree on my_persons.*{what} are"):
        dry(model_folder, tmp_path, metrics=[metrics, other])


# ---------------------------------------------------------------------------------------------------------------------
# Adapters.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def adapter_folder(model_folder, tmp_path) -> Path:
    start = ModelArguments(from_pretrained=str(model_folder), config={"num_identities": 3})
    model, processor = build_model_and_processor(start, [])
    wrapped = add_adapter(model, AdapterArguments(rank=4), str(model_folder))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path / "adapter"
    wrapped.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_an_adapter_names_its_base_and_holds_nothing_of_it(adapter_folder, model_folder, tmp_path, measure):
    metrics, record = measure(adapter_folder)
    out, card, report = dry(adapter_folder, tmp_path, base_model="me/base", metrics=[metrics])
    assert report.files.keys() == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "processing_gadms.py"),
        *("processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    }
    assert (out / "adapter_model.safetensors").read_bytes() == (
        adapter_folder / "adapter_model.safetensors"
    ).read_bytes()
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "me/base"
    data = card.data.to_dict()
    assert (data["base_model"], data["library_name"]) == ("me/base", "peft")
    assert card.data.eval_results[0].metric_value == record["text_to_image"]["r1"]
    assert "LORA of rank 4" in card.text and str(tmp_path) not in str(card)


def test_an_adapter_whose_base_nobody_has_is_refused(adapter_folder, tmp_path):
    with pytest.raises(
        ValueError, match="which exists only on this machine: publish it first, and pass its Hub id as --base-model"
    ):
        dry(adapter_folder, tmp_path)


def test_metrics_of_an_adapter_on_another_base_are_refused(adapter_folder, tmp_path, measure):
    metrics, record = measure(adapter_folder)
    record["model"]["base_model"]["weights_sha256"]["model.safetensors"] = "0" * 64
    write_json(metrics, record)
    with pytest.raises(ValueError, match="other weights than those .* of the base has SHA-256"):
        dry(adapter_folder, tmp_path, base_model="me/base", metrics=[metrics])


# ---------------------------------------------------------------------------------------------------------------------
# Names and places.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai/clip-vit-base-patch16", False),
        ("webperson", False),
        ("hf://datasets/a/b/c.parquet", False),
        ("/models/clip", True),
        ("~/clip", True),
        ("./clip", True),
        ("../clip", True),
        ("C:\\models\\clip", True),
        ("runs/first/model", True),
        ("data/persons", True),  # exists
        ("saved", True),  # by `save_to_disk`
        ("runs", False),  # a folder, but neither a model nor a data set
    ],
)
def test_a_folder_is_told_from_a_name_on_the_hub(tmp_path, name, expected):
    (tmp_path / "data" / "persons").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").touch()
    assert is_local(name, tmp_path / "runs" / "second" / "model") is expected


@pytest.mark.parametrize(
    ("dataset", "arguments", "expected"),
    [
        ("webperson", {}, ("Kaichengalex/WebPerson-1M",)),
        ("webperson", {"name": "5m"}, ("Kaichengalex/WebPerson-5M",)),
        ("webperson", {"repo_id": "me/mirror"}, ("me/mirror",)),
        ("webperson", {"data_dir": "copy"}, ()),
        ("synthetic_persons", {}, ("synthetic_persons",)),
        ("me/persons", {}, ("me/persons",)),
        ("parquet", {"data_files": "x.parquet"}, ()),
        ("/data/persons", {}, ()),
    ],
)
def test_data_sets_are_told_by_names_that_others_can_use(tmp_path, dataset, arguments, expected):
    run_record(tmp_path, {}, dataset, arguments)
    assert read_training_history(tmp_path).datasets == expected


def test_a_published_record_tells_the_same_again(trained, tmp_path):
    out, _, _ = dry(trained, tmp_path)
    first, again = read_training_history(trained), read_training_history(out)
    assert again.record == first.record and again.base_model == CLIP and again.datasets == first.datasets
    assert [stage.dataset.text for stage in again.stages] == ["my_persons", "webperson"]
    _, card, _ = dry(out, tmp_path, "again")
    assert card.text.index("[Kaichengalex/WebPerson-1M]") < card.text.index("continuing the training before")


def test_records_that_lead_in_a_circle_end(tmp_path):
    run_record(tmp_path, {"from_pretrained": str(tmp_path)}, "webperson", {})
    assert len(read_training_history(tmp_path).stages) == 1


# ---------------------------------------------------------------------------------------------------------------------
# The command.
# ---------------------------------------------------------------------------------------------------------------------
def run(*arguments: object):
    app = typer.Typer()
    app.command("model")(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_lists_what_would_be_pushed(trained, tmp_path, measure):
    metrics, _ = measure(trained)
    result = run(trained, "me/demo", "--metrics", metrics, "--dry-run", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for name, content in contents(tmp_path / "out").items():
        assert any(line.startswith(f"{name} ") for line in result.stdout.splitlines()), (name, len(content))
    assert "Excluded: training_args.bin (a pickle" in result.stdout
    assert "Nothing was pushed" in result.stdout and f"{tmp_path / 'out'}/README.md" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "me/demo", "--dry-run", "out"], "there is no folder nowhere"),
        (["FOLDER", "demo", "--dry-run", "out"], "where to publish: 'demo' must be a name on the Hub, namespace/name"),
        (["FOLDER", "me/demo", "--dry-run", "out", "--metrics", "none.json"], "none.json"),
        (["FOLDER", "me/demo", "--dry-run", "out", "--cost", "none.yaml"], "none.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(model_folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(*(model_folder if argument == "FOLDER" else argument for argument in arguments))
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.exit_code == 2 and len(errors) == 1 and message in errors[0], result.output
    assert not Path("out").exists()


# ---------------------------------------------------------------------------------------------------------------------
# On a Hub.
# ---------------------------------------------------------------------------------------------------------------------
PUBLISH = "modeling_gadms.publishing.model.publish_model"


def run_card(content: str) -> list[list[float]]:
    """Run the code of a card's section `Use`. Returns the scores."""
    scope = {"person_images": [Image.new("RGB", (20, 50), color) for color in ("red", "blue")]}
    exec(content.partition("```python\n")[2].partition("```")[0], scope)  # noqa: S102, our own card
    return scope["scores"].tolist()


def scores_of(folder: Path) -> torch.Tensor:
    model, processor = load_model_and_processor(folder)
    pictures = [Image.new("RGB", (20, 50), color) for color in ("red", "blue")]
    inputs = processor(images=pictures, text=["a woman in a red coat carrying a black backpack"])
    with torch.inference_mode():
        return model(**inputs).logits_per_text


def held(hub: HubServer, repo_id: str, revision: str = "main") -> dict[str, bytes]:
    files = hub.files(repo_id, revision, repo_type="model")
    return {name: content for name, content in files.items() if name not in FIRST_FILES}


def test_what_is_pushed_is_the_dry_run_in_one_commit_and_loads(hub, client, trained, tmp_path, measure):
    metrics, record = measure(trained, name="me/persons")
    out = tmp_path / "out"
    options = {"metrics": [str(metrics)], "license": "mit"}
    publish_model(trained, "me/demo", dry_run=out, **options)
    report = client.ask(PUBLISH, trained, "me/demo", token=MINE, tag="v1", **options)
    assert held(hub, "me/demo") == contents(out)
    assert ".eval_results/me_persons.yaml" in held(hub, "me/demo")
    repository = hub.repositories["model", "me/demo"]
    assert len(repository.history("main")) == 2 and report["pushed"]["commit"] == repository.sha("main")
    assert held(hub, "me/demo", "v1") == contents(out) and report["pushed"]["tag"] == "v1"
    assert not repository.private

    assert client.ask("tests.modeling_gadms.publishing.hub_stories.load", "me/demo", "v1") == embeddings(
        *load_model_and_processor(trained)
    )
    data = yaml.safe_load(held(hub, "me/demo")["README.md"].decode().split("---\n")[1])
    values = {
        (result["task"]["type"].removesuffix("-retrieval").replace("-", "_"), metric["type"]): metric["value"]
        for result in data["model-index"][0]["results"]
        for metric in result["metrics"]
    }
    assert values == {
        (direction, metric): value
        for direction in ("text_to_image", "image_to_text")
        for metric, value in record[direction].items()
    }


def test_the_code_of_a_published_card_runs(hub, client, model_folder, adapter_folder):
    client.ask(PUBLISH, model_folder, "me/base", token=MINE)
    client.ask(PUBLISH, adapter_folder, "me/adapter", token=MINE, base_model="me/base")
    for repo_id, folder in (("me/base", model_folder), ("me/adapter", adapter_folder)):
        card = held(hub, repo_id)["README.md"].decode()
        scores = client.ask("tests.modeling_gadms.publishing.test_model.run_card", card)
        torch.testing.assert_close(torch.tensor(scores), scores_of(folder), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores_of(model_folder), scores_of(adapter_folder), atol=0.1)


def test_the_hub_looks_over_the_card_before_anything_is_sent(hub, client, model_folder):
    refusal = client.refusal(PUBLISH, model_folder, "me/odd", token=MINE, license="my own")
    assert "ValueError" in refusal.error and "must be one of the known identifiers, not 'my own'" in refusal.message
    assert hub.writes("me/odd") == [] and ("model", "me/odd") not in hub.repositories


def test_a_private_model_is_private(hub, client, model_folder):
    client.ask(PUBLISH, model_folder, "me/secret", token=MINE, private=True)
    assert hub.repositories["model", "me/secret"].private
    assert client.refusal("tests.modeling_gadms.publishing.hub_stories.load", "me/secret").error
    assert client.ask("tests.modeling_gadms.publishing.hub_stories.load", "me/secret", token=MINE)["image"]


def test_foreign_metrics_push_nothing(hub, client, model_folder, measure, tiny_model):
    metrics, _ = measure(model_folder)
    tiny_model(seed=1).save_pretrained(model_folder)
    refusal = client.refusal(PUBLISH, model_folder, "me/foreign", token=MINE, metrics=[str(metrics)])
    assert "ValueError" in refusal.error and "other weights" in refusal.message
    assert hub.writes("me/foreign") == [] and ("model", "me/foreign") not in hub.repositories


def test_without_a_token_nothing_is_read_even(client, model_folder):
    refusal = client.refusal(PUBLISH, model_folder, "me/tokenless")
    assert "ValueError" in refusal.error and "there is no token to push me/tokenless with" in refusal.message


def test_a_model_goes_to_a_branch(hub, client, model_folder):
    client.ask(PUBLISH, model_folder, "me/branches", token=MINE, revision="candidate")
    assert held(hub, "me/branches") == {} and "config.json" in held(hub, "me/branches", "candidate")
