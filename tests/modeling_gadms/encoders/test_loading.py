"""A folder gives a model and its processor, or says what is wrong with it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_gadms import GADMSModel, GADMSProcessor
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.training.tokenizer import train_tokenizer


def test_what_training_leaves_behind_loads_for_retrieval(model_folder, model, processor):
    loaded, its_processor = load_model_and_processor(str(model_folder))
    assert type(loaded) is GADMSModel and type(its_processor) is GADMSProcessor
    assert not loaded.training and its_processor.image_size == processor.image_size
    state = loaded.cpu().state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_a_retrieval_model_alone_loads(tmp_path, model, processor):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    load_model_and_processor(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="holds a model of type 'bert', not one of the supported.*GA-DMS, CLIP,"):
        load_model_and_processor(tmp_path)


def test_a_model_without_some_of_its_weights_is_refused(model_folder):
    weights = load_file(model_folder / "model.safetensors")
    del weights["gadms.visual_projection.weight"]
    save_file(weights, model_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of GADMSModel, such as visual_projection.weight"):
        load_model_and_processor(model_folder)


def test_a_tokenizer_of_another_model_is_refused(model_folder, processor):
    other = train_tokenizer(["a man"], vocab_size=520, max_length=24)
    GADMSProcessor.from_tokenizer(other, image_size=(32, 16)).save_pretrained(model_folder)
    sizes = f"its tokenizer has {len(other)} tokens, its model {len(processor.tokenizer)}"
    with pytest.raises(ValueError, match=sizes):
        load_model_and_processor(model_folder)


@pytest.mark.parametrize("name", ["nosuch", "me/nosuch", "./nosuch", "/no/such/model", "~/nosuch", "", " "])
def test_a_model_that_does_not_exist_is_named(name, model_folder):
    with pytest.raises(FileNotFoundError, match=f"There is no model.*'{name}'"):
        load_model_and_processor(name)


def test_a_file_is_no_model_and_the_home_folder_may_be_written_short(model_folder, monkeypatch):
    with pytest.raises(ValueError, match="model.safetensors is a file, not the folder of a model: convert"):
        load_model_and_processor(model_folder / "model.safetensors")
    monkeypatch.setenv("HOME", str(model_folder.parent))
    model, _ = load_model_and_processor(f"~/{model_folder.name}")
    assert model.name_or_path == str(model_folder)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_model_and_processor(tmp_path)
