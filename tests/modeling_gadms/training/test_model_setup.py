"""From the `model` section of a run to a model and a processor made for each other."""

import json

import pytest
import torch
from transformers import AutoProcessor, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from modeling_gadms import GADMSForPreTraining
from modeling_gadms.training.model_setup import build_model_and_processor
from modeling_gadms.training.run_config import ModelArguments
from modeling_gadms.training.tokenizer import train_tokenizer


CAPTIONS = ["A man in a red coat and blue jeans.", "A woman wears a red hat and a black backpack."] * 4
TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = TEXT | {"image_size": [32, 16], "patch_size": 8}
SMALL = {
    "projection_dim": 16,
    "score_layers": 2,
    "fusion_num_attention_heads": 2,
    "fusion_num_hidden_layers": 1,
    "fusion_intermediate_size": 24,
}


def from_scratch(**fields) -> ModelArguments:
    return ModelArguments(vocab_size=600, config=SMALL | {"text_config": TEXT, "vision_config": VISION} | fields)


def assert_made_for_each_other(model, processor) -> None:
    tokenizer, text_config = processor.tokenizer, model.config.text_config
    assert type(model) is GADMSForPreTraining
    assert len(tokenizer) == text_config.vocab_size
    assert tokenizer.mask_token_id == model.config.mask_token_id
    assert tokenizer.eos_token_id == text_config.eos_token_id
    assert tokenizer.bos_token_id == text_config.bos_token_id
    assert tokenizer.model_max_length == text_config.max_position_embeddings
    assert processor.image_size == model.config.vision_config.image_size
    pixel_values = torch.zeros(2, 3, *processor.image_size)
    inputs = processor(text=["a man", "red " * 300])  # the second is cut at the model's length
    outputs = model.train()(pixel_values=pixel_values, **inputs)
    assert outputs.mtp_loss.isfinite() and not (outputs.noise_mask & ~outputs.own_tokens).any()


def test_random_weights_come_with_a_learned_vocabulary():
    model, processor = build_model_and_processor(from_scratch(), iter(CAPTIONS))
    assert_made_for_each_other(model, processor)
    assert processor.tokenizer.model_max_length == 77
    assert len(processor(text="red")["input_ids"][0]) == 3
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_random_weights_take_fields_of_the_configuration():
    arguments = from_scratch(
        text_config=TEXT | {"max_position_embeddings": 20}, temperature=0.07, token_score="random"
    )
    config = dict(arguments.config)
    model, processor = build_model_and_processor(arguments, CAPTIONS)
    assert_made_for_each_other(model, processor)
    assert processor.tokenizer.model_max_length == 20
    assert model.config.temperature == 0.07 and model.config.token_score == "random"
    assert arguments.config == config and "vocab_size" not in TEXT  # what was given is left as it was


def save_clip(folder, eos_token_id: int | None = None) -> None:
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=600, max_length=24)
    tokenizer.save_pretrained(folder)
    text_config = CLIPTextConfig(
        **TEXT,
        vocab_size=len(tokenizer),
        max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id if eos_token_id is None else eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision_config = CLIPVisionConfig(**TEXT, image_size=24, patch_size=8)
    config = CLIPConfig(text_config=text_config.to_dict(), vision_config=vision_config.to_dict(), projection_dim=16)
    CLIPModel(config).save_pretrained(folder)


@pytest.mark.parametrize("eos_token_id", [None, 2], ids=["true", "legacy"])
def test_a_clip_checkpoint_gets_a_mask_token_and_a_rectangle(tmp_path, eos_token_id):
    save_clip(tmp_path, eos_token_id)
    fields = {name: value for name, value in SMALL.items() if name != "projection_dim"}
    arguments = ModelArguments(from_clip=str(tmp_path), image_size=[48, 16], config=fields | {"num_identities": 3})
    model, processor = build_model_and_processor(arguments, [])
    assert_made_for_each_other(model, processor)
    assert processor.image_size == (48, 16) and model.classifier.out_features == 3


def test_a_clip_checkpoint_is_taken_at_384_by_128_by_default(tmp_path):
    save_clip(tmp_path)
    fields = {name: value for name, value in SMALL.items() if name != "projection_dim"}
    model, processor = build_model_and_processor(ModelArguments(from_clip=str(tmp_path), config=fields), [])
    assert model.config.vision_config.image_size == processor.image_size == (384, 128)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text_config", {"num_hidden_layers": 2}),
        ("vision_config", {"image_size": [48, 16]}),
        ("projection_dim", 16),
        ("mask_token_id", 3),
    ],
)
def test_what_a_clip_checkpoint_decides_cannot_be_set(key, value):
    arguments = ModelArguments(from_clip="no/download", config={key: value})
    with pytest.raises(ValueError, match=f"from_dual_encoder takes `{key}` from the checkpoint"):
        build_model_and_processor(arguments, [])


def test_a_clip_checkpoint_with_a_padded_vocabulary_is_refused_until_it_is_cut(tmp_path):
    """Its captions would be embedded at BOS, all alike: the last token of the vocabulary is not EOS."""
    save_clip(tmp_path, eos_token_id=2)
    clip = CLIPModel.from_pretrained(tmp_path)
    known = clip.config.text_config.vocab_size
    clip.text_model.resize_token_embeddings(640)
    clip.save_pretrained(tmp_path)
    fields = {name: value for name, value in SMALL.items() if name != "projection_dim"}
    arguments = ModelArguments(from_clip=str(tmp_path), image_size=[48, 16], config=fields)
    with pytest.raises(ValueError, match=f"its tokenizer has {known + 1} tokens, its model 641.*resize_token_embed"):
        build_model_and_processor(arguments, [])
    clip.text_model.resize_token_embeddings(known)  # what the error advises
    clip.save_pretrained(tmp_path)
    assert_made_for_each_other(*build_model_and_processor(arguments, []))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda config, tokenizer: config["text_config"].update(eos_token_id=7),
            "ends captions with token .* at token 7",
        ),
        (lambda config, tokenizer: config.update(mask_token_id=7), "the mask is token .*, and 7 of its model"),
        (lambda config, tokenizer: tokenizer.update(model_max_length=78), "cuts captions at 78 tokens .* reads 77"),
    ],
)
def test_a_checkpoint_with_the_tokenizer_of_another_model_is_refused(checkpoint, spoil, message):
    settings = {name: json.loads((checkpoint / name).read_text()) for name in ("config.json", "tokenizer_config.json")}
    spoil(*settings.values())
    for name, values in settings.items():
        (checkpoint / name).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        build_model_and_processor(ModelArguments(from_pretrained=str(checkpoint)), [])


@pytest.fixture
def checkpoint(tmp_path):
    model, processor = build_model_and_processor(from_scratch(), CAPTIONS)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


def test_training_goes_on_from_a_checkpoint(checkpoint):
    original = GADMSForPreTraining.from_pretrained(checkpoint)
    arguments = ModelArguments(from_pretrained=str(checkpoint), config={"temperature": 0.05, "num_identities": 9})
    model, processor = build_model_and_processor(arguments, [])
    assert_made_for_each_other(model, processor)
    assert model.config.temperature == 0.05 and model.classifier.out_features == 9
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in original.state_dict().items())


@pytest.mark.parametrize("identities", [0, 4])
def test_the_persons_of_another_data_set_get_a_classifier_of_their_own(checkpoint, tmp_path, identities):
    arguments = ModelArguments(from_pretrained=str(checkpoint), config={"num_identities": 9})
    build_model_and_processor(arguments, [])[0].save_pretrained(tmp_path / "tuned")
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "tuned")
    config = {"num_identities": identities} if identities else {}
    model, _ = build_model_and_processor(ModelArguments(from_pretrained=str(tmp_path / "tuned"), config=config), [])
    assert model.config.num_identities == identities
    assert (None if model.classifier is None else model.classifier.out_features) == (identities or None)
    before = GADMSForPreTraining.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_a_checkpoint_of_other_sizes_is_refused(checkpoint):
    with pytest.raises(ValueError, match="weights do not have the size that its configuration says"):
        build_model_and_processor(ModelArguments(from_pretrained=str(checkpoint), config={"projection_dim": 24}), [])


def test_a_checkpoint_that_lacks_weights_of_the_encoders_is_refused(checkpoint):
    from safetensors.torch import load_file, save_file

    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    lacking = next(name for name in weights if "patch_embedding" in name)
    del weights[lacking]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(
        ValueError, match=f"lacks 1 weights of GADMSForPreTraining, such as .*{lacking.split('.')[-2]}"
    ):
        build_model_and_processor(ModelArguments(from_pretrained=str(checkpoint)), [])


def test_training_goes_on_in_float32_from_a_checkpoint_in_half_precision(checkpoint):
    GADMSForPreTraining.from_pretrained(checkpoint).to(torch.bfloat16).save_pretrained(checkpoint)
    assert json.loads((checkpoint / "config.json").read_text())["dtype"] == "bfloat16"
    model, _ = build_model_and_processor(ModelArguments(from_pretrained=str(checkpoint)), [])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_config": {"attention_dropot": 0.1}}, "did you mean `attention_dropout`"),
        ({"temperature": -1.0}, "temperature = -1.0"),
    ],
)
def test_fields_that_replace_a_checkpoints_are_checked(checkpoint, fields, message):
    with pytest.raises(Exception, match=message):
        build_model_and_processor(ModelArguments(from_pretrained=str(checkpoint), config=fields), [])


def test_two_sources_are_refused():
    with pytest.raises(ValueError, match="both from_pretrained and a dual encoder"):
        build_model_and_processor(ModelArguments(from_pretrained="a", from_clip="b"), [])


@pytest.mark.parametrize("source", [{}, {"from_pretrained": "a"}])
def test_an_image_size_without_clip_is_refused(source):
    with pytest.raises(ValueError, match="model.image_size goes with model.from_dual_encoder"):
        build_model_and_processor(ModelArguments(image_size=[32, 16], **source), [])
