"""Damaged or modified weights and absurd configurations are refused before memory is allocated."""

import json
import resource
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_gadms import GADMSConfig, GADMSForPreTraining, GADMSModel
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.encoders.weight_files import check_weights, stored_shapes


WEIGHT = "gadms.text_projection.weight"


def edit_header(folder: Path, **changes: Any) -> None:
    """Change what the header of a safetensors file says of one tensor; the data stays as it is."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header[WEIGHT] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def edit_config(folder: Path, section: str | None = None, **fields: Any) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    (content[section] if section else content).update(fields)
    path.write_text(json.dumps(content))


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path) | changes
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, path, {"format": "pt"})


@pytest.fixture
def sharded_folder(tmp_path, tiny_model, processor) -> Path:
    folder = tmp_path / "sharded"
    tiny_model().save_pretrained(folder, max_shard_size="20KB")
    processor.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    return folder


def peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# What is whole.


@pytest.mark.parametrize("folder", ["model_folder", "sharded_folder"])
def test_stored_shapes_are_those_of_the_saved_model(folder, request, tiny_model):
    expected = {name: tuple(tensor.shape) for name, tensor in tiny_model().state_dict().items()}
    assert stored_shapes(request.getfixturevalue(folder)) == expected


@pytest.mark.parametrize("model_class", [GADMSModel, GADMSForPreTraining])
def test_a_whole_model_passes(sharded_folder, model_class):
    check_weights(sharded_folder, model_class, GADMSConfig.from_pretrained(sharded_folder))


def test_a_retrieval_model_alone_passes_as_such_and_lacks_what_training_adds(tmp_path, tiny_model):
    tiny_model().gadms.save_pretrained(tmp_path)
    config = GADMSConfig.from_pretrained(tmp_path)
    check_weights(tmp_path, GADMSModel, config)
    with pytest.raises(ValueError, match=r"lacks \d+ weights of GADMSForPreTraining, such as fusion\."):
        check_weights(tmp_path, GADMSForPreTraining, config)


# Damaged and tampered files.


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def vast_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 10**15) + path.read_bytes()[8:])


DAMAGES = {
    "cut": cut,
    "empty": empty,
    "header longer than the file": vast_header,
    "header of a vast tensor": lambda folder: edit_header(folder, shape=[10**9, 10**9]),
    "header that points beyond the file": lambda folder: edit_header(folder, data_offsets=[0, 10**15]),
    "header of an unknown type": lambda folder: edit_header(folder, dtype="F1000"),
    "header with a negative size": lambda folder: edit_header(folder, shape=[-16, -32]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_named(model_folder, damage):
    damage(model_folder)
    before = peak_memory_mb()
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged .*; fetch or save it again"):
        load_model_and_processor(model_folder)
    assert peak_memory_mb() - before < 200


def test_a_cut_shard_is_named(sharded_folder):
    shard = sorted(sharded_folder.glob("model-*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{shard.name} is damaged"):
        load_model_and_processor(sharded_folder)


def test_a_missing_shard_is_named(sharded_folder):
    shard = sorted(sharded_folder.glob("model-*.safetensors"))[2]
    shard.unlink()
    with pytest.raises(OSError, match=shard.name):
        load_model_and_processor(sharded_folder)


def test_a_shard_of_another_model_is_noticed(sharded_folder):
    first, second = sorted(sharded_folder.glob("model-*.safetensors"))[:2]
    shutil.copy(first, second)
    with pytest.raises(ValueError, match=rf"weights are not in the shards that .* names, such as .* in {second.name}"):
        load_model_and_processor(sharded_folder)


def test_a_weight_in_another_shard_than_the_index_says_is_noticed(sharded_folder):
    index = sharded_folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][WEIGHT] = next(name for name in content["weight_map"].values() if "00001" in name)
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"1 weights are not in the shards that .* names, such as {WEIGHT}"):
        load_model_and_processor(sharded_folder)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', '{"weights": {}}'])
def test_an_index_of_another_form_is_refused(sharded_folder, content):
    index = sharded_folder / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ValueError, match=r"index\.json is not an index of weight files"):
        load_model_and_processor(sharded_folder)


def test_an_index_cannot_name_files_elsewhere(sharded_folder, tmp_path):
    shard = sorted(sharded_folder.glob("model-*.safetensors"))[0]
    shutil.move(shard, tmp_path / shard.name)
    index = sharded_folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shard.name, f"../{shard.name}"))
    with pytest.raises(ValueError, match="is not in the same folder"):
        load_model_and_processor(sharded_folder)


def test_pickled_weights_are_not_read(model_folder, tmp_path):
    """Not even harmless ones: a pickle can run code."""
    weights = load_file(model_folder / "model.safetensors")
    (model_folder / "model.safetensors").unlink()
    torch.save(weights, model_folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="contains no weights.*pickled weights are not read"):
        load_model_and_processor(model_folder)


def test_a_missing_weight_is_named(model_folder):
    edit_weights(model_folder, **{WEIGHT: None})
    with pytest.raises(ValueError, match=r"lacks 1 weights of GADMSModel, such as text_projection\.weight"):
        load_model_and_processor(model_folder)


def test_a_weight_of_another_size_is_named_with_both_sizes(model_folder):
    edit_weights(model_folder, **{WEIGHT: torch.zeros(16, 33)})
    with pytest.raises(ValueError, match=r"text_projection\.weight: 16x33 in the file, 16x32 by the configuration"):
        load_model_and_processor(model_folder)


# Absurd configurations.

ABSURD = {
    "text width": ("text_config", {"hidden_size": 4 * 10**8}),
    "image width": ("vision_config", {"hidden_size": 3 * 10**8}),
    "feed-forward width": ("vision_config", {"intermediate_size": 10**12}),
    "text layers": ("text_config", {"num_hidden_layers": 10**7}),
    "image layers": ("vision_config", {"num_hidden_layers": 10**7}),
    "vocabulary": ("text_config", {"vocab_size": 10**12}),
    "caption length": ("text_config", {"max_position_embeddings": 10**12}),
    "image size": ("vision_config", {"image_size": [8 * 10**6, 8 * 10**6]}),
    "embedding": (None, {"projection_dim": 2 * 10**9}),
    "fusion layers": (None, {"fusion_num_hidden_layers": 10**7}),
    "fusion width": (None, {"fusion_intermediate_size": 10**12}),
    "identities": (None, {"num_identities": 10**12}),
}


@pytest.mark.parametrize(("section", "fields"), ABSURD.values(), ids=ABSURD.keys())
def test_absurd_sizes_are_refused_and_take_no_memory(model_folder, section, fields):
    edit_config(model_folder, section, **fields)
    before = peak_memory_mb()
    for model_class in (GADMSModel, GADMSForPreTraining):
        if model_class is GADMSModel and section is None and "projection_dim" not in fields:
            continue  # a size of training's modules, which retrieval does not use
        with pytest.raises(ValueError, match=r"another size than its configuration|lacks .*weights|too large"):
            check_weights(model_folder, model_class, GADMSConfig.from_pretrained(model_folder))
    assert peak_memory_mb() - before < 200


def test_plausible_sizes_that_differ_from_the_weights_take_no_memory(model_folder):
    edit_config(model_folder, "text_config", hidden_size=2**14, intermediate_size=2**16, num_hidden_layers=14)
    before = peak_memory_mb()
    with pytest.raises(ValueError, match=r"weights of GADMSModel, such as text_model\.encoder\.layers\.10\."):
        load_model_and_processor(model_folder)
    assert peak_memory_mb() - before < 200
