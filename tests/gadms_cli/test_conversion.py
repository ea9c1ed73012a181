"""The commands `gadms convert` and `gadms export`."""

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.training.adapters import AdapterArguments, add_adapter
from modeling_gadms.training.model_setup import build_model_and_processor
from modeling_gadms.training.run_config import ModelArguments
from modeling_gadms.training.tokenizer import train_tokenizer
from tests.captions import CAPTIONS
from tests.gadms_cli.test_app import refusal, run


def embeddings(folder, captions):
    model, processor = load_model_and_processor(folder)
    inputs = processor(images=[Image.new("RGB", (16, 32), "red")], text=captions)
    with torch.inference_mode():
        outputs = model(**inputs)
    return outputs.image_embeds, outputs.text_embeds


def assert_same_embeddings(folder, other, captions=CAPTIONS, **tolerance):
    for here, there in zip(embeddings(folder, captions), embeddings(other, captions), strict=True):
        torch.testing.assert_close(here, there, **tolerance)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP with attention heads of width 64, which OpenAI's code assumes."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = train_tokenizer(CAPTIONS * 3, vocab_size=560, max_length=24)
    sizes = {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 1}
    text_config = {"vocab_size": len(tokenizer), "max_position_embeddings": 24, **sizes}
    text_config |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision_config = {"image_size": 32, "patch_size": 8, **sizes}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=64)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def converted(tmp_path, clip_folder):
    folder = tmp_path / "converted"
    result = run("convert", clip_folder, folder, "--image-size", "32x16")
    assert result.exit_code == 0, result.output
    return folder


def test_converting_clip_tells_what_became_of_it(tmp_path, clip_folder):
    result = run("convert", clip_folder, tmp_path / "ours", "--image-size", "48x16")
    assert result.exit_code == 0, result.output
    assert "images: 48x16 (height x width), 6x2 patches of 8" in result.output
    assert "positions: resized from 4x4 to 6x2 patches" in result.output
    assert f"--model {tmp_path / 'ours'}" in result.output
    model, processor = load_model_and_processor(tmp_path / "ours")
    assert model.config.image_size == processor.image_size == (48, 16)


@pytest.mark.parametrize("layout", ["openai", "research"])
def test_exporting_and_converting_again_changes_no_embedding(tmp_path, converted, layout):
    exported = run("export", converted, tmp_path / "weights.pth", "--format", layout)
    assert exported.exit_code == 0, exported.output
    tokenizer, captions = converted, CAPTIONS
    told = ("--activation", "quick_gelu", "--heads", "1,1") if layout == "openai" else ()
    if layout == "research":
        # The mask replaces the last merged token: captions that contain it are tokenized differently.
        tokenizer = tmp_path / "tokenizer"
        clips = train_tokenizer(CAPTIONS * 3, vocab_size=560, max_length=24)
        clips.save_pretrained(tokenizer)
        captions = [caption for caption in CAPTIONS if len(clips) - 3 not in clips(caption)["input_ids"]]
        assert len(captions) == 3
    again = run(
        "convert", tmp_path / "weights.pth", tmp_path / "again",
        "--tokenizer", tokenizer, "--image-size", "32x16", "--source-image-size", "32x16", *told,
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    assert_same_embeddings(tmp_path / "again", converted, captions, rtol=0, atol=0)


def test_exporting_to_onnx_with_int8(tmp_path, converted):
    result = run("export", converted, tmp_path / "onnx", "--format", "onnx", "--int8")
    assert result.exit_code == 0, result.output
    assert "opset 18" in result.output and "int8 embeddings" in result.output
    assert {"image_encoder.onnx", "text_encoder_int8.onnx"} <= {path.name for path in (tmp_path / "onnx").iterdir()}


def test_converting_an_adapter_merges_it(tmp_path, model_folder, processor):
    start = ModelArguments(from_pretrained=str(model_folder), config={"num_identities": 3})
    wrapped = add_adapter(build_model_and_processor(start, [])[0], AdapterArguments(), str(model_folder))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    wrapped.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    result = run("convert", tmp_path / "adapter", tmp_path / "merged")
    assert result.exit_code == 0, result.output
    assert "adapted layers merged into" in result.output
    assert_same_embeddings(tmp_path / "merged", tmp_path / "adapter", rtol=0, atol=1e-6)
    with pytest.raises(AssertionError):
        assert_same_embeddings(tmp_path / "merged", model_folder, rtol=0, atol=1e-3)
    assert "from its base" in refusal("convert", tmp_path / "adapter", tmp_path / "x", "--image-size", "32x16")


@pytest.mark.parametrize("size", ["384", "384x", "384X128", "384x128x3", "-384x128", "3.5x2", ""])
def test_a_malformed_size_is_named(tmp_path, clip_folder, size):
    error = refusal("convert", clip_folder, tmp_path / "ours", f"--image-size={size}")
    assert f"--image-size {size!r} must be HEIGHTxWIDTH" in error
    assert not (tmp_path / "ours").exists()


def test_what_cannot_be_converted_is_refused_and_leaves_nothing(tmp_path, model_folder, clip_folder):
    assert "already" in refusal("convert", model_folder, tmp_path / "ours")
    assert "no file" in refusal("convert", tmp_path / "none.pth", tmp_path / "ours")
    assert "not a multiple" in refusal("convert", clip_folder, tmp_path / "ours", "--image-size", "50x16")
    assert "already exists" in refusal("convert", clip_folder, model_folder)
    assert not (tmp_path / "ours").exists()


def test_int8_goes_with_onnx_alone(tmp_path, converted):
    error = refusal("export", converted, tmp_path / "weights.pth", "--format", "openai", "--int8")
    assert "--int8 requires --format onnx, not openai" in error


def test_an_export_that_older_code_would_compute_otherwise_is_refused(tmp_path, model_folder):
    error = refusal("export", model_folder, tmp_path / "weights.pth", "--format", "openai")
    assert "OpenAI's code would compute different embeddings" in error
    assert not (tmp_path / "weights.pth").exists()
