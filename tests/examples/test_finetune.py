"""`examples/finetune.py` on a miniature benchmark with what is wrong with real copies; its test split measured."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from miniature_releases import cuhk_pedes, write
from safetensors.torch import load_file


EXAMPLES = Path(__file__).parents[2] / "examples"
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
data:
  dataset: cuhk_pedes
  dataset_args: {data_dir: RELEASE, check_counts: false, on_missing_images: skip, cache_dir: CACHE}
  caption_columns: [captions]
  person_id_column: person_id
  captions_per_image: all
  crop_padding: 3
training:
  output_dir: OUTPUT
  per_device_train_batch_size: 4
  num_train_epochs: 2
  learning_rate: 1e-3
  new_module_lr_multiplier: 5
  logging_steps: 1
  eval_strategy: epoch
  save_strategy: epoch
  load_best_model_at_end: true
  report_to: none
  disable_tqdm: true
  use_cpu: true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """CUHK-PEDES with a byte order mark, Windows separators, a duplicate and an image that is missing."""
    folder = tmp_path_factory.mktemp("finetune")
    entries = cuhk_pedes()
    entries.append(entries[1])
    for entry in entries[3:6]:
        entry["file_path"] = entry["file_path"].replace("/", "\\")
    write(folder / "CUHK-PEDES", "reid_raw.json", entries, missing=["cam_b/00002_1.png"], encoding="utf-8-sig")
    config = CONFIG.replace("RELEASE", str(folder)).replace("CACHE", str(folder / "cache"))
    (folder / "run.yaml").write_text(config.replace("OUTPUT", str(folder / "out")))
    return folder


@pytest.fixture
def finetune(folder, monkeypatch):
    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["finetune.py", "--config", str(folder / "run.yaml"), *arguments])
        runpy.run_path(str(EXAMPLES / "finetune.py"), run_name="__main__")

    return call


@pytest.mark.filterwarnings("ignore:.*entries repeat an earlier one:UserWarning")
@pytest.mark.filterwarnings("ignore:.*Their rows are skipped:UserWarning")
def test_a_benchmark_with_its_faults_is_tuned_on_and_measured(finetune, folder, monkeypatch, capsys):
    finetune()
    record = json.loads((folder / "out" / "model" / "run.json").read_text())
    assert record["config"]["model"]["num_identities"] == 3, "persons 1, 2 and 5"
    assert load_file(folder / "out" / "model" / "model.safetensors")["classifier.weight"].shape == (3, 16)
    history = json.loads((folder / "out" / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in history if "loss" in entry]
    # Five images are left: one with nine captions, four with two. In batches of four that is four steps an epoch.
    assert len(steps) == 2 * 4
    assert all({"alignment_loss", "mtp_loss", "identity_loss"} <= set(entry) for entry in steps)
    assert sum(entry["truncated_captions"] for entry in steps[:4]) == 0.25, (
        "the caption of 96 words is cut, and counted"
    )
    assert [entry["epoch"] for entry in history if "eval_r1" in entry] == [1, 2]

    arguments = ["--model", folder / "out" / "model", "--benchmarks", folder, "--output", folder / "m.json"]
    options = ["--dataset-args", "check_counts=false", "on_missing_images=skip"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments), *options])
    runpy.run_path(str(EXAMPLES / "evaluate.py"), run_name="__main__")
    (cell,) = json.loads((folder / "m.json").read_text())["cells"]
    assert cell["counts"] == {"images": 4, "captions": 8, "identities": 2, "truncated_captions": 0}
    assert cell["training"]["seed"] == record["seed"]
    assert cell["text_to_image"]["r10"] == 100.0, "four images"


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_tuning_goes_on_from_a_tuned_model(finetune, folder):
    if not (folder / "out" / "model").is_dir():
        finetune()
    text = (folder / "run.yaml").read_text()
    head, data, rest = text.partition("data:")
    (folder / "run.yaml").write_text(f"model: {{from_pretrained: {folder / 'out' / 'model'}}}\n{data}{rest}")
    finetune(f"training.output_dir={folder / 'again'}", "training.learning_rate=0", "training.weight_decay=0")
    (folder / "run.yaml").write_text(text)
    before, after = (load_file(folder / name / "model" / "model.safetensors") for name in ("out", "again"))
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before if not name.startswith("classifier"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.person_id_column=null", "fine-tuning needs to know the persons"),
        ("data.streaming=true", "leave data.streaming to examples/train.py"),
        ("data.validation_split=val", "cuhk_pedes has no split `val`; it has train, validation, test"),
        ("data.dataset_args.on_missing_images=error", "1 of 12 images"),
        ("data.dataset_args.data_dir=/nowhere", "/nowhere holds no CUHK-PEDES"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_mistake_ends_the_program_with_its_message(finetune, override, message):
    with pytest.raises(SystemExit) as caught:
        finetune(override)
    assert str(caught.value.code).startswith("finetune.py: ") and message in str(caught.value.code)


def test_every_shipped_configuration_is_read():
    from modeling_gadms.training.run_config import load_run_config

    for file in sorted((EXAMPLES / "configs").glob("*.yaml")):
        if not file.name.startswith("build_"):
            run = load_run_config(file, ["training.bf16=false"])
            assert file.stem.startswith("finetune") <= (run.data.person_id_column == "person_id"), file
