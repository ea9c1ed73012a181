"""Weight files of OpenAI's CLIP and of research code: converted models compute the same, invalid files are refused."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoProcessor, AutoTokenizer, CLIPTokenizer

import modeling_gadms
from modeling_gadms import GADMSForPreTraining, GADMSModel
from modeling_gadms.conversion import converter
from modeling_gadms.conversion.converter import convert
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.modeling_gadms import resize_patch_positions
from modeling_gadms.training.tokenizer import train_tokenizer
from tests.modeling_gadms.conversion.openai_clip import (
    CAPTIONS,
    Clip,
    ResearchModel,
    assert_encodes_as,
    assert_fuses_as,
    images_of,
)


@pytest.fixture(scope="session")
def clip(vocab_size) -> Clip:
    return Clip(vocab_size=vocab_size)


@pytest.fixture(scope="session")
def research(vocab_size) -> ResearchModel:
    """Images of 48x16."""
    return ResearchModel(vocab_size=vocab_size, grid=(6, 2), identities=5)


@pytest.fixture
def source(tmp_path):
    """A function that writes a checkpoint and returns its path."""

    def write(content, name: str = "checkpoint.pth"):
        save_file(content, tmp_path / name) if name.endswith("safetensors") else torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The same numbers, whatever the wrapper.
# ---------------------------------------------------------------------------------------------------------------------
WRAPPERS = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "optimizer": {"param_groups": []}},
    "module": lambda state: prefixed(state, "module."),
    "module in model": lambda state: {"model": prefixed(state, "module.")},
    "module below a prefix": lambda state: {name.replace("visual.", "visual.module."): t for name, t in state.items()},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_an_openai_checkpoint_computes_the_same_in_every_wrapper(tmp_path, source, clip, tokenizer_folder, wrap):
    path = source(wrap(clip.state_dict()))
    report = convert(path, tmp_path / "ours", image_size=clip.image_size, tokenizer=tokenizer_folder)
    model, _ = load_model_and_processor(tmp_path / "ours")
    assert_encodes_as(model, clip)
    assert report.layout == "openai" and report.model == "GADMSModel"
    assert report.used == len(list(clip.parameters()))


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_research_checkpoint_computes_the_same_in_every_wrapper(tmp_path, source, research, tokenizer_folder, wrap):
    path = source(wrap(research.state_dict()))
    report = convert(path, tmp_path / "ours", tokenizer=tokenizer_folder)
    model = GADMSForPreTraining.from_pretrained(tmp_path / "ours")
    assert_encodes_as(model.gadms, research.base_model)
    assert_fuses_as(model, research)
    assert torch.equal(model.classifier.weight, research.classifier.weight)
    assert torch.equal(model.classifier.bias, research.classifier.bias)
    assert report.layout == "research" and report.model == "GADMSForPreTraining"
    assert report.used == len(research.state_dict())


def test_safetensors_and_other_suffixes_compute_the_same(tmp_path, source, clip, tokenizer_folder):
    for number, name in enumerate(("clip.safetensors", "clip.pt", "clip.bin")):
        path = source({key: tensor.clone() for key, tensor in clip.state_dict().items()}, name)
        convert(path, tmp_path / str(number), image_size=clip.image_size, tokenizer=tokenizer_folder)
        assert_encodes_as(GADMSModel.from_pretrained(tmp_path / str(number)), clip)


@pytest.mark.parametrize("grid", [(6, 2), (4, 2), (3, 5), (5, 1)])
@pytest.mark.parametrize("patch_size", [7, 16])
def test_rectangular_and_odd_sizes_compute_the_same(tmp_path, source, vocab_size, tokenizer_folder, grid, patch_size):
    clip = Clip(vocab_size=vocab_size, grid=grid, patch_size=patch_size)
    convert(
        source(clip.state_dict()), tmp_path / "ours", tokenizer=tokenizer_folder, source_image_size=clip.image_size
    )
    model = GADMSModel.from_pretrained(tmp_path / "ours")
    assert model.config.image_size == clip.image_size
    assert_encodes_as(model, clip)


@pytest.mark.parametrize(
    "sizes",
    [
        {"vision_width": 64, "vision_layers": 1, "text_width": 192, "text_layers": 1},
        {"vision_layers": 11, "projection": 128, "context_length": 30},
        {"text_layers": 10, "projection": 40},  # no fusion encoder, so any width
    ],
)
def test_widths_and_depths_are_read_from_shapes(tmp_path, source, vocab_size, tokenizer_folder, sizes):
    clip = Clip(vocab_size=vocab_size, **sizes)
    convert(source(clip.state_dict()), tmp_path / "ours", image_size=clip.image_size, tokenizer=tokenizer_folder)
    model, processor = load_model_and_processor(tmp_path / "ours")
    assert_encodes_as(model, clip)
    assert model.config.score_layers == min(8, len(clip.transformer.resblocks))
    assert processor.tokenizer.model_max_length == len(clip.positional_embedding)


@pytest.mark.parametrize(
    "sizes", [{"projection": 128, "fusion_layers": 1}, {"fusion_layers": 0}, {"feed_forward": 256}]
)
def test_fusion_encoders_of_any_size_compute_the_same(tmp_path, source, vocab_size, tokenizer_folder, sizes):
    research = ResearchModel(vocab_size=vocab_size, grid=(4, 2), **sizes)
    convert(source({"model": research.state_dict()}), tmp_path / "ours", tokenizer=tokenizer_folder)
    model = GADMSForPreTraining.from_pretrained(tmp_path / "ours")
    assert model.config.masked_token_prediction and model.classifier is None
    assert_fuses_as(model, research)


@pytest.mark.parametrize("identities", [0, 5])
def test_research_encoders_without_a_fusion_encoder_compute_the_same(
    tmp_path, source, vocab_size, tokenizer_folder, identities
):
    research = ResearchModel(vocab_size=vocab_size, grid=(6, 2), fusion_layers=None, identities=identities)
    report = convert(source(research.state_dict()), tmp_path / "ours", tokenizer=tokenizer_folder)
    assert report.model == ("GADMSForPreTraining" if identities else "GADMSModel")
    model, processor = load_model_and_processor(tmp_path / "ours")
    assert_encodes_as(model, research.base_model)
    assert not model.config.masked_token_prediction and model.config.num_identities == identities
    assert processor.tokenizer.mask_token_id == vocab_size - 3


def test_research_parts_beside_unprefixed_encoders_are_found(tmp_path, source, research, tokenizer_folder):
    state = {name.removeprefix("base_model."): tensor for name, tensor in research.state_dict().items()}
    assert convert(source(state), tmp_path / "ours", tokenizer=tokenizer_folder).layout == "research"
    assert_fuses_as(GADMSForPreTraining.from_pretrained(tmp_path / "ours"), research)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_and_the_report_says_so(tmp_path, source, vocab_size, tokenizer_folder, dtype):
    clip = Clip(vocab_size=vocab_size).to(dtype)
    path = source(clip.state_dict())
    report = convert(path, tmp_path / "ours", image_size=clip.image_size, tokenizer=tokenizer_folder)
    assert {tensor.dtype for tensor in load_file(tmp_path / "ours" / "model.safetensors").values()} == {torch.float32}
    assert_encodes_as(GADMSModel.from_pretrained(tmp_path / "ours"), clip.float())
    count, name = len(list(clip.parameters())), str(dtype).removeprefix("torch.")
    assert f"precision: {count} tensors of {name} were cast to float32" in report.to_text()


def test_the_temperature_is_the_checkpoints_own(tmp_path, source, clip, research, tokenizer_folder):
    convert(source(clip.state_dict()), tmp_path / "clip", image_size=clip.image_size, tokenizer=tokenizer_folder)
    model = GADMSModel.from_pretrained(tmp_path / "clip")
    torch.testing.assert_close(model.temperature, torch.tensor(math.exp(-3.2)))
    assert torch.equal(model.logit_scale, clip.logit_scale)

    report = convert(source(research.state_dict()), tmp_path / "research", tokenizer=tokenizer_folder)
    torch.testing.assert_close(GADMSModel.from_pretrained(tmp_path / "research").temperature, torch.tensor(0.02))
    assert "temperature: the default; the file contains none" in report.to_text()

    state = research.state_dict() | {"logit_scale": torch.tensor([2.0])}
    convert(source(state), tmp_path / "learned", tokenizer=tokenizer_folder)
    temperature = GADMSModel.from_pretrained(tmp_path / "learned").temperature
    torch.testing.assert_close(temperature, torch.tensor(math.exp(-2.0)))


def test_what_a_training_would_do_with_it_works(tmp_path, source, research, tokenizer_folder):
    convert(source(research.state_dict()), tmp_path / "ours", tokenizer=tokenizer_folder)
    model = GADMSForPreTraining.from_pretrained(tmp_path / "ours").train()
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    inputs = processor(text=["a man in a red coat"] * 2)
    torch.manual_seed(0)
    outputs = model(**inputs, pixel_values=images_of(model.config.image_size), person_ids=torch.tensor([0, 4]))
    (outputs.mtp_loss + outputs.identity_loss).backward()
    assert model.fusion.cross_attention.in_proj_weight.grad.abs().sum() > 0


# ---------------------------------------------------------------------------------------------------------------------
# Every entry is accounted for.
# ---------------------------------------------------------------------------------------------------------------------
def test_every_entry_is_used_or_ignored_with_a_reason(tmp_path, source, research, tokenizer_folder):
    state = research.state_dict() | {
        "base_model.input_resolution": torch.tensor(48),
        "base_model.context_length": 24,
        "base_model.transformer.resblocks.0.attn_mask": torch.full((3, 3), -torch.inf),
        "queue": torch.zeros(4),
    }
    wrapped = {"model": state, "epoch": 3, "optimizer": {"state": {}}, "best": [0.1]}
    report = convert(source(wrapped), tmp_path / "ours", tokenizer=tokenizer_folder)
    assert report.used == len(research.state_dict())
    assert report.ignored == {
        "epoch": "not in `model`, which contains the weights",
        "optimizer": "not in `model`, which contains the weights",
        "best": "not in `model`, which contains the weights",
        "base_model.input_resolution": "a setting, which is inferred from shapes",
        "base_model.context_length": "not a tensor",
        "base_model.transformer.resblocks.0.attn_mask": "a constant, which is recomputed",
        "queue": "used in training only",
    }
    assert "ignored (used in training only): queue" in report.to_text()


@pytest.mark.parametrize(
    "lost",
    [
        "base_model.visual.proj",
        "base_model.visual.conv1.weight",
        "base_model.token_embedding.weight",
        "base_model.transformer.resblocks.1.attn.in_proj_bias",
        "base_model.visual.transformer.resblocks.1.mlp.c_fc.weight",
        "cross_attn.out_proj.bias",
        "cross_modal_transformer.resblocks.0.ln_2.weight",
        "ln_post.weight",
        "mlm_head.fc.bias",
    ],
)
def test_a_missing_tensor_is_named(tmp_path, source, research, tokenizer_folder, lost):
    state = {name: tensor for name, tensor in research.state_dict().items() if name != lost}
    with pytest.raises(ValueError, match=f"checkpoint.pth: it lacks 1 required tensors: {lost}$"):
        convert(source(state), tmp_path / "ours", tokenizer=tokenizer_folder)
    assert not (tmp_path / "ours").exists()


def test_a_token_head_without_a_fusion_encoder_is_refused(tmp_path, source, research, tokenizer_folder):
    state = {n: t for n, t in research.state_dict().items() if not n.startswith(("cross", "ln_"))}
    with pytest.raises(ValueError, match="it lacks 10 required tensors: "):  # missing layers cannot be counted
        convert(source(state), tmp_path / "ours", tokenizer=tokenizer_folder)


@pytest.mark.parametrize(
    "stack", ["base_model.visual.transformer", "base_model.transformer", "cross_modal_transformer"]
)
def test_a_layer_left_out_is_named(tmp_path, source, research, tokenizer_folder, stack):
    state = {n: t for n, t in research.state_dict().items() if not n.startswith(f"{stack}.resblocks.0.")}
    with pytest.raises(ValueError, match=f"but not layer 0: `{stack}.resblocks.0.ln_1.weight`"):
        convert(source(state), tmp_path / "ours", tokenizer=tokenizer_folder)


def test_a_layer_of_an_absurd_number_is_refused_at_once(tmp_path, source, clip, tokenizer_folder):
    state = clip.state_dict() | {"transformer.resblocks.999999999999.ln_1.weight": torch.zeros(64)}
    with pytest.raises(ValueError, match="has layer 999999999999 .* `transformer.resblocks.3.ln_1.weight`"):
        convert(source(state), tmp_path / "ours", tokenizer=tokenizer_folder)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("base_model.visual.transformer.resblocks.1.ln_1.weight", (64,), r"\(128,\)"),
        ("base_model.transformer.resblocks.2.attn.in_proj_weight", (192, 32), r"\(192, 64\)"),
        ("base_model.visual.proj", (64, 128), r"\(128, 64\)"),
        ("base_model.positional_embedding", (24, 32), r"\(24, 64\)"),
        ("base_model.visual.positional_embedding", (13, 64), r"\(13, 128\)"),
        ("cross_modal_transformer.resblocks.1.mlp.c_proj.weight", (64, 128), r"\(64, 96\)"),
        ("mlm_head.fc.weight", (100, 64), r"\(\d+, 64\)"),
        ("base_model.text_projection", (64,), r"\(width, projection\)"),
        ("base_model.token_embedding.weight", (), r"\(tokens, width\)"),
        ("base_model.visual.conv1.weight", (128, 4, 8, 8), r"\(width, 3, side, side\)"),
        ("base_model.visual.conv1.weight", (128, 3, 8, 4), r"\(width, 3, side, side\)"),
        ("classifier.weight", (0, 64), r"\(identities, width\)"),
    ],
)
def test_a_tensor_of_another_shape_is_named(tmp_path, source, research, tokenizer_folder, name, shape, expected):
    state = research.state_dict() | {name: torch.zeros(shape)}
    found = str(tuple(shape)).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=f"`{name}` has shape {found},.*{expected}"):
        convert(source(state), tmp_path / "ours", tokenizer=tokenizer_folder)


def test_a_width_of_no_whole_heads_is_refused(tmp_path, source, vocab_size, tokenizer_folder):
    for encoder, sizes in (("image", {"vision_width": 96}), ("text", {"text_width": 32})):
        path = source(Clip(vocab_size=vocab_size, **sizes).state_dict())
        with pytest.raises(ValueError, match=f"its {encoder} encoder has width {96 if encoder == 'image' else 32}"):
            convert(path, tmp_path / "ours", image_size=(32, 32), tokenizer=tokenizer_folder)
    path = source(ResearchModel(vocab_size=vocab_size, projection=96, grid=(4, 2)).state_dict())
    with pytest.raises(ValueError, match="its fusion encoder has width 96, which is not a multiple of 64"):
        convert(path, tmp_path / "ours", tokenizer=tokenizer_folder)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"visual.layer1.0.conv1.weight": torch.zeros(1)}, "a ResNet .`visual.layer1.0.conv1.weight`"),
        ({"base_model.visual.attnpool.k_proj.bias": torch.zeros(1)}, "a ResNet .`base_model.visual.attnpool"),
        ({"vision_model.post_layernorm.bias": torch.zeros(1)}, "give the folder with its config.json"),
        ({"gadms.logit_scale": torch.zeros(1)}, "a GA-DMS model already"),
        ({"fc.weight": torch.zeros(1)}, "not a CLIP checkpoint: none of its 1 names is CLIP's, such as fc.weight"),
    ],
)
def test_another_kind_of_model_is_refused_by_what_it_has(tmp_path, source, tokenizer_folder, state, message):
    with pytest.raises(ValueError, match=message):
        convert(source(state), tmp_path / "ours", tokenizer=tokenizer_folder)


# ---------------------------------------------------------------------------------------------------------------------
# Patch positions.
# ---------------------------------------------------------------------------------------------------------------------
def plainly_resized(positions: torch.Tensor, source: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """Resize each channel by itself."""
    images = [positions[1:, channel].reshape(1, 1, *source) for channel in range(positions.shape[1])]
    resized = [nn.functional.interpolate(image, target, mode="bicubic", align_corners=False) for image in images]
    return torch.cat([positions[:1], torch.stack([image.flatten() for image in resized], dim=1)])


@pytest.mark.parametrize(
    ("grid", "image_size", "source_image_size", "found"),
    [
        ((4, 4), (48, 16), None, (4, 4)),
        ((6, 2), (32, 32), None, (6, 2)),
        ((4, 2), (48, 16), None, (4, 2)),
        ((3, 5), (40, 16), (24, 40), (3, 5)),
        ((4, 4), (64, 16), (32, 32), (4, 4)),
    ],
)
def test_positions_are_resized_from_the_grid_of_the_source(
    tmp_path, source, vocab_size, tokenizer_folder, grid, image_size, source_image_size, found
):
    clip = Clip(vocab_size=vocab_size, grid=grid)
    report = convert(
        source(clip.state_dict()),
        tmp_path / "ours",
        image_size=image_size,
        source_image_size=source_image_size,
        tokenizer=tokenizer_folder,
    )
    target = (image_size[0] // 8, image_size[1] // 8)
    ours = GADMSModel.from_pretrained(tmp_path / "ours").vision_model.embeddings.position_embedding.weight
    torch.testing.assert_close(ours, plainly_resized(clip.visual.positional_embedding, found, target))
    assert f"resized from {found[0]}x{found[1]} to {target[0]}x{target[1]} patches" in report.to_text()
    assert AutoProcessor.from_pretrained(tmp_path / "ours").image_size == image_size


@pytest.mark.parametrize("source_grid", [(6, 2), (3, 5), (1, 7)])
def test_positions_of_a_rectangle_are_resized_or_kept(source_grid):
    positions = torch.randn(1 + source_grid[0] * source_grid[1], 3, generator=torch.Generator().manual_seed(0))
    for grid in ((4, 4), (24, 8), (2, 9)):
        resized = resize_patch_positions(positions, grid, source_grid)
        torch.testing.assert_close(resized, plainly_resized(positions, source_grid, grid))
    assert torch.equal(resize_patch_positions(positions, source_grid, source_grid), positions)
    with pytest.raises(ValueError, match="patch positions do not fill a grid of 5x5"):
        resize_patch_positions(positions, (4, 4), (5, 5))


def test_by_default_a_square_becomes_a_person_and_a_rectangle_stays(tmp_path, source, vocab_size, tokenizer_folder):
    square = Clip(vocab_size=vocab_size, grid=(2, 2), patch_size=64)
    report = convert(source(square.state_dict()), tmp_path / "square", tokenizer=tokenizer_folder)
    assert report.config.image_size == (384, 128)
    person = Clip(vocab_size=vocab_size, grid=(4, 2))
    report = convert(source(person.state_dict()), tmp_path / "person", tokenizer=tokenizer_folder)
    assert report.config.image_size == (32, 16)
    assert "the file does not state their grid; 4x2 patches are assumed" in report.to_text()
    assert "positions: resized" not in report.to_text()


def test_positions_of_no_usual_grid_are_those_of_the_target(tmp_path, source, vocab_size, tokenizer_folder):
    clip = Clip(vocab_size=vocab_size, grid=(3, 5), patch_size=7)
    convert(source(clip.state_dict()), tmp_path / "ours", image_size=(21, 35), tokenizer=tokenizer_folder)
    assert_encodes_as(GADMSModel.from_pretrained(tmp_path / "ours"), clip)


@pytest.mark.parametrize(
    ("grid", "sizes", "message"),
    [
        ((3, 5), {}, "positions for 15 patches of 8x8.*one of 8x120, 24x40, 40x24, 120x8"),
        ((3, 5), {"image_size": (48, 16)}, "cannot be inferred; give source_image_size"),
        ((4, 4), {"image_size": (64, 16)}, "positions for 16 patches.* give source_image_size"),
        ((4, 3), {"image_size": (32, 24)}, "positions for 12 patches.* give source_image_size"),  # 6x2 as well
        ((4, 4), {"source_image_size": (48, 16)}, "source_image_size = 48x16 has 6x2 patches .* positions for 16"),
        ((4, 4), {"source_image_size": (33, 32)}, "source_image_size = 33x32 .* not a multiple of the patch size 8x8"),
        ((4, 4), {"image_size": (50, 16)}, "image_size = 50x16 .* not a multiple of the patch size 8x8"),
        ((4, 4), {"image_size": (-8, 16)}, "image_size = -8x16 .* not a multiple"),
    ],
)
def test_a_grid_that_cannot_be_told_or_does_not_fit_is_an_error(
    tmp_path, source, vocab_size, tokenizer_folder, grid, sizes, message
):
    clip = Clip(vocab_size=vocab_size, grid=grid)
    with pytest.raises(ValueError, match=message):
        convert(source(clip.state_dict()), tmp_path / "ours", tokenizer=tokenizer_folder, **sizes)


def test_a_square_whose_patches_do_not_divide_the_default_asks_for_a_size(
    tmp_path, source, vocab_size, tokenizer_folder
):
    clip = Clip(vocab_size=vocab_size, grid=(3, 3), patch_size=7)
    with pytest.raises(
        ValueError, match="image_size = 384x128 .* not a multiple of the patch size 7x7; give another image_size"
    ):
        convert(source(clip.state_dict()), tmp_path / "ours", tokenizer=tokenizer_folder)


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers.
# ---------------------------------------------------------------------------------------------------------------------
def test_openais_tokenizer_is_the_default_for_its_vocabulary(tmp_path, source, monkeypatch):
    clip = Clip(vocab_size=49_408, grid=(4, 2), vision_layers=1, text_layers=1)
    path = source(clip.state_dict())
    with pytest.raises(OSError, match="tokenizer openai/clip-vit-base-patch16 cannot be loaded, and open_clip_torch"):
        convert(path, tmp_path / "ours")  # without network

    pieces = [*map(chr, range(0x20000, 0x20000 + 49_406)), "<|startoftext|>", "<|endoftext|>"]
    openais = CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=77)
    names = {"openai/clip-vit-base-patch16": openais}
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", names.__getitem__)
    report = convert(path, tmp_path / "ours")
    assert report.config.mask_token_id == 49_408
    assert "captions: truncated at 24 tokens, the model's number of positions" in report.to_text()


def test_the_tokenizer_of_another_vocabulary_must_be_given_and_fit(tmp_path, source, clip, vocab_size):
    path = source(clip.state_dict())
    with pytest.raises(ValueError, match=f"it embeds {vocab_size} tokens, not OpenAI's 49408; give its tokenizer"):
        convert(path, tmp_path / "ours")
    train_tokenizer(["a man"], vocab_size=514, max_length=24).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=f"embeds {vocab_size} tokens, but the tokenizer has 514 and no mask token"):
        convert(path, tmp_path / "ours", tokenizer=tmp_path / "other")


def test_an_appended_mask_starts_as_the_mean_and_changes_no_embedding(tmp_path, source, clip, tokenizer_folder):
    convert(source(clip.state_dict()), tmp_path / "ours", image_size=clip.image_size, tokenizer=tokenizer_folder)
    model, processor = load_model_and_processor(tmp_path / "ours")
    ours, theirs = model.text_model.embeddings.token_embedding.weight, clip.token_embedding.weight
    assert processor.tokenizer.mask_token_id == model.config.mask_token_id == len(theirs)
    assert torch.equal(ours[:-1], theirs)
    torch.testing.assert_close(ours[-1], theirs.sum(dim=0) / len(theirs))


def test_captions_of_the_processor_are_embedded_where_clip_embeds_them(tmp_path, source, clip, tokenizer_folder):
    """Also in padded batches, and with a mask token, whose id is the largest."""
    convert(source(clip.state_dict()), tmp_path / "ours", image_size=clip.image_size, tokenizer=tokenizer_folder)
    model, processor = load_model_and_processor(tmp_path / "ours")
    inputs = processor(text=CAPTIONS)
    with torch.inference_mode():
        ours = model.get_text_features(**inputs).pooler_output
        for row, input_ids, attention in zip(ours, inputs["input_ids"], inputs["attention_mask"], strict=True):
            theirs = clip.embed_text(input_ids[: attention.sum()])
            torch.testing.assert_close(row, theirs, rtol=0, atol=1e-5)
        inputs["input_ids"][:, 2] = model.config.mask_token_id
        masked = model.get_text_features(**inputs)
    ends = (inputs["input_ids"] == processor.tokenizer.eos_token_id).int().argmax(dim=1)
    at_eos = masked.last_hidden_state[torch.arange(len(ends)), ends]
    torch.testing.assert_close(masked.pooler_output, at_eos, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# The folder that is written.
# ---------------------------------------------------------------------------------------------------------------------
def test_the_folder_holds_weights_configuration_code_and_processor(tmp_path, source, research, tokenizer_folder):
    target = tmp_path / "new" / "ours"
    convert(source(research.state_dict()), str(target), tokenizer=str(tokenizer_folder))
    names = {path.name for path in target.iterdir()}
    code = {path.name for path in Path(modeling_gadms.__file__).parent.glob("*_gadms.py")}
    assert code | {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"} <= names
    assert [path.name for path in target.parent.iterdir()] == ["ours"]


def test_an_empty_folder_may_be_there_and_anything_else_stays_as_it_is(tmp_path, source, research, tokenizer_folder):
    path = source(research.state_dict())
    (tmp_path / "empty").mkdir()
    convert(path, tmp_path / "empty", tokenizer=tokenizer_folder)
    assert (tmp_path / "empty" / "config.json").exists()
    content = path.read_bytes()
    for taken in (tmp_path / "empty", path):
        with pytest.raises(FileExistsError, match=f"{taken} already exists; give a new or an empty folder"):
            convert(path, taken, tokenizer=tokenizer_folder)
    assert path.read_bytes() == content


@pytest.mark.parametrize("interruption", [OSError("no space left"), KeyboardInterrupt()])
def test_what_fails_while_writing_leaves_nothing(
    tmp_path, source, research, tokenizer_folder, monkeypatch, interruption
):
    def fail(self, folder):
        assert (Path(folder) / "model.safetensors").exists()
        raise interruption

    monkeypatch.setattr(converter.GADMSProcessor, "save_pretrained", fail)
    (tmp_path / "out").mkdir()
    path = source(research.state_dict())
    with pytest.raises(type(interruption)):
        convert(path, tmp_path / "out" / "ours", tokenizer=tokenizer_folder)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_report_tells_people_what_was_found(tmp_path, source, research, tokenizer_folder, vocab_size):
    path = source({"model": research.half().state_dict(), "epoch": 60})
    report = convert(path, tmp_path / "ours", image_size=(32, 32), tokenizer=tokenizer_folder)
    research.float()
    count = len(research.state_dict())
    piece = CLIPTokenizer.from_pretrained(tokenizer_folder).convert_ids_to_tokens(vocab_size - 3)
    assert report.to_text().splitlines() == [
        f"{path} (research layout) -> {tmp_path / 'ours'} (GADMSForPreTraining)",
        f"tensors: {count} used, 1 other entries ignored",
        "images: 32x32 (height x width), 4x4 patches of 8",
        "image encoder: 2 layers, width 128, 2 heads, feed-forward 512",
        f"text encoder: 3 layers, width 64, 1 heads, feed-forward 256; 24 tokens of {vocab_size}",
        "embeddings: 64; temperature 0.02",
        "fusion encoder and token head: 2 layers, feed-forward 96; identities: 5",
        f"precision: {count} tensors of float16 were cast to float32",
        "temperature: the default; the file contains none",
        "activation: quick_gelu, that of the research layout",
        f"mask token: {vocab_size - 3}, which was {piece!r}",
        "positions: the file does not state their grid; 6x2 patches are assumed",
        "positions: resized from 6x2 to 4x4 patches by bicubic interpolation",
        "images: resized (bilinear) and normalised as the research layout's code does",
        "captions: cleaned (ftfy, HTML entities) as CLIP's own code does",
        "ignored (not in `model`, which contains the weights): epoch",
    ]
