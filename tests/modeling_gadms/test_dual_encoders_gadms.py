"""GA-DMS on CLIP, MetaCLIP 2, SigLIP and SigLIP 2: what it computes is what transformers computes."""

import copy

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, SiglipConfig, SiglipVisionConfig

from modeling_gadms import GADMSConfig, GADMSForPreTraining, GADMSModel, GADMSProcessor
from modeling_gadms.configuration_gadms import reads_padding
from modeling_gadms.conversion.converter import convert
from modeling_gadms.conversion.onnx_export import export_onnx
from modeling_gadms.encoders.loading import find_mismatch, load_model_and_processor
from modeling_gadms.masking_gadms import caption_token_mask
from modeling_gadms.training.adapters import AdapterArguments, add_adapter
from tests.captions import CAPTIONS
from tests.dual_encoders import save_dual_encoder


FAMILIES = ("CLIP", "MetaCLIP 2", "SigLIP", "SigLIP 2", "SigLIP 2 NaFlex")
SMALL = {"score_layers": 1, "fusion_num_attention_heads": 2, "fusion_num_hidden_layers": 1}
TALL = (48, 16)  # six rows of two patches, from a square of four by four
QUERIES = ["A Woman, in a RED coat!", *CAPTIONS]


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory):
    """The folder of a tiny random model, the model that transformers loads, ours on tall images, and its processor."""
    folder = save_dual_encoder(request.param, tmp_path_factory.mktemp("checkpoint"))
    processor = GADMSProcessor.from_dual_encoder(folder, image_size=TALL)
    torch.manual_seed(0)
    model = GADMSForPreTraining.from_dual_encoder(folder, image_size=TALL, **SMALL).eval()
    return folder, AutoModel.from_pretrained(folder).eval(), model, processor


def images(size: tuple[int, int], count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def patches(pixels: torch.Tensor, side: int = 8) -> dict[str, torch.Tensor]:
    """What NaFlex reads instead of pixels: patches in rows, each as (row, column, channel)."""
    count, channels, height, width = pixels.shape
    rows, columns = height // side, width // side
    grid = pixels.reshape(count, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": grid.reshape(count, rows * columns, side * side * channels),
        "pixel_attention_mask": torch.ones(count, rows * columns, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]] * count),
    }


def test_images_of_a_rectangle_are_embedded_as_the_family_interpolates_its_positions(checkpoint):
    _, theirs, model, _ = checkpoint
    pixels = images(TALL)
    inputs = {"pixel_values": pixels, "interpolate_pos_encoding": True}
    if theirs.config.model_type == "siglip2":
        inputs = patches(pixels)
    expected = theirs.get_image_features(**inputs).pooler_output
    ours = model.gadms.get_image_features(pixels)
    torch.testing.assert_close(ours.pooler_output, expected, rtol=0, atol=1e-5)
    has_class_token = not reads_padding(model.config.text_config)
    assert ours.last_hidden_state.shape == (2, has_class_token + 12, expected.shape[1])


def test_captions_are_embedded_as_the_family_embeds_them(checkpoint):
    """The oracle is transformers' own tokenizer, padded as the family's documentation says."""
    folder, theirs, model, processor = checkpoint
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if "siglip" in theirs.config.model_type:
        tokenizer.padding_side = "right"
        cleaned = [caption.lower() for caption in QUERIES]
        if tokenizer.pad_token == "</s>":  # SigLIP, and not SigLIP 2
            cleaned = [caption.replace(",", "").replace("!", "").replace(".", "") for caption in cleaned]
        length = theirs.config.text_config.max_position_embeddings
        inputs = tokenizer(
            cleaned, padding="max_length", max_length=length, truncation=True, return_tensors="pt",
            return_attention_mask=False,
        )  # fmt: skip
    else:
        tokenizer.model_max_length = theirs.config.text_config.max_position_embeddings
        inputs = tokenizer(QUERIES, padding=True, truncation=True, return_tensors="pt")
    expected = theirs.get_text_features(**inputs).pooler_output
    ours = processor(text=QUERIES)
    for encode in (model.gadms.get_text_features, model.gadms.get_packed_text_features):
        found = encode(ours["input_ids"], ours["attention_mask"])
        torch.testing.assert_close(found.pooler_output, expected, rtol=0, atol=1e-5)
        assert found.last_hidden_state.shape == (*ours["input_ids"].shape, expected.shape[1])
    alone = processor(text=QUERIES[0])
    found = model.gadms.get_text_features(alone["input_ids"], alone["attention_mask"]).pooler_output
    torch.testing.assert_close(found, expected[:1], rtol=0, atol=1e-5)


def test_the_mask_token_is_appended_and_no_caption_contains_it(checkpoint):
    _, theirs, model, processor = checkpoint
    vocab_size = theirs.config.text_config.vocab_size
    assert processor.tokenizer.mask_token_id == model.config.mask_token_id == vocab_size
    embedding = model.gadms.text_model.embeddings.token_embedding.weight
    torch.testing.assert_close(embedding[-1], theirs.text_model.embeddings.token_embedding.weight.mean(dim=0))
    assert vocab_size not in processor(text="<|mask|> <mask>")["input_ids"]
    assert find_mismatch(processor, model.config) is None
    if reads_padding(model.config.text_config):
        config = copy.deepcopy(model.config)
        config.text_config.pad_token_id = 7
        assert "pads captions with token" in find_mismatch(processor, config)


def test_only_the_words_of_a_caption_can_be_masked(checkpoint):
    _, _, model, processor = checkpoint
    inputs = processor(text=CAPTIONS)
    outputs = model(**inputs, pixel_values=images(TALL, len(CAPTIONS)), masking=True)
    for row, ids in enumerate(inputs["input_ids"].tolist()):
        tokenizer = processor.tokenizer
        special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        words = {index for index, token in enumerate(ids) if token not in special}
        assert set(outputs.own_tokens[row].nonzero().flatten().tolist()) == words
    assert (outputs.token_scores.amax(dim=1) > 0).all()
    assert not outputs.token_scores[~outputs.own_tokens].any()


def test_a_training_step_reaches_every_weight(checkpoint):
    _, _, model, processor = checkpoint
    model = copy.deepcopy(model).train()
    torch.manual_seed(0)
    model(**processor(text=CAPTIONS), pixel_values=images(TALL, len(CAPTIONS)), return_loss=True).loss.backward()
    unmoved = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unmoved <= {"gadms.logit_scale"}
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_a_saved_model_embeds_equally(checkpoint, tmp_path):
    _, _, model, processor = checkpoint
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, its_processor = load_model_and_processor(tmp_path)
    inputs, again = processor(text=QUERIES), its_processor(text=QUERIES)
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    for side, arguments in (("text", tuple(inputs.values())), ("image", (images(TALL),))):
        first, second = (getattr(one, f"get_{side}_features")(*arguments) for one in (model.gadms, loaded))
        assert torch.equal(first.pooler_output, second.pooler_output)


def test_the_converter_writes_the_same_model(checkpoint, tmp_path):
    folder, theirs, model, processor = checkpoint
    report = convert(folder, tmp_path / "ours", image_size=TALL)
    converted, its_processor = load_model_and_processor(tmp_path / "ours")
    inputs, again = processor(text=QUERIES), its_processor(text=QUERIES)
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    for side, arguments in (("text", tuple(inputs.values())), ("image", (images(TALL),))):
        first, second = (getattr(one, f"get_{side}_features")(*arguments) for one in (model.gadms, converted))
        assert torch.equal(first.pooler_output, second.pooler_output)
    assert its_processor.image_processor.image_mean == processor.image_processor.image_mean
    temperature = torch.exp(-theirs.logit_scale.detach().flatten()[0])
    torch.testing.assert_close(converted.temperature, temperature)
    assert ("logit_bias" in report.ignored) == hasattr(theirs, "logit_bias")


def test_an_onnx_export_of_siglip_embeds_equally(tmp_path):
    """`export_onnx` compares the embeddings itself; captions of other lengths than the traced one are among them."""
    pytest.importorskip("onnxscript")
    checkpoint = save_dual_encoder("SigLIP 2", tmp_path / "checkpoint")
    GADMSModel.from_dual_encoder(checkpoint, image_size=TALL, **SMALL).save_pretrained(tmp_path / "model")
    GADMSProcessor.from_dual_encoder(checkpoint, image_size=TALL).save_pretrained(tmp_path / "model")
    assert export_onnx(tmp_path / "model", tmp_path / "onnx").difference < 1e-4


def test_siglip_trains_by_an_adapter_and_with_checkpointing(tmp_path):
    pytest.importorskip("peft")
    checkpoint, base = save_dual_encoder("SigLIP 2", tmp_path / "checkpoint"), tmp_path / "base"
    torch.manual_seed(0)
    model = GADMSForPreTraining.from_dual_encoder(checkpoint, image_size=TALL, **SMALL).train()
    processor = GADMSProcessor.from_dual_encoder(checkpoint, image_size=TALL)
    for part in (model, processor):
        part.save_pretrained(base)
    batch = {**processor(text=CAPTIONS), "pixel_values": images(TALL, len(CAPTIONS))}
    gradients = []
    for checkpointing in (False, True):
        copied = copy.deepcopy(model)
        if checkpointing:
            copied.gradient_checkpointing_enable()
        torch.manual_seed(1)
        copied(**batch, return_loss=True).loss.backward()
        gradients.append([weight.grad for weight in copied.parameters() if weight.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)

    wrapped = add_adapter(copy.deepcopy(model), AdapterArguments(rank=2), str(base)).eval()
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    for part in (wrapped, processor):
        part.save_pretrained(tmp_path / "adapter")
    merged, _ = load_model_and_processor(tmp_path / "adapter")
    adapted, plain, found = (one.eval()(**batch) for one in (wrapped.base_model.model.gadms, model.gadms, merged))
    for side in ("text_embeds", "image_embeds"):
        torch.testing.assert_close(found[side], adapted[side], rtol=0, atol=1e-5)
        assert (plain[side] - adapted[side]).abs().max() > 1e-3
    tied = GADMSForPreTraining.from_dual_encoder(checkpoint, image_size=TALL, tie_word_embeddings=True, **SMALL)
    with pytest.raises(ValueError, match="shares the token embeddings.*model.tie_word_embeddings=false"):
        add_adapter(tied, AdapterArguments(), str(base))


# The configuration.


@pytest.mark.parametrize("vision", ["clip_vision_model", "metaclip_2_vision_model", "siglip_vision_model"])
@pytest.mark.parametrize("text", ["clip_text_model", "metaclip_2_text_model", "siglip_text_model"])
def test_any_two_encoders_train_together_from_random_weights(tiny_model, batch, text, vision, tmp_path):
    """With a tied head, saved and loaded: the tie is still there, and nothing is missing."""
    model = tiny_model(
        text_config={"model_type": text},
        vision_config={"model_type": vision},
        projection_dim=24,
        tie_word_embeddings=True,
    ).train()
    assert model(**batch, return_loss=True).loss.isfinite()
    model.save_pretrained(tmp_path)
    loaded, info = GADMSForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert loaded.config.text_config.model_type == text and loaded.config.vision_config.model_type == vision
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])
    assert loaded.token_head.decoder.weight is loaded.gadms.text_model.embeddings.token_embedding.weight


def test_large_vocabularies_are_tied_by_default():
    sizes = {"hidden_size": 8, "num_attention_heads": 2}
    assert not GADMSConfig().tie_word_embeddings
    for size, tied in ((65_536, False), (65_537, True)):
        assert GADMSConfig(text_config=sizes | {"vocab_size": size}, mask_token_id=0).tie_word_embeddings is tied
    assert GADMSConfig(tie_word_embeddings=True).tie_word_embeddings


def test_a_tied_head_predicts_with_the_embeddings(tiny_model, batch):
    """By hand: logits are the head's states times the embeddings, and both uses reach the same gradient."""
    model = tiny_model(tie_word_embeddings=True).eval()
    states = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    head, embedding = model.token_head, model.gadms.text_model.embeddings.token_embedding.weight
    inner = head.layer_norm(head.activation_fn(head.dense(states)))
    torch.testing.assert_close(head(states), inner @ embedding.T + head.decoder.bias)
    assert head.decoder.bias.shape == (len(embedding),) and inner.shape == (3, 32)


def test_what_an_encoder_cannot_do_is_refused(tiny_config):
    cases = [
        ({"text_config": {"model_type": "bert"}}, "text_config.model_type = 'bert' must be one of clip_text_model"),
        ({"vision_config": {"model_type": "siglip2_vision_model"}}, "NaFlex.*`from_dual_encoder`"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "projection_dim = 16 must be .*hidden_size = 24"),
        ({"text_config": {"model_type": "siglip_text_model", "pad_token_id": None}}, "pad_token_id = None must be"),
        (
            {"vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False}, "projection_dim": 24},
            "vision_use_head = False",
        ),
    ]
    for fields, message in cases:
        with pytest.raises(Exception, match=message):
            tiny_config(**fields)


@pytest.mark.parametrize(
    ("size", "patch", "nearest"),
    [
        ((384, 128), 14, r"\(378, 126\) and \(392, 126\)"),
        ((384, 128), 32, None),
        ((256, 100), 32, r"\(256, 96\) and \(256, 128\)"),
        ((5, 5), 14, r"\(14, 14\)$"),
    ],
)
def test_a_size_that_does_not_fit_names_the_nearest_that_do(size, patch, nearest):
    make = {"vision_config": {"image_size": size, "patch_size": patch}}
    if nearest is None:
        assert GADMSConfig(**make).patch_grid == (12, 4)
        return
    with pytest.raises(
        Exception, match=f"must be a multiple of patch_size = {patch}.*the nearest sizes are {nearest}"
    ):
        GADMSConfig(**make)


def test_other_models_are_refused(tmp_path):
    config = SiglipConfig(vision_config={"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1})
    AutoModel.from_config(SiglipVisionConfig(**config.vision_config.to_dict())).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model of type 'siglip_vision_model'; GA-DMS starts from a whole dual"):
        GADMSModel.from_dual_encoder(tmp_path)


def test_captions_of_siglip_have_no_bos():
    input_ids = torch.tensor([[5, 6, 1, 1], [7, 1, 1, 1]])
    own = caption_token_mask(input_ids, 1, starts_with_bos=False)
    assert own.tolist() == [[True, True, False, False], [True, False, False, False]]
