"""A fingerprint changes if and only if the embeddings change."""

import copy
import hashlib
import json
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image

from modeling_gadms import GADMSModel, GADMSProcessor
from modeling_gadms.encoders.fingerprint import image_fingerprint, model_fingerprint
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.gallery.records import GalleryModel, GalleryModelError
from tests.dual_encoders import save_dual_encoder


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


def old_fingerprint(model, processor) -> str:
    """As the first galleries were built, written out."""
    digest = hashlib.sha256()
    for config in (model.config.text_config, model.config.vision_config):
        names = ("eos_token_id", "hidden_act", "layer_norm_eps", "num_attention_heads")
        digest.update(json.dumps([getattr(config, name, None) for name in names]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    image = Image.new("RGB", (100, 200), (30, 120, 210))
    probe = processor(text=["A woman in a red coat, carrying a black backpack."], images=[image])
    colour = [round(channel, 2) for channel in probe["pixel_values"].float().mean((0, 2, 3)).tolist()]
    digest.update(json.dumps([probe["input_ids"].tolist(), list(probe["pixel_values"].shape), colour]).encode())
    return digest.hexdigest()[:16]


def test_galleries_of_earlier_versions_stay_valid(model, processor, tmp_path):
    assert model_fingerprint(model, processor) == old_fingerprint(model, processor)
    described = GalleryModel.describe(model, processor)
    stored = {name: value for name, value in asdict(described).items() if name not in ("image_fit", "images")}
    GalleryModel(**stored).check_same(described, "gallery")


def test_bilinear_and_bicubic_images_are_told_apart(model, processor, tokenizer):
    bilinear = GADMSProcessor.from_tokenizer(tokenizer, image_size=(32, 16), resample=2)
    assert model_fingerprint(model, bilinear) == model_fingerprint(model, processor)  # a uniform image
    assert image_fingerprint(bilinear) != image_fingerprint(processor)
    built_by = GalleryModel.describe(model, processor)
    with pytest.raises(GalleryModelError, match=r"differs in its preprocessing of images \(how they are resized"):
        built_by.check_same(GalleryModel.describe(model, bilinear), "gallery")


def test_settings_of_a_family_change_the_fingerprint(tmp_path):
    model, processor = load_model_and_processor(save_dual_encoder("SigLIP 2", tmp_path / "model"))
    seen = {model_fingerprint(model, processor), model_fingerprint(model, processor.with_image_fit("pad"))}
    for change in ({"padding": "longest"}, {"attention_mask": True}, {"clean": None}, {"name": "SigLIP"}):
        other = copy.copy(processor)
        other.family = replace(processor.family, **change)
        seen.add(model_fingerprint(model, other))
    processor.image_processor.resample = 3
    seen.add(model_fingerprint(model, processor))
    assert len(seen) == 7
    assert model_fingerprint(*load_model_and_processor(tmp_path / "model")) in seen
