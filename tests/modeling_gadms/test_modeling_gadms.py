"""The model: as CLIP where CLIP can do it, and what training adds."""

import logging
import math
import socket

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_gadms import GADMSConfig, GADMSForPreTraining, GADMSModel, GADMSProcessor
from modeling_gadms.losses_gadms import similarity_distribution_matching_loss
from modeling_gadms.modeling_gadms import (
    GADMSForPreTrainingOutput,
    GADMSOutput,
    append_mean_row,
    resize_patch_positions,
)


def randomised(model: nn.Module, seed: int = 0, scale: float = 0.12) -> nn.Module:
    """Every weight, bias and norm at random: freshly initialised biases are zero and would hide an omission."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not name.endswith("logit_scale"):
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.data = centre + scale * torch.randn(parameter.shape, generator=generator)
    return model


def training_loss(model: GADMSForPreTraining, outputs: GADMSForPreTrainingOutput) -> torch.Tensor:
    """The sum of every term there is."""
    person_ids = torch.arange(len(outputs.image_embeds))
    loss = similarity_distribution_matching_loss(
        outputs.image_embeds, outputs.text_embeds, person_ids, temperature=outputs.temperature
    )
    for term in (outputs.mtp_loss, outputs.identity_loss):
        if term is not None:
            loss = loss + term
    return loss


def pixels(batch_size: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch_size, 3, 32, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(tiny_model) -> GADMSForPreTraining:
    return randomised(tiny_model())


# ---------------------------------------------------------------------------------------------------------------------
# Two encoders.
# ---------------------------------------------------------------------------------------------------------------------
def test_forward_compares_every_image_with_every_caption(model, batch):
    outputs = model.gadms.eval()(batch["input_ids"][:3], pixels(4), batch["attention_mask"][:3])
    assert type(outputs) is GADMSOutput
    assert outputs.image_embeds.shape == (4, 16) and outputs.text_embeds.shape == (3, 16)
    assert outputs.logits_per_image.shape == (4, 3) and outputs.logits_per_text.shape == (3, 4)
    torch.testing.assert_close(outputs.image_embeds.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(outputs.text_embeds.norm(dim=1), torch.ones(3))
    for image in range(4):
        for text in range(3):
            cosine = F.cosine_similarity(outputs.image_embeds[image], outputs.text_embeds[text], dim=0)
            torch.testing.assert_close(outputs.logits_per_image[image, text], cosine / 0.02, rtol=1e-4, atol=1e-4)
            assert outputs.logits_per_text[text, image] == outputs.logits_per_image[image, text]


def test_features_are_projected_and_not_normalised(model, batch):
    model = model.gadms.eval()
    image = model.get_image_features(pixel_values=pixels(2))
    text = model.get_text_features(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert isinstance(image, BaseModelOutputWithPooling) and isinstance(text, BaseModelOutputWithPooling)
    assert image.pooler_output.shape == (2, 16) and image.last_hidden_state.shape == (2, 1 + 4 * 2, 16)
    assert text.pooler_output.shape == (4, 16) and text.last_hidden_state.shape == (*batch["input_ids"].shape, 16)
    assert torch.equal(image.pooler_output, image.last_hidden_state[:, 0])
    assert (image.pooler_output.norm(dim=1) - 1).abs().min() > 0.01
    eos = batch["attention_mask"].sum(dim=1) - 1
    torch.testing.assert_close(text.pooler_output, text.last_hidden_state[torch.arange(4), eos])


def test_every_image_token_passes_the_norm_and_the_projection(model):
    """As research checkpoints do it: CLIP itself normalises the class token alone."""
    model = model.gadms.eval()
    raw = []
    handle = model.vision_model.encoder.register_forward_hook(lambda *args: raw.append(args[-1].last_hidden_state))
    features = model.get_image_features(pixels(2))
    handle.remove()
    norm, projection = model.vision_model.post_layernorm, model.visual_projection.weight
    states = F.layer_norm(raw[0], (24,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(features.last_hidden_state, states @ projection.T)


def test_patches_are_read_row_by_row_from_an_image_that_is_higher_than_wide(model):
    """Patch (row, column) stands at position 1 + row * columns + column."""
    embeddings = model.gadms.vision_model.embeddings
    blank, spotted = torch.zeros(1, 3, 32, 16), torch.zeros(1, 3, 32, 16)
    spotted[:, :, 16:24, 8:16] = 1.0  # patch row 2, column 1, of 4 rows and 2 columns
    changed = (embeddings(spotted) - embeddings(blank)).abs().sum(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == [1 + 2 * 2 + 1]
    torch.testing.assert_close(
        embeddings(blank)[0, 1:], embeddings.position_embedding.weight[1:]
    )  # a blank patch is its position


def test_another_image_size_is_refused(model):
    with pytest.raises(ValueError, match="16x32 .*takes 32x16"):
        model.gadms.get_image_features(torch.zeros(1, 3, 16, 32))


def test_a_masked_caption_is_embedded_at_eos(model, processor, batch):
    """The mask token's id is above EOS: CLIP's legacy pooling would embed the caption there."""
    model = model.gadms.eval()
    masked, eos = batch["input_ids"].clone(), batch["attention_mask"].sum(dim=1) - 1
    assert processor.tokenizer.mask_token_id > processor.tokenizer.eos_token_id
    masked[:, 1] = processor.tokenizer.mask_token_id
    features = model.get_text_features(masked, batch["attention_mask"])
    torch.testing.assert_close(features.pooler_output, features.last_hidden_state[torch.arange(4), eos])


def test_a_caption_does_not_depend_on_its_padding(model, batch):
    model = model.gadms.eval()
    features = model.get_text_features(**{name: batch[name] for name in ("input_ids", "attention_mask")})
    for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        alone = model.get_text_features(batch["input_ids"][row : row + 1, :length])
        torch.testing.assert_close(alone.pooler_output[0], features.pooler_output[row], rtol=1e-5, atol=1e-5)
    without_mask = model.get_text_features(batch["input_ids"])  # causal attention: padding comes after EOS
    torch.testing.assert_close(without_mask.pooler_output, features.pooler_output, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# From CLIP.
# ---------------------------------------------------------------------------------------------------------------------
def save_tiny_clip(folder, eos_token_id: int, dtype: torch.dtype = torch.float32) -> CLIPModel:
    """A CLIP of square images, its EOS (id 59) the last of 60 tokens."""
    config = CLIPConfig(
        text_config=CLIPTextConfig(
            vocab_size=60,
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=3,
            max_position_embeddings=12,
            bos_token_id=58,
            eos_token_id=eos_token_id,
            pad_token_id=0,
        ).to_dict(),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=24,
            patch_size=8,
        ).to_dict(),
        projection_dim=16,
    )
    torch.manual_seed(0)
    clip = randomised(CLIPModel(config)).to(dtype).eval()
    clip.save_pretrained(folder)
    return clip


SMALL = {"score_layers": 1, "fusion_num_attention_heads": 2, "fusion_num_hidden_layers": 1}
CLIP_IDS = torch.tensor([[58, 4, 9, 17, 59, 0, 0], [58, 2, 59, 0, 0, 0, 0], [58, 31, 30, 29, 28, 27, 59]])


@pytest.mark.parametrize("eos_token_id", [2, 59], ids=["legacy", "true"])
@pytest.mark.parametrize("model_class", [GADMSModel, GADMSForPreTraining])
def test_from_clip_embeds_as_clip(tmp_path, eos_token_id, model_class):
    clip = save_tiny_clip(tmp_path, eos_token_id)
    model = model_class.from_clip(tmp_path, image_size=(24, 24), **SMALL).eval()
    assert type(model) is model_class
    model = model.base_model
    images = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    attention_mask = torch.tensor([[1] * 5 + [0] * 2, [1] * 3 + [0] * 4, [1] * 7])
    torch.testing.assert_close(
        model.get_image_features(images).pooler_output,
        clip.get_image_features(images).pooler_output,
        rtol=0,
        atol=1e-5,
    )
    for mask in (attention_mask, None):
        torch.testing.assert_close(
            model.get_text_features(CLIP_IDS, mask).pooler_output,
            clip.get_text_features(CLIP_IDS, mask).pooler_output,
            rtol=0,
            atol=1e-5,
        )
    assert model.config.text_config.eos_token_id == 59
    assert model.config.projection_dim == 16
    torch.testing.assert_close(model.temperature, torch.tensor(0.02))


def test_from_clip_appends_a_mask_token_as_the_mean(tmp_path):
    clip = save_tiny_clip(tmp_path, 2)
    model = GADMSModel.from_clip(tmp_path, image_size=(24, 24), **SMALL)
    ours = model.text_model.embeddings.token_embedding.weight
    theirs = clip.text_model.embeddings.token_embedding.weight
    assert model.config.mask_token_id == 60 and ours.shape == (61, 24)
    assert torch.equal(ours[:60], theirs)
    torch.testing.assert_close(ours[60], theirs.sum(dim=0) / 60)
    assert append_mean_row(torch.tensor([[1.0, 2.0], [3.0, 6.0]])).tolist() == [[1, 2], [3, 6], [2, 4]]


def test_from_clip_takes_the_rectangle_and_fields_of_the_configuration(tmp_path):
    save_tiny_clip(tmp_path, 59)
    model = GADMSForPreTraining.from_clip(tmp_path, image_size=(48, 16), num_identities=7, temperature=0.05, **SMALL)
    assert model.config.vision_config.image_size == (48, 16)
    assert model.gadms.vision_model.embeddings.position_embedding.weight.shape == (1 + 6 * 2, 32)
    assert model.gadms.get_image_features(torch.zeros(1, 3, 48, 16)).last_hidden_state.shape == (1, 13, 16)
    assert model.classifier.weight.shape == (7, 16)
    torch.testing.assert_close(model.gadms.temperature, torch.tensor(0.05))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_from_clip_refuses_what_does_not_fit(tmp_path):
    save_tiny_clip(tmp_path, 59)
    with pytest.raises(ValueError, match="did you mean `score_layers`"):
        GADMSModel.from_clip(tmp_path, image_size=(24, 24), score_layer=1)
    with pytest.raises(Exception, match=r"\(20, 24\) must be a multiple of patch_size = 8"):
        GADMSModel.from_clip(tmp_path, image_size=(20, 24), **SMALL)


def test_from_clip_of_half_precision_weights_trains_in_float32(tmp_path):
    save_tiny_clip(tmp_path, 59, torch.float16)
    model = GADMSForPreTraining.from_clip(tmp_path, image_size=(24, 24), **SMALL).train()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    outputs = model(CLIP_IDS, torch.zeros(3, 3, 24, 24))
    assert outputs.image_embeds.dtype == outputs.text_embeds.dtype == torch.float32


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    a, x = -0.75, abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def literal_resize(positions: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Bicubic interpolation of each patch position, one at a time, borders repeated."""
    side = math.isqrt(len(positions) - 1)
    square = positions[1:].reshape(side, side, -1)
    rows = [positions[0]]
    for y in range(grid[0]):
        for x in range(grid[1]):
            centre_y, centre_x = (y + 0.5) * side / grid[0] - 0.5, (x + 0.5) * side / grid[1] - 0.5
            total = torch.zeros_like(positions[0])
            for near_y in range(math.floor(centre_y) - 1, math.floor(centre_y) + 3):
                for near_x in range(math.floor(centre_x) - 1, math.floor(centre_x) + 3):
                    value = square[min(max(near_y, 0), side - 1), min(max(near_x, 0), side - 1)]
                    total += cubic(centre_y - near_y) * cubic(centre_x - near_x) * value
            rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("grid", [(6, 2), (4, 8), (3, 5), (24, 8)])
def test_patch_positions_are_resized_to_the_rectangle(grid):
    positions = torch.randn(1 + 5 * 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize_patch_positions(positions, grid), literal_resize(positions, grid))


def test_patch_positions_of_the_same_grid_are_kept():
    positions = torch.randn(1 + 5 * 5, 3)
    assert torch.equal(resize_patch_positions(positions, (5, 5)), positions)


def test_patch_positions_keep_their_axes():
    """A pattern that changes from top to bottom alone still does."""
    down = torch.arange(4.0).repeat_interleave(4)[:, None]
    resized = resize_patch_positions(torch.cat([torch.zeros(1, 1), down]), (8, 2))[1:].reshape(8, 2)
    assert torch.equal(resized[:, 0], resized[:, 1]) and (resized[1:, 0] > resized[:-1, 0]).sum() >= 5


def test_patch_positions_that_are_no_square_are_refused():
    with pytest.raises(ValueError, match="12 patch positions"):
        resize_patch_positions(torch.zeros(13, 4), (4, 3))


def test_positions_in_half_precision_keep_their_dtype():
    assert resize_patch_positions(torch.zeros(10, 4, dtype=torch.bfloat16), (2, 2)).dtype == torch.bfloat16


# ---------------------------------------------------------------------------------------------------------------------
# Saving and loading.
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_class", [AutoModel, AutoModelForPreTraining])
def test_a_saved_model_loads_equal_and_infers(tmp_path, model, batch, dtype, model_class):
    model = model.to(dtype).eval()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists() and not list(tmp_path.glob("*.bin"))
    loaded = model_class.from_pretrained(tmp_path, dtype="auto").eval()
    assert type(loaded) is {AutoModel: GADMSModel, AutoModelForPreTraining: GADMSForPreTraining}[model_class]
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    original = (model if model_class is AutoModelForPreTraining else model.gadms).state_dict()
    assert loaded.state_dict().keys() == original.keys()
    assert all(torch.equal(value, original[name]) for name, value in loaded.state_dict().items())
    inputs = (batch["input_ids"], pixels(4).to(dtype), batch["attention_mask"])
    with torch.inference_mode():
        ours, theirs = model.gadms(*inputs), loaded.base_model(*inputs)
    assert torch.equal(ours.image_embeds, theirs.image_embeds) and torch.equal(ours.text_embeds, theirs.text_embeds)
    assert theirs.logits_per_image.isfinite().all()


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_loads_in_a_chosen_precision(tmp_path, model, batch, saved, dtype):
    model.to(saved).save_pretrained(tmp_path)
    model = model.float()
    loaded = GADMSModel.from_pretrained(tmp_path, dtype=dtype).eval()
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    outputs = loaded(batch["input_ids"], pixels(4), batch["attention_mask"])  # float32 pixels, as the processor gives
    expected = model.gadms.eval()(batch["input_ids"], pixels(4), batch["attention_mask"])
    torch.testing.assert_close(outputs.image_embeds.float(), expected.image_embeds, rtol=0, atol=0.03)
    torch.testing.assert_close(outputs.text_embeds.float(), expected.text_embeds, rtol=0, atol=0.03)


def test_config_model_and_processor_load_by_auto_classes(tmp_path, model, processor):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is GADMSConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is GADMSModel
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is GADMSForPreTraining
    assert type(AutoProcessor.from_pretrained(tmp_path)) is GADMSProcessor


def test_the_retrieval_model_loads_from_a_training_checkpoint_in_silence(tmp_path, tiny_model, caplog):
    randomised(tiny_model(num_identities=5)).save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {name.split(".")[0] for name in names} == {"gadms", "fusion", "token_head", "classifier"}
    with caplog.at_level(logging.WARNING, logger="transformers"):
        logger = logging.getLogger("transformers")
        logger.addHandler(caplog.handler)
        try:
            _, info = GADMSModel.from_pretrained(tmp_path, output_loading_info=True)
        finally:
            logger.removeHandler(caplog.handler)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_training_model_starts_from_a_retrieval_model(tmp_path, model):
    """New modules alone are drawn at random, as they are in a model from scratch."""
    model.gadms.save_pretrained(tmp_path)
    torch.manual_seed(0)
    loaded, info = GADMSForPreTraining.from_pretrained(tmp_path, num_identities=200, output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"fusion", "token_head", "classifier"}
    assert all(torch.equal(a, b) for a, b in zip(loaded.gadms.parameters(), model.gadms.parameters(), strict=True))
    assert loaded.classifier.weight.shape == (200, 16)
    assert loaded.classifier.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not loaded.classifier.bias.any()
    assert loaded.fusion.cross_attention.in_proj_weight.std().item() == pytest.approx(16**-0.5, rel=0.15)
    assert torch.equal(loaded.fusion.post_norm.weight, torch.ones(16))


def test_random_weights_have_clips_standard_deviations(tiny_model):
    model = tiny_model(text_config={"hidden_size": 128, "vocab_size": 2000}).gadms
    attention = model.text_model.encoder.layers[0].self_attn
    assert attention.q_proj.weight.std().item() == pytest.approx(128**-0.5 * 6**-0.5, rel=0.05)  # three layers
    assert attention.out_proj.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert model.text_model.embeddings.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.text_projection.weight.std().item() == pytest.approx(128**-0.5, rel=0.1)
    assert model.visual_projection.weight.std().item() == pytest.approx(24**-0.5, rel=0.15)
    embeddings = model.vision_model.embeddings
    assert embeddings.patch_embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert embeddings.position_embedding.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert embeddings.class_embedding.std().item() == pytest.approx(24**-0.5, rel=0.4)


def test_the_model_constructs_without_network(tiny_model, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("the network was asked for")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    tiny_model(num_identities=3)


def test_the_default_configuration_is_vit_b_16(tmp_path):
    with torch.device("meta"):
        model = GADMSForPreTraining(GADMSConfig())
    assert model.gadms.vision_model.embeddings.position_embedding.weight.shape == (193, 768)
    assert model.gadms.text_model.embeddings.token_embedding.weight.shape == (49409, 512)
    assert len(model.gadms.text_model.encoder.layers) == len(model.gadms.vision_model.encoder.layers) == 12
    assert len(model.fusion.layers) == 4 and model.fusion.cross_attention.num_heads == 8
    assert model.token_head.decoder.weight.shape == (49409, 512)


# ---------------------------------------------------------------------------------------------------------------------
# A training step.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_training_step_gives_one_typed_output(model, batch):
    outputs = model.train()(**batch)
    batch_size, length = batch["input_ids"].shape
    assert type(outputs) is GADMSForPreTrainingOutput
    assert outputs.image_embeds.shape == outputs.text_embeds.shape == (batch_size, 16)
    torch.testing.assert_close(outputs.image_embeds.norm(dim=1), torch.ones(batch_size))
    torch.testing.assert_close(outputs.text_embeds.norm(dim=1), torch.ones(batch_size))
    assert outputs.temperature.shape == outputs.mtp_loss.shape == outputs.num_predicted_tokens.shape == ()
    assert outputs.identity_loss is None
    assert outputs.token_scores.shape == (batch_size, length) and outputs.token_scores.dtype == torch.float32
    for mask in (outputs.own_tokens, outputs.noise_mask, outputs.informative_mask):
        assert mask.shape == (batch_size, length) and mask.dtype == torch.bool
        assert not (mask & ~outputs.own_tokens).any()
    assert outputs.num_predicted_tokens == outputs.informative_mask.sum()


@pytest.mark.parametrize("how", ["eval", "masking=False", "token_score=none"])
def test_without_masking_captions_are_embedded_clean(tiny_model, batch, how):
    model = randomised(tiny_model(token_score="none" if how == "token_score=none" else "gass"))
    model.train(how != "eval")
    outputs = model(**batch, masking=False if how == "masking=False" else None)
    expected = model.gadms(**batch)
    torch.testing.assert_close(outputs.text_embeds, expected.text_embeds)
    torch.testing.assert_close(outputs.image_embeds, expected.image_embeds)
    for name in ("mtp_loss", "num_predicted_tokens", "token_scores", "noise_mask", "informative_mask"):
        assert getattr(outputs, name) is None


def test_masking_can_be_asked_for_in_evaluation(model, batch):
    assert model.eval()(**batch, masking=True).noise_mask is not None


def test_alignment_sees_the_noise_masked_caption(tiny_model, batch):
    """And the images as they are."""
    model = randomised(tiny_model(noise_mask_threshold=0.0, noise_mask_rate=0.5)).train()
    torch.manual_seed(0)
    outputs = model(**batch)
    assert outputs.noise_mask.any(dim=1)[:3].all()
    masked = batch["input_ids"].clone()
    masked[outputs.noise_mask] = model.config.mask_token_id
    expected = model.gadms(masked, batch["pixel_values"], batch["attention_mask"])
    torch.testing.assert_close(outputs.text_embeds, expected.text_embeds, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.image_embeds, expected.image_embeds, rtol=1e-5, atol=1e-5)


def test_without_noise_masking_alignment_sees_the_caption(tiny_model, batch):
    model = randomised(tiny_model(noise_masking=False)).train()
    outputs = model(**batch)
    assert outputs.noise_mask is None and outputs.informative_mask is not None
    torch.testing.assert_close(outputs.text_embeds, model.gadms(**batch).text_embeds, rtol=1e-5, atol=1e-5)


def test_without_token_prediction_nothing_of_it_is_built(tiny_model, batch):
    model = tiny_model(masked_token_prediction=False).train()
    assert model.fusion is None and model.token_head is None
    outputs = model(**batch)
    assert outputs.mtp_loss is None and outputs.informative_mask is None and outputs.noise_mask is not None


def test_without_both_maskings_embeddings_are_clean(tiny_model, batch):
    model = tiny_model(masked_token_prediction=False, noise_masking=False).train()
    torch.testing.assert_close(model(**batch).text_embeds, model.gadms(**batch).text_embeds)


@pytest.mark.parametrize("token_score", ["gass", "cosine"])
def test_the_step_uses_scores_of_its_own_weights_and_images(tiny_model, batch, token_score):
    """Released code masks by scores that are an epoch old."""
    model = randomised(tiny_model(token_score=token_score)).train()
    with torch.no_grad():
        first = model(**batch).token_scores
        randomised(model, seed=1)
        second = model(**batch).token_scores
        assert not torch.allclose(first, second, atol=0.05)
        image_embeds = model.gadms.get_image_features(batch["pixel_values"]).pooler_output
        expected = model.gadms.score_tokens(batch["input_ids"], batch["attention_mask"], image_embeds, token_score)
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-5)
    swapped = dict(batch) | {"pixel_values": batch["pixel_values"].flip(0)}
    assert not torch.allclose(model(**swapped).token_scores, second, atol=0.01)


@pytest.mark.parametrize("token_score", ["gass", "cosine", "random"])
def test_masking_rates_of_a_step_match_the_formulas(tiny_model, batch, token_score):
    """Over 400 copies of each pair, whose tokens share their scores."""
    model = randomised(tiny_model(token_score=token_score)).train()
    copies = 400
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = model(**{name: value.repeat_interleave(copies, dim=0) for name, value in batch.items()})
    scores = outputs.token_scores
    for mask, rate, exponent in (
        (outputs.noise_mask, 0.2, lambda s: (1 - s) - 0.9),
        (outputs.informative_mask, 0.3, lambda s: s - 0.1),
    ):
        if token_score == "random":
            probability = torch.full(mask.shape, rate)
        else:
            probability = rate / (1 + torch.exp(-20 * exponent(scores)))
        probability = torch.where(outputs.own_tokens, probability, 0.0)
        counts = mask.reshape(len(batch["input_ids"]), copies, -1).sum(dim=1)
        expected = probability.reshape(len(batch["input_ids"]), copies, -1).sum(dim=1)
        deviation = (expected * (1 - expected / copies)).sqrt()
        assert ((counts - expected).abs() <= 5 * deviation + 1).all()
        assert counts.sum() > 100
    both = (outputs.noise_mask & outputs.informative_mask).float().sum()
    assert both < 0.5 * outputs.informative_mask.sum()  # two draws, not one


def test_random_masking_scores_nothing(tiny_model, batch, monkeypatch):
    model = tiny_model(token_score="random").train()
    monkeypatch.setattr(GADMSModel, "score_tokens", lambda *args: pytest.fail("scored"))
    assert model(**batch).token_scores is None


def test_images_are_encoded_once_and_both_captions_together(model, batch):
    """Text: once to score, once for the two masked captions in one batch."""
    sizes = {"image": [], "text": []}
    model.gadms.vision_model.encoder.register_forward_hook(
        lambda *args: sizes["image"].append(len(args[-1].last_hidden_state))
    )
    model.gadms.text_model.encoder.register_forward_hook(
        lambda *args: sizes["text"].append(len(args[-1].last_hidden_state))
    )
    model.train()(**batch)
    assert sizes == {"image": [4], "text": [4, 8]}


def test_the_token_head_runs_on_masked_positions_alone(model, batch):
    rows = []
    model.token_head.decoder.register_forward_hook(lambda module, arguments, result: rows.append(len(result)))
    outputs = model.train()(**batch)
    assert rows == [int(outputs.informative_mask.sum())]
    assert 0 < rows[0] < batch["input_ids"].numel()


def literal_attention(query, key, value, heads):
    head_dim, outputs = query.shape[1] // heads, []
    for head in range(heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        outputs.append((query[:, part] @ key[:, part].T / head_dim**0.5).softmax(dim=1) @ value[:, part])
    return torch.cat(outputs, dim=1)


def literal_fusion_and_head(model: GADMSForPreTraining, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Token logits of one unpadded caption, from the raw weights."""
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    heads = model.config.fusion_num_attention_heads

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    images = norm("fusion.image_norm", image)
    in_weights = weights["fusion.cross_attention.in_proj_weight"].chunk(3)
    in_biases = weights["fusion.cross_attention.in_proj_bias"].chunk(3)
    query, key, value = (
        x @ w.T + b
        for x, w, b in zip((norm("fusion.text_norm", text), images, images), in_weights, in_biases, strict=True)
    )
    x = linear("fusion.cross_attention.out_proj", literal_attention(query, key, value, heads))
    for index in range(model.config.fusion_num_hidden_layers):
        layer = f"fusion.layers.{index}"
        normed = norm(f"{layer}.layer_norm1", x)
        query, key, value = (linear(f"{layer}.self_attn.{name}_proj", normed) for name in "qkv")
        x = x + linear(f"{layer}.self_attn.out_proj", literal_attention(query, key, value, heads))
        inner = linear(f"{layer}.mlp.fc1", norm(f"{layer}.layer_norm2", x))
        x = x + linear(f"{layer}.mlp.fc2", inner * torch.sigmoid(1.702 * inner))
    x = linear("token_head.dense", norm("fusion.post_norm", x))
    return linear("token_head.decoder", norm("token_head.layer_norm", x * torch.sigmoid(1.702 * x)))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("with_attention_mask", [True, False])
def test_mtp_loss_by_a_loop_over_masked_tokens(tiny_config, batch, attention, with_attention_mask):
    config = tiny_config(fusion_num_hidden_layers=2, informative_mask_rate=0.8)
    model = randomised(GADMSForPreTraining._from_config(config, attn_implementation=attention)).double().train()
    inputs = {name: value.double() if name == "pixel_values" else value for name, value in batch.items()}
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    if not with_attention_mask:
        longest = max(lengths)  # without a mask the interaction encoder sees padding: captions of one length
        keep = [row for row, length in enumerate(lengths) if length == longest]
        inputs = {name: value[keep] for name, value in inputs.items()}
        lengths = [longest] * len(keep)
        del inputs["attention_mask"]
    outputs = model(**inputs)
    image_tokens = model.gadms.get_image_features(inputs["pixel_values"]).last_hidden_state
    losses = []
    for row, length in enumerate(lengths):
        caption, mask = inputs["input_ids"][row, :length], outputs.informative_mask[row, :length]
        masked = torch.where(mask, model.config.mask_token_id, caption)
        text_tokens = model.gadms.get_text_features(masked[None]).last_hidden_state[0]
        logits = literal_fusion_and_head(model, text_tokens, image_tokens[row])
        for position in mask.nonzero().flatten().tolist():
            losses.append(-logits[position].log_softmax(dim=0)[caption[position]])
    assert len(losses) > 3
    torch.testing.assert_close(outputs.mtp_loss, sum(losses) / len(losses))


def test_scoring_does_not_change_the_gradient_of_the_loss(model, batch, monkeypatch):
    model.train()

    def gradients():
        torch.manual_seed(3)
        model.zero_grad()
        training_loss(model, model(**batch)).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    scored = gradients()
    with torch.no_grad():
        scores = model(**batch).token_scores
    monkeypatch.setattr(GADMSModel, "score_tokens", lambda *args: scores)
    constant = gradients()
    assert scored.keys() == constant.keys()
    for name, gradient in scored.items():
        torch.testing.assert_close(gradient, constant[name], rtol=0, atol=0)


@pytest.mark.parametrize("score", ["gass", "cosine", "random", "none"])
@pytest.mark.parametrize("noise_masking", [True, False])
@pytest.mark.parametrize("token_prediction", [True, False])
def test_every_objective_trains_every_parameter_it_uses(tiny_model, batch, score, noise_masking, token_prediction):
    model = tiny_model(
        token_score=score,
        noise_masking=noise_masking,
        masked_token_prediction=token_prediction,
        learn_temperature=True,
        num_identities=4,
        informative_mask_rate=0.9,
    ).train()
    training_loss(model, model(**batch, person_ids=torch.arange(4))).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    if score == "none" and token_prediction:
        assert unused and all(name.startswith(("fusion.", "token_head.")) for name in unused)
    else:
        assert not unused
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
            if not name.endswith("k_proj.bias"):  # the same for every key: softmax cancels it
                assert parameter.grad.any(), name


def test_a_step_that_masks_nothing_still_reaches_every_parameter(tiny_model, batch):
    """Distributed training waits for the gradient of each."""
    model = tiny_model(informative_mask_rate=0.0, noise_mask_rate=0.0).train()
    outputs = model(**batch)
    assert outputs.num_predicted_tokens == 0 and outputs.mtp_loss == 0
    training_loss(model, outputs).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_an_optimizer_step_moves_every_trained_parameter(tiny_model, batch):
    model = tiny_model(informative_mask_rate=0.9).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    training_loss(model, model(**batch)).backward()
    optimizer.step()
    unmoved = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert unmoved <= {"gadms.logit_scale"}


@pytest.mark.parametrize("score", ["gass", "cosine", "random", "none"])
def test_a_batch_of_one(tiny_model, batch, score):
    model = tiny_model(token_score=score).train()
    one = {name: value[:1] for name, value in batch.items()}
    outputs = model(**one)
    training_loss(model, outputs).backward()
    assert outputs.image_embeds.shape == (1, 16)


@pytest.mark.parametrize("score", ["gass", "cosine", "random"])
def test_captions_of_one_token(tiny_model, processor, images, score):
    model = randomised(tiny_model(token_score=score)).train()
    inputs = processor(images=images[:2], text=["a", "b"])
    assert inputs["input_ids"].shape == (2, 3)
    outputs = model(**inputs)
    training_loss(model, outputs).backward()
    if score != "random":
        assert outputs.token_scores.tolist() == [[0, 0.5, 0], [0, 0.5, 0]]


def test_without_an_attention_mask_a_step_runs(model, batch):
    outputs = model.train()(batch["input_ids"], batch["pixel_values"])
    assert outputs.mtp_loss.isfinite() and not (outputs.noise_mask & ~outputs.own_tokens).any()


@pytest.mark.parametrize("frozen", ["text_model", "vision_model", "text_projection"])
def test_a_frozen_part_gets_no_gradient_and_the_rest_trains(tiny_model, batch, frozen):
    model = randomised(tiny_model(informative_mask_rate=0.9)).train()
    getattr(model.gadms, frozen).requires_grad_(False)
    training_loss(model, model(**batch)).backward()
    for name, parameter in model.named_parameters():
        expected = frozen not in name and not name.endswith("logit_scale")
        assert (parameter.grad is not None) == expected, name


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_step_with_gradient_checkpointing_equals_one_without(model, batch, reentrant):
    model.train()

    def step():
        torch.manual_seed(11)
        model.zero_grad()
        loss = training_loss(model, model(**batch))
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain_loss, plain = step()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    assert all(layer.gradient_checkpointing for layer in model.gadms.text_model.encoder.layers)
    loss, checkpointed = step()
    torch.testing.assert_close(loss, plain_loss)
    assert checkpointed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_step_in_autocast_keeps_scores_in_float32(model, batch):
    model.train()
    with torch.no_grad():
        expected = model(**batch).token_scores
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image_embeds = model.gadms.get_image_features(batch["pixel_values"]).pooler_output.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**batch)
        loss = training_loss(model, outputs)
    loss.backward()
    assert outputs.token_scores.dtype == torch.float32
    exact = model.gadms.score_tokens(batch["input_ids"], batch["attention_mask"], image_embeds)
    torch.testing.assert_close(outputs.token_scores, exact, rtol=0, atol=1e-5)
    assert (outputs.token_scores - expected).abs().mean() < 0.1
    assert loss.dtype == torch.float32 and loss.isfinite()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_step_in_another_precision(model, batch, dtype):
    model = model.to(dtype).train()
    outputs = model(**batch)
    training_loss(model, outputs).backward()
    assert outputs.token_scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert outputs.noise_mask.dtype == torch.bool
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# ---------------------------------------------------------------------------------------------------------------------
# Temperature, identities, scores.
# ---------------------------------------------------------------------------------------------------------------------
def test_a_fixed_temperature_is_the_configured_one_and_not_trained(tiny_model):
    model = tiny_model(temperature=0.03).gadms
    assert model.temperature.item() == pytest.approx(0.03) and model.temperature.dtype == torch.float32
    assert not model.logit_scale.requires_grad and not model.temperature.requires_grad
    assert model.to(torch.bfloat16).temperature.item() == pytest.approx(0.03, rel=1e-6)


def test_a_learned_temperature_starts_as_configured_is_trained_and_bounded(tiny_model, batch):
    model = tiny_model(temperature=0.07, learn_temperature=True).train()
    assert model.gadms.temperature.item() == pytest.approx(0.07, rel=1e-5)
    training_loss(model, model(**batch)).backward()
    assert model.gadms.logit_scale.grad.abs() > 0
    with torch.no_grad():
        model.gadms.logit_scale.fill_(math.log(1000))
    assert model.gadms.temperature.item() == pytest.approx(0.01)  # CLIP's bound: logits of at most 100


def test_a_learned_temperature_is_saved(tmp_path, tiny_model):
    model = tiny_model(learn_temperature=True)
    with torch.no_grad():
        model.gadms.logit_scale.fill_(math.log(1 / 0.05))
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.temperature.item() == pytest.approx(0.05, rel=1e-5) and loaded.logit_scale.requires_grad


def test_the_identity_loss_classifies_both_embeddings(tiny_model, batch):
    model = randomised(tiny_model(num_identities=5)).train()
    person_ids = torch.tensor([4, 0, 2, 2])
    outputs = model(**batch, person_ids=person_ids, masking=False)
    image = model.gadms.get_image_features(batch["pixel_values"]).pooler_output
    text = model.gadms.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    weight, bias = model.classifier.weight, model.classifier.bias
    expected = sum(F.cross_entropy(x @ weight.T + bias, person_ids) for x in (image, text)) / 2
    torch.testing.assert_close(outputs.identity_loss, expected)


def test_identities_outside_the_classifier_are_refused(tiny_model, batch):
    with pytest.raises(ValueError, match="identities 0 to 4"):
        tiny_model(num_identities=5)(**batch, person_ids=torch.tensor([0, 1, 2, 5]))


def test_person_ids_without_a_classifier_are_left_aside(model, batch):
    assert model(**batch, person_ids=torch.tensor([900, 1, 2, 5])).identity_loss is None


def test_score_tokens_takes_the_configured_or_the_named_method(tiny_model, batch):
    model = randomised(tiny_model(token_score="cosine")).gadms
    arguments = (batch["input_ids"], batch["attention_mask"], torch.randn(4, 16))
    assert torch.equal(model.score_tokens(*arguments), model.score_tokens(*arguments, method="cosine"))
    assert not torch.allclose(model.score_tokens(*arguments), model.score_tokens(*arguments, method="gass"))
    with pytest.raises(ValueError, match="'random'.*'gass' or 'cosine'"):
        model.score_tokens(*arguments, method="random")


def test_gass_reads_the_configured_layers_and_scales(tiny_model, batch):
    arguments = (batch["input_ids"], batch["attention_mask"], torch.randn(4, 16))
    results = []
    for fields in ({"score_layers": 1}, {"score_layers": 3}, {"score_scales": (1,)}, {"score_scales": (3,)}):
        results.append(randomised(tiny_model(**fields)).gadms.score_tokens(*arguments))
    for first in range(4):
        for second in range(first):
            assert not torch.allclose(results[first], results[second], atol=1e-3)
