"""Weight files are read without running their code. Damaged, unsafe and other files are refused."""

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modeling_gadms.conversion.checkpoint_files import read_weight_file
from modeling_gadms.conversion.converter import convert
from modeling_gadms.training.tokenizer import train_tokenizer
from tests.modeling_gadms.conversion.openai_clip import Clip


VOCAB_SIZE = 514


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["a man"], vocab_size=VOCAB_SIZE, max_length=24).save_pretrained(folder)
    return folder


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return Clip(vocab_size=VOCAB_SIZE, grid=(4, 2)).state_dict()


# ---------------------------------------------------------------------------------------------------------------------
# Nothing is run.
# ---------------------------------------------------------------------------------------------------------------------
def test_the_side_effect_would_happen_to_a_trusting_reader(tmp_path):
    """Otherwise the next tests would prove nothing."""
    torch.save({"evil": Touch(tmp_path / "touched")}, tmp_path / "evil.pth")
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["beside", "among", "alone"])
def test_a_pickle_with_a_side_effect_is_refused_before_it_happens(tmp_path, state, tokenizer_folder, zipped, place):
    evil = Touch(tmp_path / "touched")
    content = {"beside": {"model": state, "epoch": evil}, "among": state | {"evil": evil}, "alone": evil}[place]
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="it would run `posix.system`"):
        convert(tmp_path / "evil.pth", tmp_path / "ours", tokenizer=tokenizer_folder)
    assert not (tmp_path / "touched").exists() and not (tmp_path / "ours").exists()


@pytest.mark.parametrize(("extra", "wanted"), [(nn.Linear(1, 1), "torch.nn.modules.linear"), (Path("a"), "pathlib.")])
def test_honest_objects_beside_the_weights_are_refused_by_their_names(tmp_path, state, extra, wanted):
    torch.save({"model": state, "args": extra}, tmp_path / "research.pth")
    with pytest.raises(ValueError, match=f"research.pth is refused: it would run `{wanted}"):
        convert(tmp_path / "research.pth", tmp_path / "ours")


def save_in_the_older_format(content, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [torch.save, save_in_the_older_format])
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"epoch": 1, "net": model}])
def test_the_remedy_for_a_whole_model_gives_its_weights(tmp_path, state, save, wrap):
    model = nn.Linear(1, 1)
    save(wrap(model), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match="whole.pth is refused: it would run `torch.nn.modules.linear") as error:
        convert(tmp_path / "whole.pth", tmp_path / "ours")
    remedy = str(error.value).partition("can be imported: ")[2].replace("weights.pth", str(tmp_path / "weights.pth"))
    exec(remedy, {"torch": torch})
    assert torch.load(tmp_path / "weights.pth").keys() == model.state_dict().keys()


@pytest.mark.parametrize("save", [torch.save, save_in_the_older_format])
def test_the_remedy_for_objects_beside_weights_gives_the_weights(tmp_path, state, save):
    save({"args": Path("a"), "state_dict": state}, tmp_path / "beside.pth")
    with pytest.raises(ValueError, match=r'torch.save\(checkpoint\["state_dict"\], "weights.pth"\)'):
        convert(tmp_path / "beside.pth", tmp_path / "ours")


def test_settings_beside_the_weights_are_read_without_their_code(tmp_path, state, tokenizer_folder):
    torch.save({"model": state, "args": argparse.Namespace(lr=1, steps=[1])}, tmp_path / "research.pth")
    file = read_weight_file(tmp_path / "research.pth")
    assert file.tensors.keys() == state.keys() and file.ignored.keys() == {"args"}


def test_torchscript_is_refused_with_its_own_hint(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "ViT-B-16.pt")
    with pytest.raises(ValueError, match=r"a TorchScript archive.*torch.jit.load\(.*\).state_dict\(\)"):
        convert(tmp_path / "ViT-B-16.pt", tmp_path / "ours")


# ---------------------------------------------------------------------------------------------------------------------
# Damaged files, and others.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [1, 5, 60, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, state, zipped, part):
    path = tmp_path / "cut.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: part if isinstance(part, int) else int(len(content) * part)])
    with pytest.raises(ValueError, match="cut.pth is damaged or not a PyTorch file .*; copy or download it again"):
        convert(path, tmp_path / "ours")


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
        b"<!DOCTYPE html><html></html>",
        b"\x00" * 300,
        b"PK\x03\x04 and no archive",
        pickle.dumps({"a": 1}),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ValueError, match="file.pth is damaged or not a PyTorch file"):
        convert(tmp_path / "file.pth", tmp_path / "ours")


def test_another_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.pt", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match="pictures.pt is damaged or not a PyTorch file"):
        convert(tmp_path / "pictures.pt", tmp_path / "ours")


def break_length(content: bytes) -> bytes:
    return b"\xff" * 8 + content[8:]


def break_json(content: bytes) -> bytes:
    return content[:8] + b"?" + content[9:]


def break_offsets(content: bytes) -> bytes:
    return content.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1)


@pytest.mark.parametrize("damage", [break_length, break_json, break_offsets, lambda content: content[:-3]])
def test_a_safetensors_file_with_a_broken_header_is_refused(tmp_path, state, damage):
    path = tmp_path / "broken.safetensors"
    save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="broken.safetensors is damaged or not a safetensors file"):
        convert(path, tmp_path / "ours")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "contains a list, not named tensors"),
        (torch.zeros(3), "contains a Tensor, not named tensors"),
        ({}, "contains no named tensors; its entries are: none"),
        ({"epoch": 3, "step": 4}, "contains no named tensors; its entries are: epoch, step"),
        ({"model": {}, "epoch": 1}, "contains no named tensors; its entries are: model, epoch"),
        ({"model": {"a": torch.zeros(1)}, "state_dict": {"a": torch.zeros(1)}}, "under both `model` and `state_dict`"),
        (
            {"a": torch.zeros(1), "module.a": torch.zeros(1)},
            "contains `a` twice, with and without _orig_mod or module",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "some.pth")
    with pytest.raises(ValueError, match=f"some.pth.* {message}"):
        convert(tmp_path / "some.pth", tmp_path / "ours")


def test_files_that_are_not_there_or_empty_or_of_another_kind_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*nowhere.pth"):
        convert(tmp_path / "nowhere.pth", tmp_path / "ours")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ValueError, match="empty.pth is empty"):
        convert(tmp_path / "empty.pth", tmp_path / "ours")
    (tmp_path / "weights.onnx").write_text("x")
    with pytest.raises(
        ValueError, match="weights.onnx is not a weight file: supported are .pt, .pth, .bin, .ckpt, .pth.tar, .safeten"
    ):
        convert(tmp_path / "weights.onnx", tmp_path / "ours")


# ---------------------------------------------------------------------------------------------------------------------
# Tensors that are not what they claim.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(64, 10**12),
        torch.zeros(64, dtype=torch.int64),
        torch.zeros(64, dtype=torch.complex64),
        torch.zeros(64, 64).to_sparse(),
        torch.zeros(64, 64, device="meta"),
    ],
    ids=["repeated", "integer", "complex", "sparse", "meta"],
)
def test_a_tensor_without_numbers_of_its_own_is_refused(tmp_path, state, tokenizer_folder, tensor):
    torch.save(state | {"text_projection": tensor}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="odd.pth: `text_projection` is not a dense floating-point tensor"):
        convert(tmp_path / "odd.pth", tmp_path / "ours", tokenizer=tokenizer_folder)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, state, tokenizer_folder, value):
    state["visual.proj"][3, 4] = value
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match="`visual.proj` has values that are not finite"):
        convert(tmp_path / "nan.pth", tmp_path / "ours", tokenizer=tokenizer_folder)


@pytest.mark.parametrize("scale", [torch.zeros(2), torch.tensor(1000.0), torch.tensor(-60.0)])
def test_a_temperature_that_is_none_is_refused(tmp_path, state, tokenizer_folder, scale):
    torch.save(state | {"logit_scale": scale}, tmp_path / "hot.pth")
    with pytest.raises(ValueError, match="`logit_scale` must be one number, the logarithm of 1 / temperature"):
        convert(tmp_path / "hot.pth", tmp_path / "ours", tokenizer=tokenizer_folder)


def test_a_width_that_would_fill_the_memory_is_refused(tmp_path, state, tokenizer_folder):
    """One tensor of 64 million numbers implies layers with hundreds of thousands of channels."""
    state["visual.conv1.weight"] = torch.zeros(320_000, 3, 8, 8, dtype=torch.float16)
    torch.save(state, tmp_path / "vast.pth")
    with pytest.raises(ValueError, match="vast.pth: "):
        convert(tmp_path / "vast.pth", tmp_path / "ours", tokenizer=tokenizer_folder)


# ---------------------------------------------------------------------------------------------------------------------
# Reading and writing alone.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"weights": weights, "epoch": 1},
        lambda weights: {"net": {"model": weights, "epoch": 1}},
        lambda weights: {"model": {f"_orig_mod.module.{name}": tensor for name, tensor in weights.items()}},
    ],
)
def test_weights_are_found_below_any_entry(tmp_path, wrap):
    weights = {"a.weight": torch.ones(2), "module_a": torch.zeros(1)}
    torch.save(wrap(weights), tmp_path / "some.pth.tar")
    assert read_weight_file(tmp_path / "some.pth.tar").tensors.keys() == weights.keys()


def test_tensors_are_read_by_their_names_and_all_else_is_listed(tmp_path):
    content = {"model": {"module.a.weight": torch.ones(2), "module.b": 3}, 7: "seven", "epoch": 1}
    torch.save(content, tmp_path / "some.pth")
    file = read_weight_file(tmp_path / "some.pth")
    assert file.tensors.keys() == {"a.weight"} and torch.equal(file.tensors["a.weight"], torch.ones(2))
    assert file.ignored == {
        "7": "not in `model`, which contains the weights",
        "epoch": "not in `model`, which contains the weights",
        "b": "not a tensor",
    }
