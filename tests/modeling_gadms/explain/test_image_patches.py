"""Image relevance, compared with the equations step by step and with removing patches."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gadms import GADMSModel
from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.onnx_model import OnnxModel
from modeling_gadms.explain.image_patches import draw_heat_map, image_relevance


CAPTION = "a man in a red coat"


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8))


def naive(model: GADMSModel, processor, picture: Image.Image) -> torch.Tensor:
    """The last layer explicitly: one head and one patch at a time, with gradients by central differences."""
    text = encode_captions(model, processor, [CAPTION], progress=False)[0].double()
    pixels = processor(images=[picture], return_tensors="pt")["pixel_values"].double()
    model = model.double()
    vision = model.vision_model
    with torch.no_grad():
        layer = vision.encoder.layers[-1]
        inputs: list[torch.Tensor] = []
        handle = layer.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
        vision(pixels)
        handle.remove()
        states = inputs[0][0]  # (1 + num_patches, hidden_size)
        attention = layer.self_attn
        normed = layer.layer_norm1(states)
        query, key, value = attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)
        head_dim = query.shape[-1] // attention.num_heads
        parts = []
        for head in range(attention.num_heads):
            own = slice(head * head_dim, (head + 1) * head_dim)
            weights = ((query[:, own] @ key[:, own].T) / head_dim**0.5).softmax(dim=-1)
            parts.append(weights @ value[:, own])
        output = torch.cat(parts, dim=-1)

        def similarity(at_class_token: torch.Tensor) -> float:
            after = attention.out_proj(torch.cat([at_class_token[None], output[1:]])) + states
            after = after + layer.mlp(layer.layer_norm2(after))
            embed = model.visual_projection(vision.post_layernorm(after))[0]
            return float(torch.cosine_similarity(embed, text, dim=0))

        step = 1e-5
        gradient = torch.zeros_like(output[0])
        for channel in range(len(gradient)):
            change = torch.zeros_like(gradient)
            change[channel] = step
            gradient[channel] = (similarity(output[0] + change) - similarity(output[0] - change)) / (2 * step)
        cosines = [float(torch.cosine_similarity(query[0], key[i], dim=0)) for i in range(1, len(key))]
        lowest, highest = min(cosines), max(cosines)
        scores = torch.tensor(
            [
                max(0.0, (cosine - lowest) / (highest - lowest) * float(gradient @ value[i]))
                for i, cosine in enumerate(cosines, start=1)
            ]
        )
    return (scores / scores.max()).reshape(4, 2)


def test_scores_are_the_equations_step_by_step(model, processor, picture):
    found = image_relevance(model, processor, picture, CAPTION)
    assert found.scores.shape == (4, 2)
    text = encode_captions(model, processor, [CAPTION], progress=False)[0]
    image = encode_images(model, processor, [picture], progress=False)[0]
    assert found.similarity == pytest.approx(float(text @ image), abs=1e-5)
    torch.testing.assert_close(found.scores, naive(model, processor, picture).float(), atol=2e-4, rtol=1e-3)
    assert 0 < int((found.scores > 0).sum()) < 8, "nothing is tested where all are alike"


def test_pooled_patches_have_the_parts_of_the_similarity(tiny_model, processor, picture):
    """The embedding of an image without one patch token, for each of them: the sum over patches is exact."""
    model = tiny_model(image_pooling="patches").gadms.eval()
    found = image_relevance(model, processor, picture, CAPTION)
    text = encode_captions(model, processor, [CAPTION], progress=False)[0]
    image = encode_images(model, processor, [picture], progress=False)[0]
    assert found.similarity == pytest.approx(float(text @ image), abs=1e-5)
    with torch.no_grad():
        tokens = model.get_image_features(processor(images=[picture], return_tensors="pt")["pixel_values"])
        whole = model.patch_pooling(tokens.last_hidden_state[0, 1:].flatten())
        parts = torch.zeros(8)
        for place in range(8):
            without = tokens.last_hidden_state[0, 1:].clone()
            without[place] = 0.0
            parts[place] = (whole - model.patch_pooling(without.flatten())) @ text
    expected = parts.clamp(min=0.0).reshape(4, 2)
    assert 0 < int((expected > 0).sum()) < 8
    torch.testing.assert_close(found.scores, expected / expected.max(), atol=1e-4, rtol=1e-4)


def test_the_only_patch_that_is_not_empty_has_all_relevance(model, processor):
    """A layer that only copies: the class token attends to all, and values are of one patch alone."""
    layer = model.vision_model.encoder.layers[-1]
    seen: dict[str, torch.Tensor] = {}

    def one_patch(module, arguments, result):
        kept = torch.zeros_like(result)
        kept[:, 1 + 5] = result[:, 1 + 5]
        seen["value"] = kept
        return kept

    handle = layer.self_attn.v_proj.register_forward_hook(one_patch)
    found = [
        image_relevance(model, processor, Image.new("RGB", (32, 64), colour), CAPTION).scores
        for colour in ("red", "green", "white", "black", "yellow", "gray")
    ]
    handle.remove()
    hot = [scores.flatten() for scores in found if scores.any()]
    assert hot, "in none of the pictures it raises the similarity"
    for scores in hot:
        assert scores.nonzero().flatten().tolist() == [5]


def of_a_layer(model: GADMSModel, pixels: torch.Tensor, text: torch.Tensor, number: int) -> torch.Tensor:
    """Relevance in a layer before the ReLU. The gradient is by central differences: the model runs again with each
    channel of the class token's attention output slightly increased and decreased."""
    vision = model.vision_model
    attention = vision.encoder.layers[number].self_attn
    taken: dict[str, torch.Tensor] = {}
    handles = [
        getattr(attention, name).register_forward_hook(lambda _, __, out, name=name: taken.update({name: out[0]}))
        for name in ("q_proj", "k_proj", "v_proj")
    ]
    vision(pixels)
    for handle in handles:
        handle.remove()

    def similarity(change: torch.Tensor) -> float:
        def changed(_, arguments):
            output = arguments[0].clone()
            output[0, 0] += change
            return (output,)

        handle = attention.out_proj.register_forward_pre_hook(changed)
        embed = model.visual_projection(vision(pixels).pooler_output)[0]
        handle.remove()
        return float(torch.cosine_similarity(embed, text, dim=0))

    step = 1e-5 * torch.eye(attention.embed_dim, dtype=torch.float64)
    gradient = torch.tensor([(similarity(row) - similarity(-row)) / 2e-5 for row in step], dtype=torch.float64)
    query, key, value = taken["q_proj"], taken["k_proj"], taken["v_proj"]
    cosines = torch.stack([torch.cosine_similarity(query[0], row, dim=0) for row in key[1:]])
    weights = (cosines - cosines.min()) / (cosines.max() - cosines.min())
    return weights * torch.stack([gradient @ row for row in value[1:]])


def test_the_last_layer_has_its_own_gradient_at_the_class_token(model, processor, picture):
    found = image_relevance(model, processor, picture, CAPTION).scores
    text = encode_captions(model, processor, [CAPTION], progress=False)[0].double()
    pixels = processor(images=[picture], return_tensors="pt")["pixel_values"].double()
    with torch.no_grad():
        expected = torch.relu(of_a_layer(model.double(), pixels, text, -1))
    assert expected.any()
    torch.testing.assert_close(found.flatten(), (expected / expected.max()).float(), atol=2e-4, rtol=1e-3)


def test_it_changes_nothing_and_works_in_any_mode(model, processor, picture):
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    expected = image_relevance(model, processor, picture, CAPTION).scores
    model.train()
    with torch.inference_mode():
        torch.testing.assert_close(image_relevance(model, processor, picture, CAPTION).scores, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # in which the caption is encoded, and nothing else
        found = image_relevance(model, processor, picture, CAPTION).scores
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    assert model.vision_model.training
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_a_model_without_gradients_and_an_empty_caption_are_refused(model, processor, picture):
    with pytest.raises(TypeError, match="load the model with torch"):
        image_relevance(OnnxModel.__new__(OnnxModel), processor, picture, CAPTION)
    with pytest.raises(ValueError, match="is empty"):
        image_relevance(model, processor, picture, " ")


def test_the_heat_map_covers_its_patch_and_nothing_else():
    scores = torch.zeros(4, 2)
    scores[1, 0] = 1.0
    picture = Image.new("RGB", (20, 40), (100, 100, 100))
    drawn = draw_heat_map(picture, scores)
    assert drawn.size == picture.size
    assert drawn.getpixel((18, 38)) == (100, 100, 100)
    red, green, blue = drawn.getpixel((4, 14))
    assert red > 125 and green < 80 and blue < 85
    assert draw_heat_map(picture, torch.zeros(4, 2)).tobytes() == picture.tobytes()
