"""A fingerprint changes if and only if the embeddings change."""

import torch

from modeling_gadms import GADMSModel, GADMSProcessor
from modeling_gadms.encoders.fingerprint import model_fingerprint


def test_two_loads_of_one_model_agree_in_any_folder(model_folder, processor):
    model = GADMSModel.from_pretrained(model_folder)
    expected = model_fingerprint(model, processor)
    moved = model_folder.rename(model_folder.with_name("moved"))
    loaded = GADMSModel.from_pretrained(moved)
    assert model_fingerprint(loaded, GADMSProcessor.from_pretrained(moved)) == expected
    loaded.save_pretrained(moved / "again")
    assert model_fingerprint(GADMSModel.from_pretrained(moved / "again"), processor) == expected
    loaded.config.mtp_weight = 0.7  # a setting of training
    assert model_fingerprint(loaded.train(), processor) == expected


def test_weights_activation_size_and_colours_change_the_fingerprint(model, processor, tokenizer):
    seen = {model_fingerprint(model, processor)}
    processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    seen.add(model_fingerprint(model, processor))
    seen.add(model_fingerprint(model, GADMSProcessor.from_tokenizer(tokenizer, image_size=(64, 16))))
    model.config.text_config.hidden_act = "gelu"
    seen.add(model_fingerprint(model, processor))
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 1e-3
    seen.add(model_fingerprint(model, processor))
    seen.add(model_fingerprint(model.bfloat16(), processor))
    assert len(seen) == 6
