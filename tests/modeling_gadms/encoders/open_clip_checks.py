"""Models of open_clip give the embeddings that open_clip gives. Run by `test_open_clip.py` where open_clip is.

The models are tiny and random, and lie in folders as open_clip saves them. The oracle is open_clip's own code,
unchanged: `create_model_and_transforms`, its transform, its tokenizer, `encode_image` and `encode_text`.
"""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from modeling_gadms.encoders.encoding import embedding_dim, encode_captions, encode_images
from modeling_gadms.encoders.fingerprint import model_fingerprint
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.encoders.processors import family_of
from modeling_gadms.encoders.query_checks import check_query
from modeling_gadms.gallery.person_gallery import PersonGallery, PersonRecord, open_with_model
from modeling_gadms.gallery.records import GalleryModel
from modeling_gadms.publishing.hub import push_folder
from modeling_gadms.training.tokenizer import train_tokenizer
from tests.captions import CAPTIONS as TRAINING_CAPTIONS


CAPTIONS = [
    "a man",
    "A Woman in a RED coat,  who\ncarries a man’s &amp; a woman's bag",
    "someone with a green shirt, grey trousers and a yellow bag " * 3,  # longer than the context
    "a man! <end_of_text> !!!",
]
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
OWN_TOKENIZER = {"hf_tokenizer_name": "the/folder", "vocab_size": 600}
SIGLIP = {**TEXT, **OWN_TOKENIZER, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
SIGLIP |= {"norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}}
MODELS = {
    "CLIP": {"vision_cfg": VISION, "text_cfg": TEXT},
    "CLIP, QuickGELU, tall images": {
        "quick_gelu": True,
        "vision_cfg": {**VISION, "image_size": [48, 16]},
        "text_cfg": TEXT,
    },
    "CLIPA: averaged patches": {
        "vision_cfg": {**VISION, "pool_type": "avg"},
        "text_cfg": {**TEXT, "pool_type": "last"},
    },
    "SigLIP": {
        "custom_text": True,
        "init_logit_bias": -10.0,
        "embed_dim": 64,
        "vision_cfg": {"timm_model_name": "test_vit", "image_size": 32, "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {**SIGLIP, "tokenizer_kwargs": {"clean": "canonicalize"}},
    },
    "EVA02": {
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "eva02_tiny_patch14_224", "image_size": 224, "timm_pool": "token"},
        "text_cfg": TEXT,
    },
    "PE-Core": {
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "vit_pe_core_tiny_patch16_384", "image_size": 384, "timm_pool": "map"},
        "text_cfg": TEXT,
    },
    "MobileCLIP2": {
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "fastvit_t8", "image_size": 64, "timm_pool": "avg"},
        "text_cfg": {**TEXT, "no_causal_mask": True},
    },
    "CoCa": {
        "custom_text": True,
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "context_length": 16, "attn_pooler_heads": 2},
    },
}
PREPROCESSING = {
    "shortest": {},  # open_clip's default
    "squash": {"resize_mode": "squash", "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3},
    "longest": {"resize_mode": "longest", "fill_color": 7},
}
FITS = {"squash": "squash", "longest": "pad", "shortest": "crop"}


def save(folder: Path, name: str, settings: dict, preprocessing: dict) -> Path:
    """Write a folder as `open_clip.push_to_hf_hub` fills a repository."""
    settings = {"embed_dim": 24, **settings}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": preprocessing}))
    if "hf_tokenizer_name" in settings["text_cfg"]:
        train_tokenizer(TRAINING_CAPTIONS * 3, vocab_size=600, max_length=16).save_pretrained(folder)
    torch.manual_seed(0)
    # Without weights in the folder, open_clip leaves the model random.
    model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
    with torch.no_grad():
        for parameter in model.parameters():  # zeros of initialisation would hide whole layers
            if parameter.dim() > 1 and parameter.abs().max() == 0:
                parameter.normal_(std=0.02)
    weights = {key: tensor.clone().contiguous() for key, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(20, 50), (64, 64), (90, 30), (31, 77)]  # width, height
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, "shortest") for name in MODELS] + [("SigLIP", "squash"), ("CLIP", "longest"), ("CLIP", "squash")],
)
def test_embeddings_and_logits_are_those_of_open_clip(name, mode, tmp_path, images):
    folder = save(tmp_path / "model", name, MODELS[name], PREPROCESSING[mode])
    model, processor = load_model_and_processor(folder, image_fit=FITS[mode])
    ours = encode_captions(model, processor, CAPTIONS, progress=False)
    our_images = encode_images(model, processor, images, batch_size=3, progress=False)

    oracle, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.inference_mode():
        pixels = torch.stack([transform(image) for image in images])
        theirs = oracle.eval().encode_text(tokenizer(CAPTIONS), normalize=True)
        their_images = oracle.encode_image(pixels, normalize=True)
        logits = their_images @ theirs.T * oracle.logit_scale.exp()
        if oracle.logit_bias is not None:
            logits = logits + oracle.logit_bias

    assert torch.equal(processor(images=images)["pixel_values"], pixels)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(our_images, their_images, rtol=0, atol=1e-5)
    family = family_of(processor)
    torch.testing.assert_close(family.logits(model, our_images @ ours.T), logits, rtol=0, atol=1e-4)
    assert family.probability == ("sigmoid" if name == "SigLIP" else "softmax")
    assert embedding_dim(model, processor) == ours.shape[1] and processor.tokenizer.model_max_length == 16
    # Different inputs have different embeddings: a model that is all zeros would agree with anything.
    assert (ours @ ours.T).fill_diagonal_(0).max() < 1 - 1e-6
    assert (our_images @ our_images.T).fill_diagonal_(0).max() < 1 - 1e-6


def test_captions_that_are_cut_are_counted(tmp_path):
    """Exactly at the limit: a tokenizer of open_clip pads its results, so their length tells nothing."""
    for name in ("CLIP", "SigLIP"):
        folder = save(tmp_path / name, name, MODELS[name], {})
        _, processor = load_model_and_processor(folder)
        for words in (1, 12, 13, 14, 15, 16, 40):
            caption = " ".join(["man"] * words)
            length = len(processor.tokenize(caption, truncation=False, verbose=False)["input_ids"])
            assert processor.tokenize([caption], return_length=True, verbose=False)["length"] == [length]
            whole = open_clip.get_tokenizer(f"local-dir:{folder}")([caption], context_length=200)
            cut = processor(text=[caption])["input_ids"]
            assert (length > 16) == (not torch.equal(cut, whole[:, :16])), words
            assert length == words + 2, words


def test_a_gallery_is_searched_by_the_name_that_it_stores(tmp_path, images, monkeypatch):
    save(tmp_path / "model", "SigLIP", MODELS["SigLIP"], PREPROCESSING["squash"])
    monkeypatch.chdir(tmp_path)
    model, processor = load_model_and_processor("local-dir:model")
    gallery = PersonGallery.create("gallery", model, processor)
    gallery.add(PersonRecord(image, f"{number}.png") for number, image in enumerate(images))
    monkeypatch.chdir("/")
    opened, _ = open_with_model(tmp_path / "gallery")
    results = opened.search("a woman in a red coat", top_k=4)
    ours = encode_captions(model, processor, ["a woman in a red coat"], progress=False)
    scores = (encode_images(model, processor, images, progress=False) @ ours.T)[:, 0]
    assert [result.score for result in results] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-5)


@pytest.mark.skipif(
    not os.environ.get("HF_ENDPOINT", "").startswith("http://127.0.0.1:"), reason="there is no Hub on loopback"
)
def test_a_repository_of_the_hub_is_loaded_and_its_commit_known(tmp_path):
    folder = save(tmp_path / "model", "CLIP", MODELS["CLIP"], {})
    pushed = push_folder(folder, "me/open-clip", repo_type="model", message="A model")
    model, processor = load_model_and_processor("hf-hub:me/open-clip")
    expected = encode_captions(*load_model_and_processor(folder), CAPTIONS, progress=False)
    assert torch.equal(encode_captions(model, processor, CAPTIONS, progress=False), expected)
    stored = GalleryModel.describe(model, processor)
    assert (stored.name, stored.revision) == ("hf-hub:me/open-clip", pushed.commit)


def test_settings_that_leave_no_trace_in_the_weights_change_the_fingerprint(tmp_path):
    settings = {
        "gelu": MODELS["CLIP"],
        "quick gelu": {**MODELS["CLIP"], "quick_gelu": True},
        "heads": {"vision_cfg": VISION, "text_cfg": {**TEXT, "heads": 4}},
    }
    folders = [save(tmp_path / name, "CLIP", values, {}) for name, values in settings.items()]
    loaded = [load_model_and_processor(folder) for folder in folders]
    loaded.append(load_model_and_processor(folders[0], image_fit="crop"))
    assert len({model_fingerprint(*each) for each in loaded}) == 4
    assert model_fingerprint(*load_model_and_processor(folders[0])) == model_fingerprint(*loaded[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open-clip:ViT-B-61/openai", "no model 'ViT-B-61'; similar ones: .*ViT-B-16"),
        ("open-clip:ViT-B-16/opnai", "no weights 'opnai' of ViT-B-16; it has .*openai"),
        ("open-clip:ViT-B-16", "no weights '' of ViT-B-16"),
        ("open-clip:ViT-B-16/openai", "trained with QuickGELU, .* give open-clip:ViT-B-16-quickgelu/openai"),
        ("open-clip:ViT-B-16-quickgelu/openai", "cannot load open-clip:ViT-B-16-quickgelu/openai"),
        ("local-dir:nowhere", "nowhere holds no open_clip_config.json"),
        ("hf-hub:me/none", "cannot load hf-hub:me/none"),
    ],
)
def test_names_that_are_none_are_told(name, message):
    with pytest.raises((ValueError, OSError), match=message):
        load_model_and_processor(name)


def test_what_would_be_random_or_another_model_is_refused(tmp_path):
    folder = save(tmp_path / "model", "CLIP", MODELS["CLIP"], {})
    with pytest.raises(ValueError, match="runs with torch alone, not with onnx"):
        load_model_and_processor(folder, runtime="onnx")
    for what in ("token scores", "heat maps", "ONNX export"):
        with pytest.raises(ValueError, match=f"open_clip models do not support {what}"):
            family_of(load_model_and_processor(folder)[1]).check_can(what)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"reduction_mask": "simple"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="shortens captions at random"):
        load_model_and_processor(folder)
    (folder / "open_clip_model.safetensors").unlink()
    with warnings.catch_warnings(), pytest.raises(ValueError, match="could not be loaded"):
        load_model_and_processor(folder)


def test_a_query_that_is_too_long_is_told(tmp_path):
    _, processor = load_model_and_processor(save(tmp_path / "model", "CLIP", MODELS["CLIP"], {}))
    with pytest.warns(UserWarning, match="32 tokens and the model reads 16"):
        check_query(processor, "red " * 30)
