"""transformers' CLIP: the converted model has the same logits; other and incomplete models are refused."""

import json
import pickle

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, BertConfig, CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.configuration_clip import CLIPTextConfig, CLIPVisionConfig

from modeling_gadms import GADMSModel, GADMSProcessor
from modeling_gadms.conversion.converter import convert
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.training.tokenizer import train_tokenizer
from tests.modeling_gadms.conversion.openai_clip import CAPTIONS
from tests.modeling_gadms.conversion.test_checkpoint_files import Touch


@pytest.fixture(scope="module")
def plain_tokenizer() -> CLIPTokenizer:
    return train_tokenizer(CAPTIONS * 4, vocab_size=560, max_length=24)


@pytest.fixture
def clip_folder(tmp_path, plain_tokenizer):
    """A function that saves a tiny CLIP with its tokenizer; `eos_token_id` is 2 in OpenAI's repositories."""

    def make(eos_token_id: int = 2, dtype: torch.dtype = torch.float32, act: str = "quick_gelu", patch_size: int = 8):
        torch.manual_seed(0)
        sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "hidden_act": act}
        text = CLIPTextConfig(
            hidden_size=24,
            vocab_size=len(plain_tokenizer),
            max_position_embeddings=20,
            eos_token_id=eos_token_id,
            **sizes,
        )
        vision = CLIPVisionConfig(hidden_size=32, image_size=3 * patch_size, patch_size=patch_size, **sizes)
        config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=20)
        model = CLIPModel(config).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            model.logit_scale.fill_(3.0)
        model.save_pretrained(tmp_path / "clip")
        plain_tokenizer.save_pretrained(tmp_path / "clip")
        return tmp_path / "clip"

    return make


LEGACY = {"add_cross_attention": False, "bad_words_ids": None, "dropout": 0.0, "length_penalty": 1.0, "top_k": 50}


def test_the_configurations_that_openai_published_are_read(tmp_path, clip_folder):
    """They contain settings of old versions of transformers."""
    folder = clip_folder()
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part] |= LEGACY | {"torch_dtype": None, "architectures": None}
        config[f"{part}_dict"] = None
    config |= {"initializer_factor": 1.0, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "ours")
    load_model_and_processor(tmp_path / "ours")


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("by_name", [True, False])
def test_logits_are_clips(tmp_path, clip_folder, plain_tokenizer, act, by_name):
    """With heads of 6 and 8 channels and an activation that cannot be inferred from weights."""
    folder = clip_folder(eos_token_id=2 if by_name else len(plain_tokenizer) - 1, act=act)
    report = convert(str(folder) if by_name else folder, tmp_path / "ours", image_size=(24, 24))
    model, processor = load_model_and_processor(tmp_path / "ours")
    clip = CLIPModel.from_pretrained(folder).eval()
    inputs = processor(text=["a man in a red coat", "a hat"], images=[Image.new("RGB", (9, 9), "red")] * 2)
    with torch.inference_mode():
        theirs, ours = clip(**inputs), model(**inputs)
    torch.testing.assert_close(ours.logits_per_image, theirs.logits_per_image, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.image_embeds, theirs.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.text_embeds, theirs.text_embeds, rtol=0, atol=1e-5)
    assert torch.equal(model.logit_scale, clip.logit_scale)
    assert report.layout == "transformers" and report.model == "GADMSModel"
    assert report.used == len(clip.state_dict()) and report.ignored == {}
    assert not model.config.masked_token_prediction and model.config.score_layers == 2
    assert processor.tokenizer.model_max_length == 20


def test_by_default_it_becomes_a_model_for_persons(tmp_path, clip_folder):
    report = convert(clip_folder(), tmp_path / "ours")
    assert report.config.image_size == AutoProcessor.from_pretrained(tmp_path / "ours").image_size == (384, 128)
    text = report.to_text()
    assert "positions: resized from 3x3 to 48x16 patches by bicubic interpolation" in text
    assert f"mask token: {report.config.mask_token_id}, appended; its embedding is the mean of the others" in text


def test_half_precision_becomes_float32_and_the_report_says_so(tmp_path, clip_folder):
    report = convert(clip_folder(dtype=torch.bfloat16), tmp_path / "ours")
    assert {tensor.dtype for tensor in load_file(tmp_path / "ours" / "model.safetensors").values()} == {torch.float32}
    assert f"precision: {report.used} tensors of bfloat16 were cast to float32" in report.to_text()


def test_an_image_size_that_patches_do_not_divide_is_refused(tmp_path, clip_folder):
    folder = clip_folder(patch_size=7)
    with pytest.raises(ValueError, match="image_size = 384x128 .* patch size 7x7; give another image_size"):
        convert(folder, tmp_path / "ours")
    convert(folder, tmp_path / "ours", image_size=(28, 14))
    with pytest.raises(ValueError, match="source_image_size is only used for weight files"):
        convert(folder, tmp_path / "other", image_size=(28, 14), source_image_size=(21, 21))


def test_another_kind_of_model_is_refused(tmp_path, model_folder):
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(
        ValueError, match="bert: it contains a model of type 'bert'; only models of CLIP, .* converted; load it"
    ):
        convert(tmp_path / "bert", tmp_path / "ours")
    with pytest.raises(ValueError, match="it is a GA-DMS model already: there is nothing to convert"):
        convert(model_folder, tmp_path / "ours")
    with pytest.raises(ValueError, match="no config.json with a model_type"):
        (tmp_path / "empty").mkdir()
        convert(tmp_path / "empty", tmp_path / "ours")
    with pytest.raises(OSError, match="nobody/nothing"):
        convert("nobody/nothing", tmp_path / "ours")


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("text_config", "vocab_size", 10**9, "weights have another size than in its configuration"),
        ("text_config", "num_hidden_layers", 30, "it lacks .* weights of transformers' CLIP"),
        ("text_config", "num_hidden_layers", 900, "are stored, for 90. layers in its config.json"),
        ("vision_config", "hidden_size", 10**7, "weights have another size than in its configuration"),
        ("vision_config", "num_hidden_layers", 10**6, "are stored, for 100000. layers in its config.json"),
    ],
)
def test_a_configuration_of_absurd_sizes_is_refused_without_taking_memory(
    tmp_path, clip_folder, part, field, value, message
):
    folder = clip_folder()
    config = json.loads((folder / "config.json").read_text())
    config[part][field] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        convert(folder, tmp_path / "ours")


def test_missing_weights_are_named(tmp_path, clip_folder):
    folder = clip_folder()
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match="clip: it lacks 1 weights of transformers' CLIP, such as visual_projection.weight"
    ):
        convert(folder, tmp_path / "ours")


def test_images_are_prepared_as_its_preprocessor_says(tmp_path, clip_folder):
    folder = clip_folder()
    assert "source has no preprocessor_config.json" in convert(folder, tmp_path / "default").to_text()
    settings = {"resample": 2, "image_mean": (0.1, 0.2, 0.3), "image_std": (0.5, 0.6, 0.7)}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"size": {"shortest_edge": 224}}))
    report = convert(folder, tmp_path / "ours")
    assert "images: resized and normalised as by the source, but whole" in report.to_text()
    image_processor = GADMSProcessor.from_pretrained(tmp_path / "ours").image_processor
    assert {name: getattr(image_processor, name) for name in settings} == settings
    assert (image_processor.size["height"], image_processor.size["width"]) == report.config.image_size


def test_unknown_weights_are_reported_and_others_of_another_size_refused(tmp_path, clip_folder):
    folder = clip_folder()
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"extra": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no place for 1 of its tensors .*: extra\. Use its own code"):
        convert(folder, tmp_path / "ours")
    assert convert(folder, tmp_path / "ours", force=True).lost == ("extra",)
    weights["text_projection.weight"] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match="1 weights have another size than in its configuration, such as text_projection"
    ):
        convert(folder, tmp_path / "other")


def test_weights_that_are_not_finite_are_named(tmp_path, clip_folder):
    folder = clip_folder()
    weights = load_file(folder / "model.safetensors")
    weights["text_projection.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="`text_projection.weight` has values that are not finite"):
        convert(folder, tmp_path / "ours")


def test_a_damaged_or_unsafe_weight_file_is_refused(tmp_path, clip_folder):
    folder = clip_folder()
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-10])
    with pytest.raises(ValueError, match="its weights are damaged, or contain more than tensors"):
        convert(folder, tmp_path / "ours")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(tmp_path / "touched"), protocol=2))
    with pytest.raises(ValueError, match="its weights are damaged, or contain more than tensors"):
        convert(folder, tmp_path / "ours")
    assert not (tmp_path / "touched").exists() and not (tmp_path / "ours").exists()


def test_a_tokenizer_of_another_model_is_refused(tmp_path, clip_folder):
    folder = clip_folder()
    train_tokenizer(["a man"], vocab_size=520, max_length=24).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="embeds .* tokens, but the tokenizer has 516"):
        convert(folder, tmp_path / "ours", tokenizer=tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="its tokenizer has EOS .* but the model expects 7 and"):
        convert(folder, tmp_path / "ours")


def test_a_folder_converts_where_its_tokenizer_is_elsewhere(tmp_path, clip_folder, plain_tokenizer):
    folder = clip_folder()
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises((ValueError, OSError), match="tokenizer"):
        convert(folder, tmp_path / "ours")
    plain_tokenizer.save_pretrained(tmp_path / "tokenizer")
    convert(folder, tmp_path / "ours", tokenizer=str(tmp_path / "tokenizer"))
    assert isinstance(GADMSModel.from_pretrained(tmp_path / "ours"), GADMSModel)
