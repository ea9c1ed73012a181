"""An adapter's folder is data: it is read, or refused with what is wrong, and never run."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_gadms.encoders import adapter_folders
from modeling_gadms.encoders.adapter_folders import find_adapter
from modeling_gadms.encoders.atomic_files import file_digest
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.training.adapters import AdapterArguments, add_adapter, record_base
from modeling_gadms.training.model_setup import build_model_and_processor
from modeling_gadms.training.run_config import ModelArguments
from tests.waiting import PATIENCE_SECONDS


QUERY = "base_model.model.gadms.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(tmp_path, model_folder, processor) -> Path:
    """An adapter of rank 2, with the record of its training."""
    model, _ = build_model_and_processor(ModelArguments(from_pretrained=str(model_folder)), [])
    wrapped = add_adapter(model, AdapterArguments(rank=2), str(model_folder))
    folder = tmp_path / "adapter"
    wrapped.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "run.json").write_text(json.dumps({"base_model": record_base(wrapped)}))
    return folder


def change_config(folder: Path, **values) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_weights(folder: Path, **values: torch.Tensor | None) -> None:
    file = folder / "adapter_model.safetensors"
    weights = {**load_file(file), **values}
    save_file({name: value for name, value in weights.items() if value is not None}, file)


def test_an_adapter_is_found_with_its_base(folder, model_folder):
    adapter = find_adapter(folder)
    assert adapter.base.name == str(model_folder) and adapter.base.revision is None
    assert adapter.base.weights_sha256 == {"model.safetensors": file_digest(model_folder / "model.safetensors")}
    assert len(adapter.layers) == 6 * (3 + 2) and adapter.whole_modules == ["fusion", "token_head"]


@pytest.mark.parametrize("name", ["", "nobody/nothing", "/nowhere/at/all", "no such: name"])
def test_what_is_no_adapter_is_left_to_those_who_load_models(name, model_folder):
    assert find_adapter(name or model_folder) is None


def test_a_base_that_is_gone_is_named_with_what_to_do(folder, model_folder, tmp_path):
    model_folder.rename(tmp_path / "elsewhere")
    with pytest.raises(
        OSError, match=f"base of the adapter {folder} is missing: .*{model_folder}.*Put it back"
    ) as info:
        load_model_and_processor(folder)
    assert "adapter_config.json as base_model_name_or_path" in str(info.value)
    change_config(folder, base_model_name_or_path=str(tmp_path / "elsewhere"))
    load_model_and_processor(folder)


def test_a_base_that_has_changed_is_refused(folder, model_folder, tiny_model):
    tiny_model(seed=1).save_pretrained(model_folder)
    with pytest.raises(ValueError, match=f"{model_folder} has other weights than when the adapter {folder}"):
        load_model_and_processor(folder)


def test_only_a_base_that_may_have_changed_is_hashed_again(folder, model_folder, tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(adapter_folders, "file_digest", lambda file: hashed.append(file.name) or file_digest(file))
    load_model_and_processor(folder)
    assert not hashed, "the same size and time of modification"
    shutil.copytree(model_folder, tmp_path / "copy", copy_function=shutil.copyfile)
    change_config(folder, base_model_name_or_path=str(tmp_path / "copy"))
    load_model_and_processor(folder)
    assert hashed == ["model.safetensors"], "a copy has another time"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"hidden_size": 16},
            r"lora_A.weight has shape \(2, 32\), not \(2, 16\); the adapter was trained on another model",
        ),
        ({"num_hidden_layers": 2}, r"does not fit .*text_model.encoder.layers.2.* belongs to no adapted layer"),
    ],
)
def test_a_base_of_other_sizes_is_refused(folder, model_folder, tiny_model, sizes, message):
    tiny_model(text_config=sizes).save_pretrained(model_folder)
    (folder / "run.json").unlink()
    with pytest.raises(ValueError, match=message):
        load_model_and_processor(folder)


class Payload:
    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("beside_safetensors", [False, True])
def test_a_pickled_adapter_is_never_opened(folder, tmp_path, beside_safetensors):
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "side-effect")))
    if beside_safetensors:
        load_model_and_processor(folder)
    else:
        (folder / "adapter_model.safetensors").unlink()
        with pytest.raises(ValueError, match="holds its weights as a pickle .*can run code"):
            load_model_and_processor(folder)
    assert not (tmp_path / "side-effect").exists()
    pickle.loads((folder / "adapter_model.bin").read_bytes())
    assert (tmp_path / "side-effect").exists(), "the payload would have worked"


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_half_an_adapter_is_told(folder, file):
    (folder / file).unlink()
    with pytest.raises(OSError, match=f"is no whole adapter: it has no {file}"):
        load_model_and_processor(folder)


@pytest.mark.parametrize("size", [0, 7, 100, -8])
def test_damaged_weights_are_told(folder, size):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        load_model_and_processor(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"peft_type": "NONE"}', '{"r": 4}'])
def test_a_configuration_that_is_none_is_told(folder, text):
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=str(folder / "adapter_config.json")):
        load_model_and_processor(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "IA3"}, "an adapter of type .*IA3; only LORA"),
        ({"bias": "all"}, "`bias` = 'all' is not supported"),
        ({"init_lora_weights": "pissa"}, "`init_lora_weights` = 'pissa' is not supported"),
        ({"rank_pattern": {"q_proj": 1}}, "`rank_pattern` = .* is not supported"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"r": 10**9}, r"fc1.lora_A.weight has shape \(2, 32\), not \(1000000000, 32\)"),
        ({"r": 0}, "adapter_config.json does not fit the base .*positive integer"),
        ({"use_dora": True}, "lora_magnitude_vector is missing"),
        ({"target_modules": ["q_proj", "fc1"]}, "fc2.lora_A.weight belongs to no adapted layer"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_configuration_that_says_something_else_than_the_weights_is_refused(folder, values, message):
    change_config(folder, **values)
    with pytest.raises(ValueError, match=message):
        load_model_and_processor(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    change_weights(folder, **{f"{QUERY}.lora_B.weight": torch.full((32, 2), value)})
    with pytest.raises(ValueError, match="is damaged: .*q_proj.lora_B.weight has values that are not finite"):
        load_model_and_processor(folder)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({f"{QUERY}.lora_B.weight": None}, "q_proj.lora_B.weight is missing"),
        ({f"{QUERY}.lora_A.weight": None, f"{QUERY}.lora_B.weight": None}, "q_proj.lora_A.weight is missing"),
        ({f"{QUERY}.lora_C.weight": torch.zeros(2)}, "q_proj.lora_C.weight belongs to no adapted layer"),
    ],
)
def test_layers_that_lack_something_or_have_too_much_are_refused(folder, weights, message):
    change_weights(folder, **weights)
    with pytest.raises(ValueError, match=message):
        load_model_and_processor(folder)


def test_lengths_of_another_model_are_refused(folder, model_folder):
    model, _ = build_model_and_processor(ModelArguments(from_pretrained=str(model_folder)), [])
    add_adapter(model, AdapterArguments(method="dora", rank=2), str(model_folder)).save_pretrained(folder)
    change_weights(folder, **{f"{QUERY}.lora_magnitude_vector": torch.ones(31)})
    with pytest.raises(ValueError, match=r"lora_magnitude_vector has shape \(31,\), not \(32,\)"):
        load_model_and_processor(folder)


def test_an_adapter_of_no_encoder_is_refused(folder):
    weights = load_file(folder / "adapter_model.safetensors")
    change_weights(folder, **{name: None for name in weights if ".gadms." in name})
    with pytest.raises(ValueError, match="adapts no layer of an encoder"):
        load_model_and_processor(folder)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_record_that_is_none_is_told(folder, text):
    (folder / "run.json").write_text(text)
    with pytest.raises(ValueError, match="run.json is no run record"):
        load_model_and_processor(folder)


FROM_THE_HUB = """
import json, shutil, sys
from pathlib import Path

import torch
from modeling_gadms.training.adapters import AdapterArguments, add_adapter, merge_adapter, record_base
from modeling_gadms.training.model_setup import build_model_and_processor
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.training.run_config import ModelArguments

step, cache, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
if step == "train":
    model, processor = build_model_and_processor(ModelArguments(from_pretrained="ns/base"), [])
    wrapped = add_adapter(model, AdapterArguments(rank=2), "ns/base")
    wrapped.save_pretrained(scratch / "adapter")
    processor.save_pretrained(scratch / "adapter")
    base = record_base(wrapped)
    (scratch / "adapter" / "run.json").write_text(json.dumps({"base_model": base}))
    print(base["name"], base["revision"])
else:
    model, _ = load_model_and_processor("ns/adapter")
    report = merge_adapter("ns/adapter", scratch / "merged")
    print(model.name_or_path, report.base)
    torch.save(model.state_dict(), scratch / "state.pt")
"""


def put_on_the_hub(cache: Path, name: str, folder: Path, commit: str) -> None:
    """As a download leaves it; the newest commit is `main`."""
    repository = cache / f"models--ns--{name}"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


@pytest.mark.slow
def test_on_the_hub_an_adapter_is_tied_to_the_commit_of_its_base(model_folder, tiny_model, model, tmp_path):
    first, second, other = "1" * 40, "2" * 40, "3" * 40
    cache, scratch = tmp_path / "cache", tmp_path / "scratch"
    put_on_the_hub(cache, "base", model_folder, first)

    def run(step: str) -> list[str]:
        environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", FROM_THE_HUB, step, str(cache), str(scratch)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout.splitlines()[-1].split()

    assert run("train") == ["ns/base", first]
    assert json.loads((scratch / "adapter" / "adapter_config.json").read_text())["revision"] == first
    put_on_the_hub(cache, "adapter", scratch / "adapter", other)
    # The base gets another commit; the adapter stays with the first one.
    tiny_model(seed=1).save_pretrained(model_folder)
    put_on_the_hub(cache, "base", model_folder, second)
    assert run("load") == ["ns/adapter", "ns/base"]
    state = torch.load(scratch / "state.pt")
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items()), "B is still zero"


def test_without_the_library_its_name_is_told_and_whole_models_load(folder, model_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    load_model_and_processor(model_folder)
    with pytest.raises(ImportError, match=r"pip install 'gadms\[lora\]'"):
        load_model_and_processor(folder)
