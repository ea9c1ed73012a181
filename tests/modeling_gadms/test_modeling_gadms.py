"""The two encoders: equality with CLIP, initialisation from CLIP, saving and loading."""

import logging
import math
import socket

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
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
from modeling_gadms.modeling_gadms import GADMSOutput, append_mean_row, resize_patch_positions
from tests.modeling_gadms.random_weights import randomised


def pixels(batch_size: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch_size, 3, 32, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(tiny_model) -> GADMSForPreTraining:
    return randomised(tiny_model())


# Two encoders.


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


def test_patches_are_pooled_with_weights_of_their_position(tmp_path, tiny_model):
    model = randomised(tiny_model(image_pooling="patches"))
    assert model.gadms.patch_pooling.weight.shape == (16, 4 * 2 * 16)
    assert tiny_model(image_pooling="patches").gadms.patch_pooling.weight.std().item() == pytest.approx(
        128**-0.5, rel=0.1
    )
    features = model.gadms.eval().get_image_features(pixels(2))
    expected = torch.zeros(2, 16)
    for place in range(8):
        own = model.gadms.patch_pooling.weight[:, place * 16 : (place + 1) * 16]
        expected += features.last_hidden_state[:, 1 + place] @ own.T
    torch.testing.assert_close(features.pooler_output, expected)

    model.save_pretrained(tmp_path)
    loaded = GADMSModel.from_pretrained(tmp_path)
    assert loaded.config.image_pooling == "patches"
    torch.testing.assert_close(loaded.eval().get_image_features(pixels(2)).pooler_output, features.pooler_output)
    with pytest.raises(ValueError, match="from_dual_encoder takes `image_pooling` from the checkpoint"):
        GADMSModel.from_dual_encoder(tmp_path, image_pooling="patches")


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
    with pytest.raises(ValueError, match="16x32 .*expects 32x16"):
        model.gadms.get_image_features(torch.zeros(1, 3, 16, 32))


@pytest.mark.parametrize("encode", ["get_text_features", "get_packed_text_features"])
def test_captions_too_long_or_outside_the_vocabulary_are_refused(model, encode):
    text_config = model.config.text_config
    encode = getattr(model.gadms, encode)
    too_long = torch.ones(1, text_config.max_position_embeddings + 1, dtype=torch.long)
    with pytest.raises(ValueError, match=f"captions of {too_long.shape[1]} tokens are longer"):
        encode(too_long, torch.ones_like(too_long))
    for wrong in (-1, text_config.vocab_size):
        input_ids = torch.tensor([[1, wrong, text_config.eos_token_id]])
        with pytest.raises(ValueError, match=f"{wrong}.* are not all in the vocabulary"):
            encode(input_ids, torch.ones_like(input_ids))


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


# From CLIP.


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


# Saving and loading.


def weight_dtypes(model) -> set[torch.dtype]:
    """Of all but the temperature, which is float32 in any model that was loaded."""
    return {parameter.dtype for name, parameter in model.named_parameters() if not name.endswith("logit_scale")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_class", [AutoModel, AutoModelForPreTraining])
def test_a_saved_model_loads_equal_and_infers(tmp_path, model, batch, dtype, model_class):
    model = model.to(dtype).eval()
    model.gadms.logit_scale.data = model.gadms.logit_scale.data.float()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists() and not list(tmp_path.glob("*.bin"))
    loaded = model_class.from_pretrained(tmp_path, dtype="auto").eval()
    assert type(loaded) is {AutoModel: GADMSModel, AutoModelForPreTraining: GADMSForPreTraining}[model_class]
    assert weight_dtypes(loaded) == {dtype}
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
    assert weight_dtypes(loaded) == {dtype}
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
