"""Exports in OpenAI's layout: the oracle loads them, and converting them again restores the model."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPTokenizer

from modeling_gadms import GADMSConfig, GADMSForPreTraining, GADMSModel, GADMSProcessor
from modeling_gadms.conversion.converter import convert
from modeling_gadms.conversion.openai_export import export_checkpoint
from modeling_gadms.training.tokenizer import train_tokenizer
from tests.dual_encoders import save_dual_encoder
from tests.modeling_gadms.conversion.openai_clip import (
    Clip,
    ResearchModel,
    assert_encodes_as,
    assert_fuses_as,
    without_settings,
)


CAPTIONS = ["a man in a red coat", "a woman in a red hat and blue jeans", "trousers trousers trousers"]


@pytest.fixture(scope="module")
def plain_tokenizer() -> CLIPTokenizer:
    return train_tokenizer(CAPTIONS * 4, vocab_size=540, max_length=24)


@pytest.fixture
def tokenizer_folder(tmp_path, plain_tokenizer) -> Path:
    plain_tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def appended_config(tokens: int, **fields) -> GADMSConfig:
    """Heads of 64 channels; `tokens` tokens with BOS and EOS last, and the mask token appended."""
    text = {
        "vocab_size": tokens + 1,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "max_position_embeddings": 24,
        "bos_token_id": tokens - 2,
        "eos_token_id": tokens - 1,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": (48, 16),
        "patch_size": 8,
    }
    sizes = {
        "projection_dim": 64,
        "mask_token_id": tokens,
        "score_layers": 2,
        "fusion_num_hidden_layers": 2,
        "fusion_num_attention_heads": 1,
        "fusion_intermediate_size": 96,
        "num_identities": 3,
    }
    own = {
        "text_config": text | fields.pop("text_config", {}),
        "vision_config": vision | fields.pop("vision_config", {}),
    }
    return GADMSConfig(**(sizes | own | fields))


@pytest.fixture
def saved(tmp_path, plain_tokenizer):
    """A function that saves a random, seeded model with its processor; keyword arguments as above."""

    def save(model_class=GADMSForPreTraining, dtype=torch.float32, **fields):
        torch.manual_seed(0)
        model = model_class(appended_config(len(plain_tokenizer), **fields))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "logit_scale" not in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.to(dtype).save_pretrained(tmp_path / "model")
        plain_tokenizer.save_pretrained(tmp_path / "copy")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "copy")
        GADMSProcessor.from_tokenizer(tokenizer, image_size=model.config.image_size).save_pretrained(
            tmp_path / "model"
        )
        return model.eval(), tmp_path / "model"

    return save


def state_of(folder: Path, model_class=GADMSForPreTraining) -> dict[str, torch.Tensor]:
    model, loading = model_class.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    return model.state_dict()


def assert_equal_states(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


# ---------------------------------------------------------------------------------------------------------------------
# There and back.
# ---------------------------------------------------------------------------------------------------------------------
def test_openai_code_loads_an_export_and_computes_the_same(tmp_path, saved):
    model, folder = saved()
    report = export_checkpoint(folder, tmp_path / "clip.pt", layout="openai")
    state = torch.load(tmp_path / "clip.pt", weights_only=True)
    clip = without_settings(Clip(vocab_size=model.config.text_config.vocab_size, grid=(6, 2), text_layers=2))
    clip.visual.transformer, clip.transformer = narrow(clip.visual.transformer), narrow(clip.transformer)
    clip.load_state_dict(state)
    clip.requires_grad_(False)
    with torch.inference_mode():
        input_ids = torch.tensor([model.config.text_config.bos_token_id, 5, 6, model.config.text_config.eos_token_id])
        ours = model.gadms.get_text_features(input_ids[None])
        torch.testing.assert_close(ours.pooler_output[0], clip.embed_text(input_ids), rtol=0, atol=1e-5)
        image = torch.randn(3, 48, 16, generator=torch.Generator().manual_seed(0))
        ours = model.gadms.get_image_features(image[None])
        torch.testing.assert_close(ours.last_hidden_state[0], clip.visual(image), rtol=0, atol=1e-5)
    torch.testing.assert_close(clip.logit_scale.exp(), torch.tensor(1 / 0.02))
    assert report.written == len(state)


def narrow(transformer):
    """Replace the layers by ones with feed-forward blocks of width 96."""
    width, layers = transformer.resblocks[0].attn.out_proj.weight.shape[0], len(transformer.resblocks)
    return type(transformer)(width, layers, 96)


@pytest.mark.parametrize("grid", [(4, 4), (4, 2), (3, 5)])
def test_an_openai_checkpoint_comes_back_bit_by_bit(tmp_path, plain_tokenizer, tokenizer_folder, grid):
    clip = Clip(vocab_size=len(plain_tokenizer), grid=grid)
    torch.save(clip.state_dict(), tmp_path / "clip.pth")
    size = {"image_size": clip.image_size, "source_image_size": clip.image_size}
    convert(tmp_path / "clip.pth", tmp_path / "ours", tokenizer=tokenizer_folder, **size)
    export_checkpoint(tmp_path / "ours", tmp_path / "back.pth", layout="openai")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    row = back["token_embedding.weight"]
    assert len(row) == len(plain_tokenizer) + 1  # with the mask token
    assert_equal_states(back | {"token_embedding.weight": row[:-1]}, dict(clip.named_parameters()))

    told = {"activation": "quick_gelu", "heads": (2, 1)}  # OpenAI's archives tell it by settings among the tensors
    convert(tmp_path / "back.pth", tmp_path / "again", tokenizer=tmp_path / "ours", **size, **told)
    assert_equal_states(state_of(tmp_path / "again", GADMSModel), state_of(tmp_path / "ours", GADMSModel))
    one, two = (GADMSConfig.from_pretrained(tmp_path / name) for name in ("ours", "again"))
    assert one.to_dict() == two.to_dict()


@pytest.mark.parametrize("fusion_layers", [2, 0, None])
@pytest.mark.parametrize("identities", [0, 5])
def test_a_research_checkpoint_comes_back_bit_by_bit(
    tmp_path, plain_tokenizer, tokenizer_folder, fusion_layers, identities
):
    sizes = {"fusion_layers": fusion_layers, "identities": identities}
    research = ResearchModel(vocab_size=len(plain_tokenizer), grid=(6, 2), **sizes)
    torch.save(research.state_dict(), tmp_path / "research.pth")
    convert(tmp_path / "research.pth", tmp_path / "ours", tokenizer=tokenizer_folder)
    report = export_checkpoint(tmp_path / "ours", tmp_path / "back.pth", layout="research")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == {"model"}
    assert_equal_states(back["model"], research.state_dict())
    assert report.written == len(research.state_dict())

    convert(tmp_path / "back.pth", tmp_path / "again", tokenizer=tokenizer_folder)
    model_class = GADMSModel if fusion_layers is None and not identities else GADMSForPreTraining
    assert_equal_states(state_of(tmp_path / "again", model_class), state_of(tmp_path / "ours", model_class))


def test_an_appended_mask_takes_the_place_of_the_last_piece(tmp_path, saved, plain_tokenizer, tokenizer_folder):
    """Embeddings, fused tokens and logits of captions without that token are unchanged."""
    model, folder = saved()
    tokens = len(plain_tokenizer)
    report = export_checkpoint(folder, tmp_path / "research.pth", layout="research")
    state = torch.load(tmp_path / "research.pth", weights_only=True)["model"]
    embedding = model.gadms.text_model.embeddings.token_embedding.weight
    assert torch.equal(state["base_model.token_embedding.weight"][tokens - 3], embedding[tokens])
    assert torch.equal(state["base_model.token_embedding.weight"][tokens - 2 :], embedding[tokens - 2 : tokens])
    assert torch.equal(state["mlm_head.fc.weight"][tokens - 3], model.token_head.decoder.weight[tokens])
    assert torch.equal(state["mlm_head.fc.bias"][tokens - 3], model.token_head.decoder.bias[tokens])
    assert f"moved from {tokens} to {tokens - 3}, where it replaces the last merged token" in report.to_text()

    convert(tmp_path / "research.pth", tmp_path / "again", tokenizer=tokenizer_folder)
    again = GADMSForPreTraining.from_pretrained(tmp_path / "again").eval()
    processors = GADMSProcessor.from_pretrained(folder), GADMSProcessor.from_pretrained(tmp_path / "again")
    captions = [text for text in CAPTIONS if tokens - 3 not in plain_tokenizer(text)["input_ids"]]
    assert captions
    pixel_values = torch.randn(1, 3, 48, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for text in captions:
            fused = []
            for each, processor in zip((model, again), processors, strict=True):
                inputs = processor(text=text)
                masked = inputs["input_ids"].clone()
                masked[0, 2] = each.config.mask_token_id
                tokens_of = each.gadms.get_text_features(masked).last_hidden_state
                fused.append(
                    each.fusion(tokens_of, each.gadms.get_image_features(pixel_values).last_hidden_state, None)
                )
                fused.append(each.gadms.get_text_features(**inputs).pooler_output)
            torch.testing.assert_close(fused[2], fused[0], rtol=0, atol=1e-6)
            torch.testing.assert_close(fused[3], fused[1], rtol=0, atol=1e-6)
            logits = model.token_head(fused[0])[..., : tokens - 3], again.token_head(fused[2])[..., : tokens - 3]
            torch.testing.assert_close(*logits, rtol=0, atol=1e-5)


def test_an_exported_model_comes_back_with_its_own_tokenizer(tmp_path, saved, tokenizer_folder):
    """As with the tokenizer without a mask token, which only the training had."""
    _, folder = saved()
    export_checkpoint(folder, tmp_path / "research.pth", layout="research")
    convert(tmp_path / "research.pth", tmp_path / "again", tokenizer=folder)
    convert(tmp_path / "research.pth", tmp_path / "plain", tokenizer=tokenizer_folder)
    assert_equal_states(state_of(tmp_path / "again"), state_of(tmp_path / "plain"))
    again, plain = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("again", "plain"))
    assert again.get_vocab() == plain.get_vocab() and again.mask_token_id == plain.mask_token_id
    for text in CAPTIONS:
        assert again(text)["input_ids"] == plain(text)["input_ids"]


def test_research_code_loads_an_export_and_computes_the_same(tmp_path, plain_tokenizer, tokenizer_folder):
    research = ResearchModel(vocab_size=len(plain_tokenizer), grid=(6, 2), identities=2)
    torch.save({"model": research.state_dict()}, tmp_path / "research.pth")
    convert(tmp_path / "research.pth", tmp_path / "ours", tokenizer=tokenizer_folder)
    export_checkpoint(str(tmp_path / "ours"), str(tmp_path / "back.pth"), layout="research")
    other = ResearchModel(vocab_size=len(plain_tokenizer), grid=(6, 2), identities=2)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True)["model"])
    model = GADMSForPreTraining.from_pretrained(tmp_path / "ours")
    assert_encodes_as(model.gadms, other.base_model)
    assert_fuses_as(model, other)


# ---------------------------------------------------------------------------------------------------------------------
# What is said of it.
# ---------------------------------------------------------------------------------------------------------------------
def test_every_tensor_is_written_or_left_out_with_a_reason(tmp_path, saved):
    model, folder = saved()
    state = model.state_dict()
    report = export_checkpoint(folder, tmp_path / "clip.pt", layout="openai")
    added = {name for name in state if not name.startswith("gadms.")}
    assert report.skipped == dict.fromkeys(added, "not part of OpenAI's CLIP")
    assert "skipped (not part of OpenAI's CLIP): fusion.layers.*.self_attn" in report.to_text()
    assert "OpenAI's code takes it for the end of a caption" in report.to_text()
    report = export_checkpoint(folder, tmp_path / "research.pth", layout="research")
    assert report.skipped == {"gadms.logit_scale": "the temperature is a setting of research code: 0.02"}


def test_a_mask_in_the_place_of_a_piece_is_told_to_users_of_openais_code(tmp_path, plain_tokenizer, tokenizer_folder):
    research = ResearchModel(vocab_size=len(plain_tokenizer), grid=(6, 2), fusion_layers=None)
    torch.save(research.state_dict(), tmp_path / "research.pth")
    convert(tmp_path / "research.pth", tmp_path / "ours", tokenizer=tokenizer_folder)
    report = export_checkpoint(tmp_path / "ours", tmp_path / "clip.pt", layout="openai")
    mask = len(plain_tokenizer) - 3
    assert f"mask token: {mask}; without a mask token it is the last merged token" in report.to_text()
    state = torch.load(tmp_path / "clip.pt", weights_only=True)
    assert torch.equal(state["token_embedding.weight"], research.base_model.token_embedding.weight)


@pytest.mark.parametrize(("log_scale", "expected"), [(3.0, 3.0), (7.0, 4.605170)])
def test_a_learned_temperature_is_written_as_the_model_reads_it(tmp_path, saved, log_scale, expected):
    model, folder = saved(GADMSModel, learn_temperature=True)
    model.logit_scale.data.fill_(log_scale)
    model.save_pretrained(folder)
    export_checkpoint(folder, tmp_path / "clip.pt", layout="openai")
    written = torch.load(tmp_path / "clip.pt", weights_only=True)["logit_scale"]
    torch.testing.assert_close(written, torch.tensor(expected))


def test_a_temperature_that_was_set_anew_is_the_one_written(tmp_path, saved):
    _, folder = saved(GADMSModel)
    config = json.loads((folder / "config.json").read_text()) | {"temperature": 0.5}
    (folder / "config.json").write_text(json.dumps(config))
    export_checkpoint(folder, tmp_path / "clip.pt", layout="openai")
    written = torch.load(tmp_path / "clip.pt", weights_only=True)["logit_scale"]
    torch.testing.assert_close(written.exp(), torch.tensor(2.0))


def test_half_precision_is_written_as_float32_and_the_report_says_so(tmp_path, saved):
    _, folder = saved(dtype=torch.bfloat16)
    report = export_checkpoint(folder, tmp_path / "research.pth", layout="research")
    state = torch.load(tmp_path / "research.pth", weights_only=True)["model"]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert "precision: bfloat16 weights were cast to float32" in report.to_text()


# ---------------------------------------------------------------------------------------------------------------------
# What older code would compute otherwise, and other mistakes.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "layout", "message"),
    [
        (
            {"text_config": {"num_attention_heads": 2}},
            "openai",
            "its text encoder has 2 attention heads for a width of 64",
        ),
        ({"vision_config": {"num_attention_heads": 4}}, "openai", "its image encoder has 4 attention heads"),
        ({"fusion_num_attention_heads": 4}, "research", "its fusion encoder has 4 attention heads"),
        (
            {"image_pooling": "patches"},
            "openai",
            "its images are embedded by image_pooling = patches, not by the class",
        ),
        ({"text_config": {"hidden_act": "gelu"}}, "openai", "its text encoder has hidden_act = gelu, not quick_gelu"),
        ({"vision_config": {"hidden_act": "gelu"}}, "research", "its image encoder has hidden_act = gelu"),
        (
            {"vision_config": {"layer_norm_eps": 1e-6}},
            "openai",
            "its image encoder has layer_norm_eps = 1e-06, not 1e-5",
        ),
        ({"text_config": {"eos_token_id": 5}}, "openai", "embeds a caption at its largest id, but here EOS is 5 of"),
        ({"text_config": {"eos_token_id": 5}}, "research", "embeds a caption at its largest id, but here EOS is 5 of"),
    ],
)
def test_a_model_that_older_code_would_compute_otherwise_is_refused(tmp_path, saved, fields, layout, message):
    _, folder = saved(**fields)
    with pytest.raises(ValueError, match=f"{folder}: .*{message}"):
        export_checkpoint(folder, tmp_path / "out.pth", layout=layout)
    assert not (tmp_path / "out.pth").exists()


def test_heads_of_the_fusion_encoder_matter_only_where_it_is_exported(tmp_path, saved):
    _, folder = saved(fusion_num_attention_heads=4)
    export_checkpoint(folder, tmp_path / "clip.pt", layout="openai")


def test_a_mask_in_another_place_is_refused_for_research_code_alone(tmp_path, saved, plain_tokenizer):
    tokens = len(plain_tokenizer) + 1
    _, folder = saved(mask_token_id=7, text_config={"eos_token_id": tokens - 1})
    with pytest.raises(ValueError, match=f"has its mask token at {tokens - 3} of {tokens} tokens, but here it is 7"):
        export_checkpoint(folder, tmp_path / "research.pth", layout="research")
    export_checkpoint(folder, tmp_path / "clip.pt", layout="openai")


def test_a_target_that_is_there_stays_as_it_is(tmp_path, saved):
    _, folder = saved()
    (tmp_path / "mine.pth").write_text("mine")
    with pytest.raises(FileExistsError, match="mine.pth exists already"):
        export_checkpoint(folder, tmp_path / "mine.pth", layout="openai")
    assert (tmp_path / "mine.pth").read_text() == "mine"


def test_mistaken_arguments_are_named(tmp_path, saved):
    _, folder = saved()
    with pytest.raises(ValueError, match="layout = 'onnx' must be 'openai' or 'research'"):
        export_checkpoint(folder, tmp_path / "out.pth", layout="onnx")
    with pytest.raises(ValueError, match="out.safetensors must end in one of .pt, .pth, .bin"):
        export_checkpoint(folder, tmp_path / "out.safetensors", layout="openai")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match="holds a model of type 'clip', not a GA-DMS one"):
        export_checkpoint(tmp_path / "other", tmp_path / "out.pth", layout="openai")
    with pytest.raises(OSError):
        export_checkpoint(tmp_path / "nothing", tmp_path / "out.pth", layout="openai")


def test_encoders_that_are_not_clips_are_refused(tmp_path):
    save_dual_encoder("SigLIP 2", tmp_path / "siglip")
    fields = {"score_layers": 1, "fusion_num_attention_heads": 2}
    model = GADMSModel.from_dual_encoder(tmp_path / "siglip", image_size=(32, 16), **fields)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="are of type siglip_text_model and siglip_vision_model; export it to ONNX"):
        export_checkpoint(tmp_path / "model", tmp_path / "out.pth", layout="openai")
