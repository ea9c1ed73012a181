"""`examples/train.py` as users run it: plain, through `accelerate launch`, for fine-tuning, and with mistakes."""

import argparse
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from miniature_releases import cuhk_pedes, write
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from dataset_scripts.synthetic_persons import load_synthetic_persons
from modeling_gadms import GADMSModel, GADMSProcessor
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.training.run_config import load_run_config
from tests.dual_encoders import save_dual_encoder
from tests.waiting import PATIENCE_SECONDS


EXAMPLES = Path(__file__).parents[2] / "examples"
TRAIN = EXAMPLES / "train.py"
CONFIG = """
model:
  vocab_size: 600
  text_config: {hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 2}
  vision_config: {hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2,
                  image_size: [48, 16], patch_size: 8}
  projection_dim: 16
  score_layers: 2
  fusion_num_hidden_layers: 1
  fusion_num_attention_heads: 2
  fusion_intermediate_size: 16
  token_score: gass
data:
  dataset: DATASET
  person_id_column: person_id
  crop_padding: 3
training:
  output_dir: OUTPUT
  per_device_train_batch_size: 4
  max_steps: 4
  learning_rate: 1e-3
  new_module_lr_multiplier: 5
  logging_steps: 2
  eval_strategy: steps
  eval_steps: 2
  save_strategy: steps
  save_steps: 2
  load_best_model_at_end: true
  report_to: none
  disable_tqdm: true
  use_cpu: true
"""


launched = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set of drawn persons, and the YAML file of a run on it."""
    folder = tmp_path_factory.mktemp("train")
    sizes = {"num_train_persons": 8, "num_validation_persons": 3, "num_test_persons": 1, "train_images_per_person": 2}
    persons = load_synthetic_persons(**sizes, image_size=(48, 16), cache_dir=str(folder / "cache"))
    persons.save_to_disk(folder / "persons")
    config = CONFIG.replace("DATASET", str(folder / "persons")).replace("OUTPUT", str(folder / "out"))
    (folder / "run.yaml").write_text(config)
    return folder


def launch(command: list[str], folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*command, str(TRAIN), "--config", str(folder / "run.yaml"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
LAUNCHES = {
    "python": ([sys.executable], {}),
    "accelerate": ([*ACCELERATE, "--cpu", "--num_processes", "1"], {}),
    "two processes": ([*ACCELERATE, "--multi_gpu", "--num_processes", "2"], {"ACCELERATE_USE_CPU": "1"}),
}


@pytest.fixture(scope="module")
def runs(folder) -> dict[str, Path]:
    """Where each way of launching left its files."""
    outputs = {}
    for name, (command, environment) in LAUNCHES.items():
        outputs[name] = folder / f"out of {name}"
        result = launch(command, folder, f"training.output_dir={outputs[name]}", **environment)
        assert result.returncode == 0, f"{name}: {result.stderr[-4000:]}"
        assert result.stdout.count(" parameters") == 1, "once, however many processes"
    return outputs


def history(output: Path) -> list[dict]:
    return json.loads((output / "trainer_state.json").read_text())["log_history"]


# Launches


@launched
@pytest.mark.parametrize("name", LAUNCHES)
def test_a_run_leaves_a_model_that_loads_by_itself(runs, name):
    model = AutoModel.from_pretrained(runs[name] / "model")
    processor = AutoProcessor.from_pretrained(runs[name] / "model")
    assert isinstance(model, GADMSModel) and isinstance(processor, GADMSProcessor)
    assert processor.image_size == model.config.vision_config.image_size == (48, 16)
    inputs = processor(text=["a man in red"])
    assert model.get_text_features(**inputs).pooler_output.shape == (1, 16)


@launched
@pytest.mark.parametrize("name", LAUNCHES)
def test_a_run_logs_terms_and_validation(runs, name):
    entries = history(runs[name])
    training = [entry for entry in entries if "loss" in entry]
    evaluation = [entry for entry in entries if "eval_loss" in entry]
    assert [entry["step"] for entry in training] == [entry["step"] for entry in evaluation] == [2, 4]
    for entry in training:
        assert {
            "alignment_loss",
            "mtp_loss",
            "noise_mask_rate",
            "informative_mask_rate",
            "temperature",
        } <= entry.keys()
    for entry in evaluation:
        assert {"eval_r1", "eval_r5", "eval_r10", "eval_map", "eval_minp", "eval_image_to_text_r1"} <= entry.keys()


@launched
@pytest.mark.parametrize("name", LAUNCHES)
def test_a_run_ends_with_the_best_checkpoint_on_validation(runs, name):
    state = json.loads((runs[name] / "trainer_state.json").read_text())
    scores = {entry["step"]: entry["eval_r1"] for entry in state["log_history"] if "eval_r1" in entry}
    assert state["best_metric"] == max(scores.values())
    best = load_file(Path(state["best_model_checkpoint"]) / "model.safetensors")
    final = load_file(runs[name] / "model" / "model.safetensors")
    assert all(torch.equal(value, final[key]) for key, value in best.items())


@launched
def test_accelerate_with_one_process_trains_as_plain_python(runs):
    plain, accelerated = (load_file(runs[name] / "model" / "model.safetensors") for name in ("python", "accelerate"))
    assert all(torch.equal(value, accelerated[key]) for key, value in plain.items())


@launched
@pytest.mark.parametrize(("name", "processes"), [("python", 1), ("accelerate", 1), ("two processes", 2)])
def test_there_are_as_many_processes_as_were_asked_for(runs, name, processes):
    # Each process of several saves its own random numbers.
    states = sorted(path.name for path in (runs[name] / "checkpoint-4").glob("rng_state*"))
    assert states == (["rng_state.pth"] if processes == 1 else ["rng_state_0.pth", "rng_state_1.pth"])


@launched
def test_an_unknown_key_ends_the_program_with_one_line(folder):
    result = launch([sys.executable], folder, "model.token_scor=random")
    assert result.returncode not in (0, None)
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert lines == [
        f"train.py: unknown key `token_scor` in section `model` of {folder / 'run.yaml'}; did you mean `token_score`?"
    ]


# The same program without the launch


@pytest.fixture
def train(folder, monkeypatch, tmp_path):
    """A function that runs the program in this process; gives the folder that it wrote."""

    def run(*arguments: str, config: Path | None = None) -> Path:
        output = tmp_path / "out"
        overrides = [f"training.output_dir={output}", "training.load_best_model_at_end=false"]
        given = ["--config", str(config or folder / "run.yaml"), *overrides, *arguments]
        monkeypatch.setattr(sys, "argv", [str(TRAIN), *given])
        runpy.run_path(str(TRAIN), run_name="__main__")
        return output

    return run


SHORT = ("training.max_steps=2", "training.eval_strategy=no", "training.save_strategy=no", "training.logging_steps=1")


@pytest.mark.parametrize(
    ("score", "names"),
    [
        ("gass", {"mtp_loss", "noise_mask_rate", "informative_mask_rate"}),
        ("cosine", {"mtp_loss", "noise_mask_rate", "informative_mask_rate"}),
        ("random", {"mtp_loss", "noise_mask_rate", "informative_mask_rate"}),
        ("none", set()),
    ],
)
def test_one_key_changes_the_score(train, score, names):
    output = train(*SHORT, f"model.token_score={score}")
    entries = [entry for entry in history(output) if "loss" in entry]
    assert len(entries) == 2
    for entry in entries:
        assert {"mtp_loss", "noise_mask_rate", "informative_mask_rate"} & entry.keys() == names
    assert json.loads((output / "model" / "config.json").read_text())["token_score"] == score


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.alignment=itc", "model.learn_temperature=true", "training.masking_start=0.5"],
        ["model.masked_token_prediction=false", "training.gradient_accumulation_steps=2"],
        ["model.noise_masking=false", "data.cache_images=true", "data.captions_per_image=all"],
        ["model.num_identities=8", "data.augmentation=false", "data.caption_columns=[caption2]"],
        ["training.bf16=true", "data.person_id_column=null"],
    ],
    ids=" ".join,
)
def test_objectives_and_data_are_configuration(train, overrides):
    output = train(*SHORT, *overrides)
    assert all(entry["loss"] < 1e4 for entry in history(output) if "loss" in entry)
    assert (output / "model" / "model.safetensors").exists()


def test_the_synthetic_set_is_opened_by_name(train, folder):
    config = folder / "by_name.yaml"
    text = (folder / "run.yaml").read_text().replace(f"dataset: {folder / 'persons'}", "dataset: synthetic_persons")
    config.write_text(text)
    sizes = {"num_train_persons": 8, "num_validation_persons": 3, "num_test_persons": 1, "train_images_per_person": 2}
    arguments = [f"data.dataset_args.{name}={value}" for name, value in sizes.items()]
    size = "data.dataset_args.image_size=[48,16]"
    output = train(*SHORT, *arguments, size, f"data.dataset_args.cache_dir={folder / 'cache'}", config=config)
    assert (output / "model" / "config.json").exists()


def test_training_goes_on_from_a_saved_model(train, folder):
    first = train(*SHORT)
    config = folder / "go_on.yaml"
    sections = (folder / "run.yaml").read_text().partition("data:\n")
    config.write_text(f"model:\n  from_pretrained: {first / 'model'}\n{sections[1]}{sections[2]}")
    before = load_file(first / "model" / "model.safetensors")
    second = train(*SHORT, "training.learning_rate=0", "training.weight_decay=0", config=config)
    after = load_file(second / "model" / "model.safetensors")
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_stream_of_parquet_files_is_trained_on(train, folder, tmp_path):
    for name, rows in datasets.load_from_disk(folder / "persons").items():
        (tmp_path / "parquet").mkdir(exist_ok=True)
        rows.to_parquet(tmp_path / "parquet" / f"{name}.parquet", batch_size=5)
    arguments = (f"data.dataset={tmp_path / 'parquet'}", "data.streaming=true", "data.shuffle_buffer=8")
    output = train(*SHORT, *arguments, "training.eval_strategy=steps", "training.eval_steps=2")
    assert any("eval_r1" in entry for entry in history(output)), "validation rows are not streamed"
    record = json.loads((output / "model" / "run.json").read_text())
    assert record["seed"] == 42 and record["config"]["data"]["streaming"] is True
    assert record["config"]["model"]["token_score"] == "gass"
    with pytest.raises(SystemExit, match="data.cache_images keeps all images, data.streaming none"):
        train(*arguments, "data.cache_images=true")
    with pytest.raises(SystemExit, match="is not made of Parquet files"):
        train("data.streaming=true")


def test_resume_goes_on_from_the_last_checkpoint(train):
    output = train("training.max_steps=2", "training.lr_scheduler_type=constant", "training.eval_strategy=no")
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-2"]
    marker = output / "checkpoint-2"
    before = marker.stat().st_mtime_ns
    train("training.max_steps=4", "training.lr_scheduler_type=constant", "training.eval_strategy=no", "--resume")
    assert marker.stat().st_mtime_ns == before  # step 2 was not trained again
    assert [entry["step"] for entry in history(output) if "loss" in entry] == [2, 4]


def test_resume_without_a_checkpoint_starts_from_the_beginning(train):
    output = train(*SHORT, "--resume")
    assert [entry["step"] for entry in history(output) if "loss" in entry] == [1, 2]


# Fine-tuning


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory) -> Path:
    """CUHK-PEDES with a byte order mark, Windows separators, a duplicate and a missing image, and its run file."""
    folder = tmp_path_factory.mktemp("benchmark")
    entries = cuhk_pedes()
    entries.append(entries[1])
    for entry in entries[3:6]:
        entry["file_path"] = entry["file_path"].replace("/", "\\")
    write(folder / "CUHK-PEDES", "reid_raw.json", entries, missing=["cam_b/00002_1.png"], encoding="utf-8-sig")
    run = yaml.safe_load(CONFIG)
    run["model"]["identity_classifier"] = True
    faults = {"check_counts": False, "on_missing_images": "skip", "cache_dir": str(folder / "cache")}
    run["data"] |= {"dataset": "cuhk_pedes", "dataset_args": {"data_dir": str(folder)} | faults}
    run["data"] |= {"caption_columns": ["captions"], "captions_per_image": "all"}
    run["training"] |= {"max_steps": -1, "num_train_epochs": 2, "logging_steps": 1}
    run["training"] |= {"eval_strategy": "epoch", "save_strategy": "epoch"}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder


@pytest.mark.filterwarnings("ignore:.*entries repeat an earlier one:UserWarning")
@pytest.mark.filterwarnings("ignore:.*Their rows are left out:UserWarning")
def test_a_benchmark_with_its_faults_is_tuned_on_and_measured(train, benchmark, run_program):
    output = train("training.load_best_model_at_end=true", config=benchmark / "run.yaml")
    record = json.loads((output / "model" / "run.json").read_text())
    assert record["config"]["model"]["num_identities"] == 3, "persons 1, 2 and 5"
    assert load_file(output / "model" / "model.safetensors")["classifier.weight"].shape == (3, 16)
    steps = [entry for entry in history(output) if "loss" in entry]
    # Five images are left: one with nine captions, four with two. In batches of four that is four steps an epoch.
    assert len(steps) == 2 * 4
    assert all({"alignment_loss", "mtp_loss", "identity_loss"} <= set(entry) for entry in steps)
    assert sum(entry["truncated_captions"] for entry in steps[:4]) == 0.25, "the caption of 96 words"
    assert [entry["epoch"] for entry in history(output) if "eval_r1" in entry] == [1, 2]

    arguments = ("--model", output / "model", "--benchmarks", benchmark, "--output", output / "m.json")
    options = ("--dataset-args", "check_counts=false", "on_missing_images=skip")
    assert run_program(EXAMPLES / "evaluate.py", *arguments, *options)[0] == 0
    (cell,) = json.loads((output / "m.json").read_text())["cells"]
    assert cell["counts"] == {"images": 4, "captions": 8, "identities": 2, "truncated_captions": 0}
    assert cell["training"]["seed"] == record["seed"]
    assert cell["text_to_image"]["r10"] == 100.0, "four images"


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_tuning_starts_from_a_tuned_model(train, benchmark, tmp_path):
    model = train("training.num_train_epochs=1", config=benchmark / "run.yaml") / "model"
    run = yaml.safe_load((benchmark / "run.yaml").read_text())
    run["model"] = {"from_pretrained": str(model), "identity_classifier": True}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(run))
    overrides = ("training.learning_rate=0", "training.weight_decay=0", "training.num_train_epochs=1")
    before = load_file(model / "model.safetensors")
    train(f"training.output_dir={tmp_path / 'again'}", *overrides, config=tmp_path / "again.yaml")
    after = load_file(tmp_path / "again" / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before if not name.startswith("classifier"))


def test_a_person_column_alone_adds_no_identity_loss(train):
    output = train(*SHORT)
    assert all("identity_loss" not in entry for entry in history(output))
    assert json.loads((output / "model" / "config.json").read_text())["num_identities"] == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.person_id_column=null", "model.identity_classifier needs to know the persons"),
        ("data.streaming=true", "model.identity_classifier needs all persons before training"),
        ("data.validation_split=val", "cuhk_pedes has no split `val`; it has train, validation, test"),
        ("data.dataset_args.on_missing_images=error", "1 of 12 images"),
        ("data.dataset_args.data_dir=/nowhere", "/nowhere holds no CUHK-PEDES"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_mistake_in_fine_tuning_ends_the_program_with_its_message(train, benchmark, override, message):
    with pytest.raises(SystemExit) as caught:
        train(override, config=benchmark / "run.yaml")
    assert str(caught.value.code).startswith("train.py: ") and message in str(caught.value.code)


def test_every_shipped_configuration_is_read():
    for file in sorted((EXAMPLES / "configs").glob("*.yaml")):
        if not file.name.startswith("build_"):
            run = load_run_config(file, ["training.bf16=false"])
            is_finetuning = "finetune" in file.stem
            assert is_finetuning <= (run.data.person_id_column == "person_id"), file
            assert run.model.identity_classifier == is_finetuning and "num_identities" not in run.model.config, file


# Mistakes


MISTAKES = {
    "training.learning_rat=1": "unknown key `learning_rat` in section `training`",
    "model.text_config.hiden_size=8": "unknown key `hiden_size` in GADMSConfig.text_config; did you mean",
    "model.token_score=gas": "token_score = 'gas' must be one of gass, cosine, random, none",
    "model.temperature=hot": "temperature",
    "data.crop_padding=-1": "crop_padding = -1 must not be negative",
    "training.learning_rate=fast": "`learning_rate` in section `training`",
    "model.from_pretrained=/nowhere": "/nowhere",
    "model.from_clip=/nowhere": "from_dual_encoder takes `text_config` from the checkpoint",
    "model.image_size=[384, 128]": "model.image_size goes with model.from_dual_encoder",
    "data.dataset=/nowhere": "/nowhere",
    "data.dataset_args.seed=1": "takes no arguments",
    "data.train_split=trian": "has no split `trian`; it has train, validation, test",
    "data.validation_split=val": "has no split `val`",
    "data.caption_columns=[caption]": "no column `caption`; it has image, image_path, caption1",
    "data.caption_columns=caption1": "`caption_columns` in section `data`",
    "data.image_column=photo": "no column `photo`",
    "data.person_id_column=image_path": "column `image_path` holds string, not whole numbers",
    "data.captions_per_image=two": "captions_per_image = 'two' must be 'one' or 'all'",
    "data.short_queries=-1": "short_queries = -1 is a number of queries: it must not be negative",
    "training.per_device_train_batch_size=64": "16 training pairs do not fill one batch of 64",
    "training.masking_start=7": "masking_start = 7 must be a fraction of training",
    "training.output_dir": "must have the form section.key=value",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_ends_the_program_with_its_message(train, override):
    with pytest.raises(SystemExit) as exit_info:
        train(override)
    message = str(exit_info.value.code)
    assert message.startswith("train.py: ") and MISTAKES[override] in message


def test_a_configuration_that_is_not_there_is_named(train, tmp_path):
    with pytest.raises(SystemExit, match="no_such.yaml"):
        train(config=tmp_path / "no_such.yaml")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("caption1", "  ", "row 1: `caption1` is an empty caption"),
        ("person_id", None, "row 1: `person_id` is missing"),
        ("image", {"bytes": b"\xff\xd8\xff cut off", "path": None}, "row 1: the image in `image` cannot be read"),
    ],
)
def test_a_bad_row_ends_the_program_with_its_number_or_is_skipped(train, folder, tmp_path, column, value, message):
    rows = datasets.load_from_disk(folder / "persons")["train"].cast_column("image", datasets.Image(decode=False))
    values = rows[column][:]
    values[1] = value
    bad = rows.remove_columns(column).add_column(column, values, feature=rows.features[column])
    bad.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "bad")
    with pytest.raises(SystemExit) as exit_info:
        train(f"data.dataset={tmp_path / 'bad'}", "training.eval_strategy=no")
    assert str(exit_info.value.code).count("row 1") == 1 and message in str(exit_info.value.code)
    output = train(f"data.dataset={tmp_path / 'bad'}", *SHORT, "data.bad_rows=skip")
    (skipped,) = json.loads((output / "model" / "run.json").read_text())["skipped_rows"]["train"]
    assert f"row {skipped['row']}: {skipped['reason']}".startswith(message)


def test_a_loss_that_is_not_finite_ends_the_program_without_a_model(train, tmp_path):
    """Also without evaluation: the loss that transformers logs by default is then 0."""
    with pytest.raises(SystemExit, match="train.py: the loss is NaN or infinite in step .* training.learning_rate"):
        train("training.learning_rate=1e30", "training.eval_strategy=no", "training.save_strategy=no")
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_odd_captions_are_trained_on(train, folder, tmp_path):
    rows = datasets.load_from_disk(folder / "persons")["train"].select(range(4))
    odd = [
        "word " * 500,
        "\N{FIRE}\N{WOMAN}",
        "\u4e00\u4e2a\u7537\u4eba\u7a7f\u7740\u7ea2\u8272\u7684\u5916\u5957",
        "<|endoftext|> a man",
    ]
    rows.remove_columns("caption1").add_column("caption1", odd).save_to_disk(tmp_path / "odd")
    output = train(*SHORT, f"data.dataset={tmp_path / 'odd'}", "data.caption_columns=[caption1]")
    entries = [entry for entry in history(output) if "loss" in entry]
    assert all(entry["loss"] < 1e4 and entry["truncated_captions"] == 0.25 for entry in entries)


def test_help_shows_a_line_that_works(train, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(TRAIN), "--help"])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(TRAIN), run_name="__main__")
    assert exit_info.value.code == 0
    assert "accelerate launch examples/train.py --config examples/configs/demo.yaml" in capsys.readouterr().out
    assert (TRAIN.parent / "configs" / "demo.yaml").exists()


# Other backbones


@pytest.mark.parametrize("family", ["CLIP", "MetaCLIP 2", "SigLIP", "SigLIP 2", "SigLIP 2 NaFlex"])
def test_a_training_starts_from_a_checkpoint_of_each_family(folder, tmp_path, family):
    """In this process: two steps with masks and token prediction, evaluated, saved, and then continued."""
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    settings["model"] = {
        "from_dual_encoder": str(save_dual_encoder(family, tmp_path / "checkpoint")),
        "image_size": [48, 16],
        "score_layers": 1,
        "fusion_num_hidden_layers": 1,
        "fusion_num_attention_heads": 2,
        "fusion_intermediate_size": 16,
    }
    settings["training"] |= {"output_dir": str(tmp_path / "out"), "max_steps": 2, "logging_steps": 1}
    train = runpy.run_path(str(TRAIN))["main"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    train(argparse.Namespace(config=str(tmp_path / "run.yaml"), resume=False, overrides=[]))
    logged = [entry for entry in history(tmp_path / "out") if "mtp_loss" in entry]
    assert len(logged) == 2 and all(entry["loss"] > entry["mtp_loss"] * 0.4 > 0 for entry in logged)
    trained, processor = load_model_and_processor(tmp_path / "out" / "model")
    image_size = (48, 16)
    before = GADMSModel.from_dual_encoder(tmp_path / "checkpoint", image_size=image_size, score_layers=1)
    still = [name for name, weight in trained.state_dict().items() if torch.equal(weight, before.state_dict()[name])]
    # The bias of keys cancels in a softmax, and the temperature is fixed.
    assert not [name for name in still if "logit_scale" not in name and "k_proj.bias" not in name]
    again = settings | {"model": {"from_pretrained": str(tmp_path / "out" / "model")}}
    again["training"] |= {"output_dir": str(tmp_path / "more"), "max_steps": 1, "eval_strategy": "no",
                          "save_strategy": "no", "load_best_model_at_end": False}  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(again))
    train(argparse.Namespace(config=str(tmp_path / "run.yaml"), resume=False, overrides=[]))
    _, its_processor = load_model_and_processor(tmp_path / "more" / "model")
    assert its_processor.clean_text == processor.clean_text
    assert its_processor.image_processor.image_mean == processor.image_processor.image_mean
