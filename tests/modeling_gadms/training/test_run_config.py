"""A run in one YAML file: every key has a meaning, and a typo is told before anything starts."""

from pathlib import Path

import pytest

from modeling_gadms.training.run_config import load_run_config
from modeling_gadms.training.trainer import GADMSTrainingArguments


@pytest.fixture
def write(tmp_path):
    """A function that writes a file and gives its path."""

    def write_text(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


@pytest.fixture
def run_file(write, tmp_path) -> Path:
    return write(f"""
model:
  token_score: cosine
  vocab_size: 700
  text_config: {{hidden_size: 32, num_hidden_layers: 2}}
data:
  dataset: synthetic_persons
  dataset_args: {{seed: 1, image_size: [48, 16]}}
  caption_columns: [caption1]
training:
  output_dir: {tmp_path}/out
  learning_rate: 1e-4
  masking_start: 0.25
  use_cpu: true
""")


def test_a_file_becomes_three_sections(run_file):
    run = load_run_config(run_file)
    assert run.model.vocab_size == 700
    # What is no key of ours is a field of the model's configuration.
    assert run.model.config == {"token_score": "cosine", "text_config": {"hidden_size": 32, "num_hidden_layers": 2}}
    assert run.data.dataset_args == {"seed": 1, "image_size": [48, 16]}
    assert run.data.columns.captions == ("caption1",)
    assert run.data.columns.person_id is None
    assert run.training.learning_rate == 1e-4
    assert run.training.masking_start == 0.25


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("2.5e-3", 2.5e-3), ("3e2", 300.0), ("0.001", 0.001), ("1", 1), ("+1e+1", 10.0)],
)
def test_numbers_read_as_people_write_them(write, run_file, text, value):
    assert load_run_config(run_file, [f"training.learning_rate={text}"]).training.learning_rate == value
    from_file = write(f"data: {{dataset: synthetic_persons}}\ntraining:\n  learning_rate: {text}\n")
    assert load_run_config(from_file).training.learning_rate == value


@pytest.mark.parametrize("name", ["1e", "e4", "run1e-4x", "1e-4-b"])
def test_names_that_look_like_numbers_stay_names(run_file, name):
    assert load_run_config(run_file, [f"training.run_name={name}"]).training.run_name == name


@pytest.mark.parametrize("text", ["no", "off", "yes", "on"])
def test_words_that_yaml_once_took_for_booleans_stay_words(run_file, text):
    assert load_run_config(run_file, [f"training.run_name={text}"]).training.run_name == text


def test_overrides_replace_values_nested_keys_and_lists(run_file):
    run = load_run_config(
        run_file,
        [
            "model.token_score=random",
            "model.text_config.num_hidden_layers=3",
            "model.vision_config.image_size=[48, 16]",
            "data.dataset_args.seed=7",
            "data.caption_columns=[caption1, caption2]",
            "data.validation_split=null",
            "data.augmentation=false",
            "training.max_steps=5",
            "training.run_name=a=b",
        ],
    )
    assert run.model.config["token_score"] == "random"
    assert run.model.config["text_config"] == {"hidden_size": 32, "num_hidden_layers": 3}
    assert run.model.config["vision_config"] == {"image_size": [48, 16]}
    assert run.data.dataset_args == {"seed": 7, "image_size": [48, 16]}
    assert run.data.columns.captions == ("caption1", "caption2")
    assert run.data.validation_split is None and run.data.augmentation is False
    assert run.training.max_steps == 5 and run.training.run_name == "a=b"


def test_the_last_of_two_overrides_counts(run_file):
    overrides = ["training.max_steps=5", "training.max_steps=6"]
    assert load_run_config(run_file, overrides).training.max_steps == 6


def test_an_override_fills_a_section_that_is_missing_or_empty(write, tmp_path):
    path = write("model:\ndata: {dataset: synthetic_persons}\n")
    run = load_run_config(path, ["model.token_score=none", f"training.output_dir={tmp_path}"])
    assert run.model.config == {"token_score": "none"}
    assert run.training.output_dir == str(tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle.token_score=gass", "unknown key `modle` in .*run.yaml; did you mean `model`?"),
        ("model.token_scor=gass", "unknown key `token_scor` in section `model`.*; did you mean `token_score`?"),
        ("data.datset=x", "unknown key `datset` in section `data`.*; did you mean `dataset`?"),
        ("training.learning_rat=1", "unknown key `learning_rat` in section `training`.*did you mean `learning_rate`?"),
        ("training.masking_strat=1", "unknown key `masking_strat` .*; did you mean `masking_start`?"),
        ("data.zzz=1", "unknown key `zzz` .*; known keys: .*caption_columns"),
        ("model.config={}", "unknown key `config` in section `model`"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(run_file, override, message):
    with pytest.raises(ValueError, match=message):
        load_run_config(run_file, [override])


def test_an_unknown_key_in_the_file_is_refused(write):
    path = write("data: {dataset: synthetic_persons}\ntraining: {warmup_step: 3}\n")
    with pytest.raises(ValueError, match="unknown key `warmup_step` in section `training` .*`warmup_steps`"):
        load_run_config(path)


@pytest.mark.parametrize("override", ["model.token_score", "token_score=gass", "=1", "model.=1", ".x=1", "model..x=1"])
def test_a_malformed_override_is_refused(run_file, override):
    with pytest.raises(ValueError, match="must have the form section.key=value, such as training.learning_rate=1e-4"):
        load_run_config(run_file, [override])


def test_an_override_below_a_value_is_refused(run_file):
    with pytest.raises(ValueError, match="`dataset` is 'synthetic_persons', which has no keys"):
        load_run_config(run_file, ["data.dataset.seed=1"])


@pytest.mark.parametrize("text", ["model: {}\n", "data: {}\n", "data: {train_split: train}\n"])
def test_a_run_without_a_data_set_is_refused(write, text):
    with pytest.raises(ValueError, match="section `data` of .* names no `dataset`"):
        load_run_config(write(text))


@pytest.mark.parametrize("text", ["", "just words\n", "[1, 2]\n"])
def test_a_file_of_something_else_is_refused(write, text):
    with pytest.raises(ValueError, match="run.yaml must contain the sections model, data and training"):
        load_run_config(write(text))


@pytest.mark.parametrize(("section", "value"), [("model", "3"), ("data", "words"), ("training", "[1, 2]")])
def test_a_section_of_something_else_is_refused(write, section, value):
    with pytest.raises(ValueError, match=f"section `{section}` of .* must contain keys and values; it contains"):
        load_run_config(write(f"{section}: {value}\n"))


def test_text_that_is_no_yaml_is_refused(write):
    with pytest.raises(ValueError, match="run.yaml is not valid YAML: .*line 2"):
        load_run_config(write("model: {token_score: gass\n"))


def test_a_value_that_is_no_yaml_is_refused(run_file):
    with pytest.raises(ValueError, match="override `data.caption_columns=\\[caption1` is not valid YAML"):
        load_run_config(run_file, ["data.caption_columns=[caption1"])


def test_caption_columns_must_be_a_list(run_file):
    with pytest.raises(ValueError, match="`caption_columns` .* is 'caption1'; it must be list of str"):
        load_run_config(run_file, ["data.caption_columns=caption1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.masking_start=1.5", "masking_start = 1.5 must be a fraction of training between 0 and 1"),
        ("training.contrastive_start=-0.1", "contrastive_start = -0.1 must be a fraction"),
        ("training.new_module_lr_multiplier=0", "new_module_lr_multiplier = 0 must be positive"),
        ("training.remove_unused_columns=true", "remove_unused_columns = True would hide captions and identities"),
    ],
)
def test_training_values_out_of_range_are_refused(run_file, override, message):
    with pytest.raises(ValueError, match=message):
        load_run_config(run_file, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rate=fast", "`learning_rate` in section `training` of .* is 'fast'; it must be float"),
        ("training.max_steps=ten", "`max_steps` .* is 'ten'; it must be int"),
        ("training.per_device_train_batch_size=2.5", "`per_device_train_batch_size` .* is 2.5; it must be int"),
        ("training.seed=true", "`seed` .* is True; it must be int"),
        ("training.bf16=maybe", "`bf16` .* is 'maybe'; it must be bool"),
        ("training.logging_steps=[1]", "`logging_steps` .* is .1.; it must be float"),
        ("training.masking_start=half", "`masking_start` .* is 'half'; it must be float"),
        ("data.augmentation=maybe", "`augmentation` in section `data` .* is 'maybe'; it must be bool"),
        ("data.crop_padding=wide", "`crop_padding` .* is 'wide'; it must be int"),
        ("data.dataset_args=3", "`dataset_args` .* is 3; it must be dict"),
        ("data.dataset=5", "`dataset` .* is 5; it must be str"),
        ("data.caption_columns=5", "`caption_columns` .* is 5; it must be list of str"),
        ("data.caption_columns=[caption1, 2]", "`caption_columns` .* is .*; it must be list of str"),
        ("model.image_size=[384]", "`image_size` .* is .*; it must be list of 2 values .int, int. | None"),
        ("training.eval_strategy=daily", "`eval_strategy` .* is 'daily'; it must be no | steps | epoch"),
        ("training.optim=Adam", "`optim` in section `training` .* is 'Adam'; it must be adamw_torch"),
        ("training.logging_steps=.inf", "section `training` of .*run.yaml: cannot convert float infinity"),
        ("training.push_to_hub=true", "section `training` of .*run.yaml: push_to_hub = True would upload"),
        ("model.vocab_size=big", "`vocab_size` in section `model` .* is 'big'; it must be int"),
        ("model.text_config=3", "`text_config` .* is 3; it must be dict | .*None"),
        ("model.temperature=hot", "`temperature` .* is 'hot'; it must be float | int"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(run_file, override, message):
    with pytest.raises(ValueError, match=message):
        load_run_config(run_file, [override])


@pytest.mark.parametrize(
    "override",
    [
        "training.learning_rate=1",  # a whole number where a float is asked for
        "training.eval_strategy=epoch",  # an enumeration
        "training.report_to=[none]",
        "training.save_steps=0.5",
        "training.lr_scheduler_kwargs={num_cycles: 0.5}",
        "training.gradient_checkpointing_kwargs=null",
        "training.accelerator_config={even_batches: true}",
        "model.image_size=[384, 128]",
        "model.image_size=null",
        "model.score_scales=[1, 2, 3]",
        "data.validation_split=null",
    ],
)
def test_a_value_of_one_of_several_types_is_taken(run_file, override):
    load_run_config(run_file, [override])


def test_a_global_batch_is_shared_by_the_processes_or_refused(run_file, monkeypatch):
    def batch(*overrides: str) -> int:
        return load_run_config(run_file, overrides).training.per_device_train_batch_size

    assert batch() == 8 and batch("training.per_device_train_batch_size=6") == 6
    whole = "training.global_train_batch_size=12"
    assert batch(whole) == batch(whole, "training.per_device_train_batch_size=12") == 12
    monkeypatch.setattr(GADMSTrainingArguments, "world_size", 3)
    assert batch(whole) == batch(whole, "training.per_device_train_batch_size=4") == 4
    assert batch("training.per_device_train_batch_size=6") == 6
    with pytest.raises(
        ValueError, match="per_device_train_batch_size = 8 on 3 processes is not global.* = 12: set one"
    ):
        batch(whole, "training.per_device_train_batch_size=8")
    for number in (13, 2, 0, -3):
        with pytest.raises(ValueError, match=f"global_train_batch_size = {number} does not divide among 3 processes"):
            batch(f"training.global_train_batch_size={number}")


def test_the_example_configurations_load():
    configs = (Path(__file__).parents[3] / "examples" / "configs").glob("*.yaml")
    paths = sorted(path for path in configs if not path.name.startswith("build_"))  # runs of another kind
    assert paths
    for path in paths:
        assert load_run_config(path, ["training.use_cpu=true"]).data.dataset
