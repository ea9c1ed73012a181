"""Every family of dual encoders gives the embeddings of its own class in transformers, used as it documents."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import AutoTokenizer

from modeling_gadms.encoders.encoding import embedding_dim, encode_captions, encode_images
from modeling_gadms.encoders.families import FAMILIES, GADMS, UNSUPPORTED, canonical
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.encoders.processors import family_of
from tests.captions import CAPTIONS
from tests.dual_encoders import EXAMPLES, NAMES, SIZE, save_dual_encoder


TEXTS = [*CAPTIONS, "A Red COAT!", "x " * 100]
"""Of ragged length, with capitals and punctuation; the last is longer than any model reads."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {name: save_dual_encoder(name, place / name.replace(" ", "-")) for name in NAMES}


@pytest.fixture(scope="module")
def persons() -> list[Image.Image]:
    """Of a person's proportions, of a square's and of a landscape's, none of the models' size."""
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((96, 31), (50, 50), (40, 90))
    ]


def own_text(folder: Path, name: str, length: int) -> dict[str, torch.Tensor]:
    """What the family's documentation gives to `get_text_features`."""
    options: dict[str, Any] = {"return_tensors": "pt", "truncation": True}
    if name in ("CLIP", "CLIPSeg"):
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        return tokenizer(TEXTS, padding=True, max_length=length, **options)
    if name in ("MetaCLIP 2", "AltCLIP"):
        tokenizer = transformers.XLMRobertaTokenizer.from_pretrained(folder)
        return tokenizer(TEXTS, padding=True, max_length=length, **options)
    if name == "Chinese-CLIP":
        return transformers.BertTokenizer.from_pretrained(folder)(TEXTS, padding=True, max_length=length, **options)
    options |= {"padding": "max_length", "max_length": 64}
    if name == "SigLIP":
        tokenizer = transformers.SiglipTokenizer.from_pretrained(folder)
    elif name.startswith("SigLIP 2"):
        tokenizer = transformers.Siglip2Tokenizer.from_pretrained(folder, padding_side="right")
    elif name == "ALIGN":
        return transformers.BertTokenizer.from_pretrained(folder)(TEXTS, **options)
    else:
        return transformers.Tipsv2Tokenizer.from_pretrained(folder)(TEXTS, **options)
    return {"input_ids": tokenizer(TEXTS, **options)["input_ids"]}


def resized(image: Image.Image, side: int) -> np.ndarray:
    """The values of an image, from 0 to 1, of shape `(3, side, side)`."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255


OWN_FITS: dict[str, str] = {"CLIP": "crop", "MetaCLIP 2": "crop", "AltCLIP": "crop", "SigLIP 2 NaFlex": "keep"}
"""What the processors of the families do by themselves; the others squash, and ALIGN does so here."""


def own_images(folder: Path, name: str, images: list[Image.Image]) -> dict[str, torch.Tensor]:
    """What the family's documentation gives to `get_image_features`."""
    if name == "TIPSv2":
        return {"pixel_values": torch.tensor(np.stack([resized(image, SIZE) for image in images])).float()}
    if name == "ALIGN":
        return {"pixel_values": torch.tensor(np.stack([resized(image, SIZE) for image in images])).float() * 2 - 1}
    classes = {"CLIPSeg": "ViT", "SigLIP": "Siglip", "SigLIP 2": "Siglip", "SigLIP 2 NaFlex": "Siglip2"}
    classes |= {"Chinese-CLIP": "ChineseCLIP"}
    image_processor = getattr(transformers, f"{classes.get(name, 'CLIP')}ImageProcessorPil")
    return image_processor.from_pretrained(folder)(images, return_tensors="pt")


@pytest.mark.parametrize("name", EXAMPLES)
def test_embeddings_and_scores_are_those_of_the_family(name, folders, persons):
    model, processor = load_model_and_processor(folders[name], image_fit=OWN_FITS.get(name, "squash"))
    family = family_of(processor)
    assert family.name == name and type(model).__name__ == EXAMPLES[name].model
    image_embeds = encode_images(model, processor, persons, batch_size=2, progress=False)
    text_embeds = encode_captions(model, processor, TEXTS, batch_size=2, progress=False)
    own = getattr(transformers, EXAMPLES[name].model).from_pretrained(folders[name]).eval()
    text = own_text(folders[name], name, processor.tokenizer.model_max_length)
    images = own_images(folders[name], name, persons)
    with torch.no_grad():
        expected = own(**text, **images)
        features = own.get_image_features(**images).pooler_output, own.get_text_features(**text).pooler_output
    assert torch.allclose(image_embeds, normalize(features[0], dim=-1), atol=1e-5)
    assert torch.allclose(text_embeds, normalize(features[1], dim=-1), atol=1e-5)
    assert torch.allclose(family.logits(model, text_embeds @ image_embeds.T), expected.logits_per_text, atol=1e-4)
    assert embedding_dim(model, processor) == image_embeds.shape[1] == text_embeds.shape[1]
    # Random weights tell captions and images apart, or the comparisons above would say little.
    assert (text_embeds @ text_embeds.T - torch.eye(len(TEXTS))).max() < 0.9999


@pytest.mark.parametrize("name", ["SigLIP", "SigLIP 2", "SigLIP 2 NaFlex"])
def test_siglip_pads_to_64_on_the_right_without_a_mask_whatever_its_files_say(name, folders):
    model, processor = load_model_and_processor(folders[name])
    as_saved = AutoTokenizer.from_pretrained(folders[name])
    inputs = processor(text=TEXTS[:2])
    assert list(inputs) == ["input_ids"] and inputs["input_ids"].shape == (2, 64)
    assert (inputs["input_ids"][:, -1] == processor.tokenizer.pad_token_id).all()
    alone = encode_captions(model, processor, TEXTS[:1], progress=False)
    batch = encode_captions(model, processor, TEXTS, progress=False)
    assert torch.allclose(alone, batch[:1], atol=1e-5)
    # It reads the last position, so that padding to the longest caption, as its processor does, gives another caption.
    with torch.no_grad():
        other = normalize(model.get_text_features(as_saved(TEXTS[0], return_tensors="pt")["input_ids"]).pooler_output)
    assert (other - alone).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "same", "different"),
    [
        ("SigLIP", ["A man,  in a Red COAT!", "a man in a red coat"], "a man in a red hat"),
        ("SigLIP 2", ["A Red COAT", "a red coat"], "a red coat!"),
        ("SigLIP 2 NaFlex", ["A Red COAT", "a red coat"], "a red coat!"),
        ("TIPSv2", ["A Red COAT", "a red coat"], "a red coat!"),
    ],
)
def test_captions_are_cleaned_as_the_family_was_trained(name, same, different, folders):
    model, processor = load_model_and_processor(folders[name])
    first, second, third = encode_captions(model, processor, [*same, different], progress=False)
    assert torch.equal(first, second) and (first - third).abs().max() > 1e-3


def test_the_tokenizer_that_transformers_builds_for_a_fixed_siglip_2_does_not_lower_case(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders["SigLIP 2"])
    assert tokenizer("A Red COAT")["input_ids"] != tokenizer("a red coat")["input_ids"]


def test_a_caption_cannot_end_itself(folders):
    model, processor = load_model_and_processor(folders["CLIP"])
    texts = ["a man <|endoftext|> in a red coat", "a man"]
    first, second = encode_captions(model, processor, texts, progress=False)
    assert (first - second).abs().max() > 1e-3


def test_a_processor_of_transformers_is_refused_since_it_may_pad_wrongly(folders):
    model, processor = load_model_and_processor(folders["SigLIP 2"])
    own = transformers.SiglipProcessor(processor.image_processor, processor.tokenizer)
    for encode, items in ((encode_captions, ["a man"]), (encode_images, [Image.new("RGB", (20, 60))])):
        with pytest.raises(TypeError, match="the processor is a SiglipProcessor.*load_model_and_processor"):
            encode(model, own, items, progress=False)


def edit(folder: Path, file: str, change: Callable[[dict], Any]) -> None:
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))


def test_eos_of_early_clip_files_is_the_highest_token_and_others_are_compared(tmp_path):
    folder = save_dual_encoder("CLIP", tmp_path / "clip")
    load_model_and_processor(folder)  # eos_token_id = 2
    edit(folder, "config.json", lambda config: config["text_config"].update(eos_token_id=5))
    with pytest.raises(ValueError, match=r"ends captions with token 599, its model reads them at token 5"):
        load_model_and_processor(folder)
    tokenizer = EXAMPLES["CLIP"].tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<|mask|>"})
    tokenizer.save_pretrained(folder)
    EXAMPLES["CLIP"].make_model(len(tokenizer), tokenizer).save_pretrained(folder)
    with pytest.raises(ValueError, match="token 599, its model reads them at the highest token, 600"):
        load_model_and_processor(folder)


@pytest.mark.parametrize("model_type", [*UNSUPPORTED, "bert"])
def test_other_models_are_refused_by_name_with_what_is_supported(model_type, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match=f"model of type '{model_type}'") as refusal:
        load_model_and_processor(tmp_path)
    assert all(family.name in str(refusal.value) for family in FAMILIES)
    assert UNSUPPORTED.get(model_type, "") in str(refusal.value)


def test_every_member_of_the_map_of_transformers_is_supported_or_refused_with_a_reason():
    known = {family.model_type for family in FAMILIES} | set(UNSUPPORTED)
    mapping = transformers.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING
    assert {config.model_type for config in mapping} <= known
    assert {family.name for family in FAMILIES} == set(NAMES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_random_weights_and_foreign_tokenizers_are_refused(name, tmp_path):
    folder = save_dual_encoder(name, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    lost = next(key for key in weights if key.endswith("bias") and ("norm" in key.lower() or "ln_" in key))
    save_file(
        {key: value for key, value in weights.items() if key != lost}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=f"lacks 1 weights of {EXAMPLES[name].model}, such as .*bias"):
        load_model_and_processor(folder)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["sweatshirt"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"its tokenizer has \d+ tokens, its model \d+; give the folder of one model"):
        load_model_and_processor(folder)


def test_sizes_that_were_never_stored_are_refused_before_they_are_allocated(tmp_path):
    folder = save_dual_encoder("SigLIP 2", tmp_path / "model")
    edit(folder, "config.json", lambda config: config["text_config"].update(intermediate_size=10**8))
    with pytest.raises(ValueError, match=r"by its config.json there are 13,000,\d+,\d+: they belong to another model"):
        load_model_and_processor(folder)


@pytest.mark.parametrize("name", ["AltCLIP", "TIPSv2"])
def test_pickled_sharded_and_half_precision_weights_load(name, folders, tmp_path):
    model, processor = load_model_and_processor(folders[name])
    expected = encode_captions(model, processor, TEXTS, progress=False)
    folder = save_dual_encoder(name, tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(encode_captions(*load_model_and_processor(folder), TEXTS, progress=False), expected)
    (folder / "pytorch_model.bin").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"pytorch_model.bin is damaged, or holds more than weights"):
        load_model_and_processor(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(OSError, match=r"contains no weights: model.safetensors, pytorch_model.bin and their indexes"):
        load_model_and_processor(folder)
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert torch.equal(encode_captions(*load_model_and_processor(folder), TEXTS, progress=False), expected)
    for file in folder.glob("model*"):
        file.unlink()
    model.half().save_pretrained(folder)
    half, processor = load_model_and_processor(folder)
    assert half.dtype == torch.float16
    assert torch.allclose(encode_captions(half, processor, TEXTS, progress=False), expected, atol=0.01)
    assert encode_images(half, processor, [Image.new("RGB", (20, 60))], progress=False).isfinite().all()


def test_a_folder_without_its_processor_says_what_is_missing(tmp_path):
    folder = save_dual_encoder("SigLIP", tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(OSError, match=r"its image processor cannot be loaded .* copy it from the model"):
        load_model_and_processor(folder)
    (folder / "preprocessor_config.json").write_text("{damaged")
    with pytest.raises((OSError, ValueError), match=r"its image processor cannot be loaded "):
        load_model_and_processor(folder)
    (folder / "spiece.model").unlink()
    with pytest.raises(ValueError, match=r"its tokenizer cannot be loaded .* needs the files of the tokenizer"):
        load_model_and_processor(folder)


def test_an_image_processor_of_another_size_is_refused(tmp_path):
    folder = save_dual_encoder("SigLIP 2", tmp_path / "fixed")
    edit(folder, "preprocessor_config.json", lambda settings: settings.update(size={"height": 48, "width": 48}))
    with pytest.raises(ValueError, match=r"makes images of \(48, 48\) pixels, its model reads \(32, 32\)"):
        load_model_and_processor(folder)
    folder = save_dual_encoder("SigLIP 2 NaFlex", tmp_path / "naflex")
    edit(folder, "preprocessor_config.json", lambda settings: settings.update(patch_size=16))
    with pytest.raises(ValueError, match="makes patches of 16 pixels, its model reads 8"):
        load_model_and_processor(folder)


def test_images_are_squashed_padded_or_cropped(folders):
    """A white image of 20 x 60 pixels with a black top."""
    image = Image.new("RGB", (20, 60), "white")
    image.paste("black", (0, 0, 20, 20))
    pixels = {}
    for fit in ("squash", "pad", "crop"):
        processor = load_model_and_processor(folders["SigLIP 2"], image_fit=fit)[1]
        pixels[fit] = processor(images=[image])["pixel_values"][0]
        assert pixels[fit].shape == (3, SIZE, SIZE)
    assert (pixels["squash"][:, :8] < -0.9).all() and (pixels["squash"][:, 13:] > 0.9).all()
    # 11 pixels wide, between two borders of the colour that is normalised to zero
    assert (pixels["pad"][:, :, :10].abs() < 0.01).all() and (pixels["pad"][:, :, -10:].abs() < 0.01).all()
    assert (pixels["pad"][:, :8, 12:20] < -0.9).all() and (pixels["pad"][:, 13:, 12:20] > 0.9).all()
    assert (pixels["crop"][:, 2:] > 0.9).all()  # of 96 rows, the first 32 are black and these are 32 to 63
    for name, fit in (("SigLIP 2 NaFlex", "pad"), ("GA-DMS", "crop"), ("CLIP", "stretch")):
        with pytest.raises(ValueError, match=f"image_fit = '{fit}' is not possible with {name}: choose from"):
            load_model_and_processor(folders[name], image_fit=fit)


def test_canonical_captions_are_those_of_siglips_own_tokenizer(folders):
    own = transformers.SiglipTokenizer.from_pretrained(folders["SigLIP"])
    for text in [*TEXTS, "L'Été, (n'est) pas -- fini", "ΟΔΟΣ  İstanbul"]:
        assert canonical(text) == own.canonicalize_text(text)


def test_what_a_family_cannot_do_is_said_with_the_reason():
    GADMS.check_can("token scores")
    refused = [(family, what) for family in FAMILIES for what in family.cannot]
    assert refused
    for family, what in refused:
        with pytest.raises(ValueError, match=f"{family.name} models do not support {what}: "):
            family.check_can(what)
