"""Training an adapter: what moves and what does not, checkpoints, two processes, and the programs."""

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modeling_gadms import GADMSForPreTraining, GADMSModel
from modeling_gadms.encoders.atomic_files import file_digest
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.training.adapters import AdapterArguments, add_adapter
from modeling_gadms.training.data import DatasetColumns, ImageCaptionPairs, PairCollator
from modeling_gadms.training.model_setup import build_model_and_processor
from modeling_gadms.training.run_config import ModelArguments
from modeling_gadms.training.trainer import GADMSTrainer, GADMSTrainingArguments
from tests.waiting import PATIENCE_SECONDS


pytestmark = pytest.mark.slow


METHODS = ("lora", "dora")
EXAMPLES = Path(__file__).parents[3] / "examples"


def make_pairs(num_rows: int = 12) -> ImageCaptionPairs:
    """Noise images of three persons, kept as pixels, with two captions each."""
    rows = {
        "image": list(range(num_rows)),
        "caption1": [f"person number {row} in red" for row in range(num_rows)],
        "caption2": [f"a long coat, {row * row} buttons and a hat" for row in range(num_rows)],
        "person_id": [row % 3 for row in range(num_rows)],
    }
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (num_rows, 3, 32, 16), dtype=torch.uint8, generator=generator)
    return ImageCaptionPairs(
        datasets.Dataset.from_dict(rows), DatasetColumns(person_id="person_id"), pixel_cache=pixels
    )


@pytest.fixture
def base_model(model_folder):
    """A function that loads the base for three persons; their classifier is drawn anew, always alike."""

    def load(**fields) -> GADMSForPreTraining:
        torch.manual_seed(3)
        start = ModelArguments(from_pretrained=str(model_folder), config={"num_identities": 3} | fields)
        return build_model_and_processor(start, [])[0]

    return load


@pytest.fixture
def adapt(base_model, model_folder):
    def make(**arguments):
        return add_adapter(base_model(), AdapterArguments(**({"rank": 4} | arguments)), str(model_folder))

    return make


@pytest.fixture
def make_trainer(tmp_path, processor):
    def make(model, **training) -> GADMSTrainer:
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 4,
            "max_steps": 3,
            "learning_rate": 1e-2,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        arguments = GADMSTrainingArguments(**(defaults | training))
        return GADMSTrainer(model, arguments, processing_class=processor, train_dataset=make_pairs())

    return make


@pytest.fixture
def inputs(processor) -> dict[str, torch.Tensor]:
    pairs = make_pairs()
    return PairCollator(processor)([pairs[row] for row in range(4)])


def loss_of(trainer: GADMSTrainer, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(5)  # of the masks
    return trainer.compute_loss(trainer.model.train(), inputs)


def gradients_of(trainer: GADMSTrainer, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with trainer.compute_loss_context_manager():
        loss_of(trainer, inputs).backward()
    return {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}


# ---------------------------------------------------------------------------------------------------------------------
# One process.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_the_loss_of_the_first_step_is_that_of_the_base(base_model, adapt, make_trainer, inputs, method):
    expected = loss_of(make_trainer(base_model()), inputs)
    torch.testing.assert_close(loss_of(make_trainer(adapt(method=method)), inputs), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_all_of_the_adapter_moves_and_nothing_of_the_base(adapt, model_folder, make_trainer, method):
    model = adapt(method=method)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    make_trainer(model).train()
    adapters, whole = set(), set()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (".lora_" in name or ".modules_to_save." in name), name
        if moved and ".lora_" in name:
            adapters.add(name.partition(".gadms.")[2].partition(".")[0])
        elif moved:
            whole.add(name.split(".")[2])
    assert adapters == {"text_model", "vision_model"} and whole == {"fusion", "token_head", "classifier"}
    # Taken off, the base is what it was on the disk, to the bit.
    state = model.unload().gadms.state_dict()
    for name, value in GADMSModel.from_pretrained(model_folder).state_dict().items():
        assert torch.equal(state[name], value), name


def test_the_temperature_stays_that_of_the_base(base_model, model_folder, make_trainer):
    model = add_adapter(base_model(learn_temperature=True), AdapterArguments(rank=2), str(model_folder))
    before = model.get_base_model().gadms.temperature.item()
    make_trainer(model).train()
    assert model.get_base_model().gadms.temperature.item() == before


@pytest.mark.parametrize("method", METHODS)
def test_learning_rates_and_decay_of_adapters_and_new_modules(adapt, make_trainer, method):
    trainer = make_trainer(adapt(method=method), new_module_lr_multiplier=5.0, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    settings = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert settings.keys() == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    for name, (rate, decay) in settings.items():
        assert rate == pytest.approx(1e-2 if ".lora_" in name else 5e-2), name
        is_matrix = (
            ".lora_A." in name or ".lora_B." in name or name.endswith("classifier.modules_to_save.default.weight")
        )
        if is_matrix:
            assert decay == 0.1, name
        elif "lora_magnitude_vector" in name or name.endswith("bias"):
            assert decay == 0.0, name
    assert any("lora_magnitude_vector" in name for name in settings) == (method == "dora")


@pytest.mark.parametrize("method", METHODS)
def test_gradient_checkpointing_gives_the_same_gradients(adapt, make_trainer, inputs, method):
    plain = gradients_of(make_trainer(adapt(method=method)), inputs)
    trainer = make_trainer(adapt(method=method), gradient_checkpointing=True)
    trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    encoder = trainer.model.get_base_model().gadms.vision_model.encoder
    assert encoder.layers[0].gradient_checkpointing
    for name, gradient in gradients_of(trainer, inputs).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_training_works_in_bfloat16_and_with_gradient_checkpointing(adapt, make_trainer, method):
    model = adapt(method=method, dropout=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    result = make_trainer(model, bf16=True, gradient_checkpointing=True).train()
    assert np.isfinite(result.training_loss)
    for name, value in before.items():
        parameter = model.get_parameter(name)
        assert parameter.dtype == torch.float32 and parameter.isfinite().all()
        assert not torch.equal(parameter, value), name


def test_a_step_in_bfloat16_is_nearly_one_in_float32(adapt, make_trainer, inputs):
    exact = gradients_of(make_trainer(adapt()), inputs)
    rounded = gradients_of(make_trainer(adapt(), bf16=True), inputs)
    flat = [torch.cat([g[name].flatten() for name in exact if "lora_B" in name]) for g in (exact, rounded)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.95


# ---------------------------------------------------------------------------------------------------------------------
# Two processes.
# ---------------------------------------------------------------------------------------------------------------------
TWO_PROCESSES = """
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, WORKER)
from distributed_worker import make_model, make_pairs, make_processor
from modeling_gadms.training.adapters import AdapterArguments, add_adapter
from modeling_gadms.training.trainer import GADMSTrainer, GADMSTrainingArguments

processor = make_processor()
model = make_model(processor)
# Tokens are not predicted in the first half: the fusion encoder has no gradient.
args = GADMSTrainingArguments(
    output_dir=OUTPUT, max_steps=4, masking_start=0.5, optim="sgd", learning_rate=1e-2, max_grad_norm=0.0,
    per_device_train_batch_size=8 // int(os.environ.get("WORLD_SIZE", 1)), save_strategy="no", report_to="none",
    disable_tqdm=True, use_cpu=True,
)
model = add_adapter(model, AdapterArguments(rank=2), "some/base")
for name, parameter in model.named_parameters():
    if ".lora_B." in name:
        torch.nn.init.normal_(parameter, std=0.1)
before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
trainer = GADMSTrainer(model, args, processing_class=processor, train_dataset=make_pairs(processor, 24))
trainer.train()
moves = {name: model.get_parameter(name).detach() - value for name, value in before.items()}
torch.save((args.world_size, moves), Path(OUTPUT, f"{args.world_size}-{args.process_index}.pt"))
"""


@pytest.mark.slow
def test_two_processes_train_the_adapter_that_one_trains(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(f"WORKER, OUTPUT = {str(Path(__file__).parent)!r}, {str(tmp_path)!r}\n{TWO_PROCESSES}")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in ([sys.executable, script], together)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, output[-4000:]
    (alone, expected), *both = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert alone == 1 and [world_size for world_size, _ in both] == [2, 2]
    for _, moves in both:
        for name, value in expected.items():
            # Images are in single precision.
            torch.testing.assert_close(moves[name], value, rtol=1e-4, atol=1e-7, msg=name)
    for part in (".text_model.", ".vision_model.", ".fusion.", ".token_head."):
        assert max(value.abs().max() for name, value in expected.items() if part in name) > 1e-5, part


# ---------------------------------------------------------------------------------------------------------------------
# The programs.
# ---------------------------------------------------------------------------------------------------------------------
RUN = """
model: {from_pretrained: BASE, identity_classifier: true, informative_mask_rate: 0.6, temperature: 0.1}
adapter: {rank: 4, dropout: 0.1, method: METHOD}
data: {dataset: DATASET, crop_padding: 3, person_id_column: person_id}
training:
  output_dir: OUTPUT
  per_device_train_batch_size: 4
  num_train_epochs: 3
  learning_rate: 1e-2
  logging_steps: 1
  eval_strategy: steps
  eval_steps: 2
  save_strategy: steps
  save_steps: 2
  load_best_model_at_end: true
  report_to: none
  disable_tqdm: true
  use_cpu: true
"""


def persons(num_rows: int, first: int) -> datasets.Dataset:
    pixels = np.random.default_rng(first).integers(0, 256, (num_rows, 32, 16, 3), dtype=np.uint8)
    rows = {
        "image": [Image.fromarray(values) for values in pixels],
        "caption1": [f"person number {row} in red" for row in range(num_rows)],
        "caption2": [f"a long coat, {row * row} buttons and a hat" for row in range(num_rows)],
        "person_id": [first + row // 2 for row in range(num_rows)],
    }
    return datasets.Dataset.from_dict(rows)


@pytest.fixture
def run_file(tmp_path, model_folder):
    """A function that writes a run; 22 rows make 5 batches of 4 an epoch."""
    (tmp_path / "persons").mkdir()
    for split, num_rows, first in (("train", 22, 0), ("validation", 12, 100), ("test", 6, 200)):
        persons(num_rows, first).to_parquet(tmp_path / "persons" / f"{split}.parquet")

    def write(method: str = "lora") -> Path:
        text = RUN.replace("BASE", str(model_folder)).replace("DATASET", str(tmp_path / "persons"))
        file = tmp_path / "run.yaml"
        file.write_text(text.replace("OUTPUT", str(tmp_path / "out")).replace("METHOD", method))
        return file

    return write


@pytest.fixture
def call(monkeypatch):
    def program(name: str, *arguments: str | Path) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return program


@pytest.mark.parametrize("method", METHODS)
def test_a_program_leaves_the_best_adapter_alone_which_is_measured_as_a_model_is(
    run_file, call, tmp_path, model_folder, capsys, caplog, method
):
    digest = file_digest(model_folder / "model.safetensors")
    caplog.set_level("INFO")
    call("train.py", "--config", run_file(method))
    assert file_digest(model_folder / "model.safetensors") == digest
    assert " parameters are trained (" in capsys.readouterr().out
    assert "MB, resident in the process" in caplog.text or torch.cuda.is_available()

    folder = tmp_path / "out" / "model"
    assert {"adapter_config.json", "adapter_model.safetensors", "run.json", "tokenizer.json"} <= set(
        os.listdir(folder)
    )
    assert not {"model.safetensors", "config.json", "README.md"} & set(os.listdir(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model_folder) and config["use_dora"] == (method == "dora")
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    best = load_file(Path(state["best_model_checkpoint"]) / "adapter_model.safetensors")
    final = load_file(folder / "adapter_model.safetensors")
    assert best.keys() == final.keys() and all(torch.equal(value, final[name]) for name, value in best.items())

    record = json.loads((folder / "run.json").read_text())
    assert record["config"]["adapter"]["rank"] == 4
    state_of_base = (model_folder / "model.safetensors").stat()
    assert record["base_model"] == {
        "name": str(model_folder),
        "revision": None,
        "weights_sha256": {"model.safetensors": digest},
        "file_stats": {"model.safetensors": [state_of_base.st_size, state_of_base.st_mtime_ns]},
    }
    assert 0 < record["footprint"]["trained_parameters"] < record["footprint"]["parameters"]
    assert record["footprint"]["peak_memory_bytes"] > 10e6

    metrics = tmp_path / "metrics.json"
    call(
        "evaluate.py",
        "--model",
        folder,
        "--dataset",
        tmp_path / "persons",
        "--split",
        "validation",
        "--output",
        metrics,
    )
    measured = json.loads(metrics.read_text())
    assert measured["model"]["base_model"] == record["base_model"]
    adapter_file = folder / "adapter_model.safetensors"
    assert measured["model"]["weights_sha256"] == {"adapter_model.safetensors": file_digest(adapter_file)}
    assert measured["training"]["config"]["adapter"] == record["config"]["adapter"]
    history = {entry["step"]: entry["eval_r1"] for entry in state["log_history"] if "eval_r1" in entry}
    best_step = int(state["best_model_checkpoint"].rpartition("-")[2])
    assert measured["text_to_image"]["r1"] == pytest.approx(history[best_step]), "as the wrapped model was measured"


def test_a_program_says_what_an_adapter_needs(run_file, call):
    with pytest.raises(SystemExit) as caught:
        call("train.py", "--config", run_file(), "model.from_pretrained=null")
    assert "set model.from_pretrained" in str(caught.value.code)


def test_a_program_says_that_the_library_is_missing(run_file, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SystemExit) as caught:
        call("train.py", "--config", run_file())
    assert "pip install 'gadms[lora]'" in str(caught.value.code)


KILLED = """
import os, runpy, signal, sys

import torch
from transformers import TrainerCallback
import modeling_gadms.training.trainer

class Killer(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:  # between two checkpoints, in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGKILL)

class MortalTrainer(modeling_gadms.training.trainer.GADMSTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(Killer())

modeling_gadms.training.trainer.GADMSTrainer = MortalTrainer
torch.set_num_threads(1)
runpy.run_path(SCRIPT, run_name="__main__")
"""


@pytest.mark.slow
def test_a_run_that_was_killed_ends_where_an_uninterrupted_one_does(run_file, call, tmp_path):
    config = run_file("dora")
    script = f"SCRIPT = {str(EXAMPLES / 'train.py')!r}\n{KILLED}"
    killed = f"training.output_dir={tmp_path / 'killed'}"
    command = [sys.executable, "-c", script, "--config", str(config), killed]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert finished.returncode == -signal.SIGKILL, finished.stderr[-4000:]
    assert not (tmp_path / "killed" / "model").exists()
    call("train.py", "--config", config, "--resume", killed)
    call("train.py", "--config", config)
    last = "checkpoint-14"
    for place in (last, "model"):
        whole, resumed = (
            load_file(tmp_path / name / place / "adapter_model.safetensors") for name in ("out", "killed")
        )
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    histories = [
        json.loads((tmp_path / name / last / "trainer_state.json").read_text())["log_history"]
        for name in ("out", "killed")
    ]
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in histories]
    assert len(losses[0]) == 14 and losses[0] == losses[1]


def test_a_trained_adapter_computes_what_the_wrapped_model_computed(adapt, make_trainer, processor, batch, tmp_path):
    trainer = make_trainer(adapt(method="dora"))
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    model, _ = load_model_and_processor(tmp_path / "adapter")
    with torch.no_grad():
        expected, found = trainer.model.eval()(**batch), model.cpu()(**batch)
    torch.testing.assert_close(found.image_embeds, expected.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.text_embeds, expected.text_embeds, rtol=0, atol=1e-5)
