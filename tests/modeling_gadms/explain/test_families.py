"""Explanations of every family's models, compared with the equations step by step and with central differences."""

import copy
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gadms.encoders.encoding import encode_captions, encode_images
from modeling_gadms.encoders.loading import load_model_and_processor
from modeling_gadms.explain.caption_tokens import explain_caption
from modeling_gadms.explain.image_patches import image_relevance
from tests.dual_encoders import save_dual_encoder


CAPTION = "A woman with purple shoes"
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8))
HEADS = 4
STEP = 1e-3
"""Of central differences; the softmax of some encoders is float32 in any precision."""
CLIP = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
BERT = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
TEXT = {
    # Layers, their parts, and whether the caption is embedded at its first token instead of the last one.
    "CLIP": ("text_model.encoder.layers", CLIP, False),
    "MetaCLIP 2": ("text_model.encoder.layers", CLIP, False),
    "SigLIP": ("text_model.encoder.layers", CLIP, False),
    "SigLIP 2": ("text_model.encoder.layers", CLIP, False),
    "ALIGN": ("text_model.encoder.layer", BERT, True),
    "Chinese-CLIP": ("text_model.encoder.layer", BERT, True),
    "AltCLIP": ("text_model.roberta.encoder.layers", BERT, True),
}
IMAGES = {
    # Layers, their parts, and the position of the first patch.
    "CLIP": ("vision_model.encoder.layers", CLIP, 1),
    "Chinese-CLIP": ("vision_model.encoder.layers", CLIP, 1),
    "TIPSv2": ("vision_model.encoder.layer", tuple(f"attention.{name}_proj" for name in "qkvo"), 2),
}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    loaded: dict[str, tuple[Any, Any]] = {}

    def get(family: str) -> tuple[Any, Any]:
        if family not in loaded:
            folder: Path = save_dual_encoder(family, tmp_path_factory.mktemp("family"))
            loaded[family] = load_model_and_processor(folder)
        return loaded[family]

    return get


def records(model: Any, encode: str, inputs: Any, layer: Any, parts: tuple[str, ...]) -> list[torch.Tensor]:
    """Queries, keys and values of a layer, each of shape (sequence_length, hidden_size)."""
    taken: dict[str, torch.Tensor] = {}
    handles = [
        attrgetter(part)(layer).register_forward_hook(lambda _, __, out, part=part: taken.update({part: out[0]}))
        for part in parts[:3]
    ]
    getattr(model, encode)(**inputs)
    for handle in handles:
        handle.remove()
    return [taken[part] for part in parts[:3]]


def gradient_of(model: Any, encode: str, inputs: Any, output: Any, at: int, other: torch.Tensor) -> torch.Tensor:
    """The gradient of the similarity with respect to the heads' output at a position, by central differences."""

    def similarity(change: torch.Tensor) -> float:
        def changed(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            heads = arguments[0].clone()
            heads[0, at] += change
            return (heads, *arguments[1:])

        handle = output.register_forward_pre_hook(changed)
        embeds = getattr(model, encode)(**inputs).pooler_output[0]
        handle.remove()
        return float(torch.cosine_similarity(embeds, other, dim=0))

    steps = STEP * torch.eye(output.in_features, dtype=torch.float64)
    return torch.tensor([(similarity(step) - similarity(-step)) / (2 * STEP) for step in steps], dtype=torch.float64)


def pooled(states: torch.Tensor) -> torch.Tensor:
    """Multi-scale pooling of one caption: the mean of the tokens and of pairs of them, stretched to their length."""
    pairs = torch.stack([states[start : start + 2].mean(dim=0) for start in range(0, len(states), 2)])
    stretched = torch.nn.functional.interpolate(pairs.T[None], size=len(states), mode="linear")[0].T
    return (states + stretched) / 2


def scaled(values: list[float]) -> list[float]:
    return [(value - min(values)) / (max(values) - min(values)) for value in values]


@torch.no_grad()
def naive_scores(model: Any, processor: Any, family: str) -> list[float]:
    path, parts, is_first = TEXT[family]
    image = encode_images(model, processor, [PICTURE], progress=False)[0].double()
    model, inputs = copy.deepcopy(model).double(), processor(text=[CAPTION])
    ids = inputs["input_ids"][0].tolist()
    special = {processor.tokenizer.convert_tokens_to_ids(t) for t in processor.tokenizer.all_special_tokens}
    own, at = [i for i, token in enumerate(ids) if token not in special], 0 if is_first else len(ids) - 1
    totals = [0.0] * len(own)
    layers = attrgetter(path)(model)
    for layer in layers:
        query, key, value = records(model, "get_text_features", inputs, layer, parts)
        gradient = gradient_of(model, "get_text_features", inputs, attrgetter(parts[3])(layer), at, image)
        weights = scaled([float(pooled(query)[at] @ pooled(key)[i]) for i in own])
        attention = torch.zeros(len(ids), dtype=torch.float64)
        for q, k in zip(query[at].chunk(HEADS), key.chunk(HEADS, dim=1), strict=True):
            attention += (k @ q / len(q) ** 0.5).softmax(dim=0) / HEADS
        for place, i in enumerate(own):
            totals[place] += weights[place] * float(gradient @ value[i]) * float(attention[i]) / len(layers)
    return scaled([max(0.0, total) for total in totals])


@pytest.mark.parametrize("family", TEXT)
def test_words_have_the_scores_of_the_equations(load, family):
    model, processor = load(family)
    found = explain_caption(model, processor, PICTURE, CAPTION)
    text = encode_captions(model, processor, [CAPTION], progress=False)[0]
    image = encode_images(model, processor, [PICTURE], progress=False)[0]
    assert found.similarity == pytest.approx(float(text @ image), abs=1e-5)
    expected = naive_scores(model, processor, family)
    assert len({round(score, 3) for score in expected}) > 2, "nothing is tested where all are alike"
    spaces = len(expected) - len(found.tokens)  # some tokenizers have tokens of them, which are not shown
    scores = [token.score for token in found.tokens]
    assert spaces == 0 or family not in ("CLIP", "ALIGN", "Chinese-CLIP")
    assert subsequence(scores, expected), (scores, expected)


def subsequence(values: list[float], of: list[float]) -> bool:
    remaining = iter(of)
    return all(any(abs(value - other) < 2e-3 for other in remaining) for value in values)


def relevance(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(scaled([float(torch.cosine_similarity(query, key, dim=0)) for key in keys]))
    scores = torch.relu(weights * torch.stack([gradient @ value for value in values]))
    return (scores / scores.max()).float() if scores.any() else scores.float()


@pytest.mark.parametrize("family", IMAGES)
@torch.no_grad()
def test_patches_have_the_relevance_of_the_equations(load, family):
    path, parts, first = IMAGES[family]
    model, processor = load(family)
    double, inputs = copy.deepcopy(model).double(), processor(images=[PICTURE])
    inputs["pixel_values"] = inputs["pixel_values"].double()
    layer = attrgetter(path)(double)[-1]
    query, key, value = records(double, "get_image_features", inputs, layer, parts)
    relevant = 0
    for caption in (CAPTION, "a man in a red coat", "person"):
        found = image_relevance(model, processor, PICTURE, caption).scores
        text = encode_captions(model, processor, [caption], progress=False)[0].double()
        gradient = gradient_of(double, "get_image_features", inputs, attrgetter(parts[3])(layer), 0, text)
        expected = relevance(query[0], key[first:], value[first:], gradient)
        assert found.shape == (4, 4)
        torch.testing.assert_close(found.flatten(), expected, atol=2e-3, rtol=1e-3)
        relevant += int((expected > 0).sum())
    assert 0 < relevant < 3 * 16, "nothing is tested where all are alike"


@pytest.mark.parametrize("family", ["SigLIP 2", "SigLIP 2 NaFlex"])
@torch.no_grad()
def test_patches_of_siglip_have_the_relevance_to_its_pooling_head(load, family):
    model, processor = load(family)
    found = image_relevance(model, processor, PICTURE, CAPTION).scores
    text = encode_captions(model, processor, [CAPTION], progress=False)[0].double()
    inputs, model = processor(images=[PICTURE]), copy.deepcopy(model).double()
    rows, columns = inputs["spatial_shapes"][0].tolist() if "spatial_shapes" in inputs else (4, 4)
    inputs["pixel_values"] = inputs["pixel_values"].double()
    patches = model.get_image_features(**inputs).last_hidden_state[0, : rows * columns]
    head = model.vision_model.head
    weights, biases = head.attention.in_proj_weight.chunk(3), head.attention.in_proj_bias.chunk(3)
    query, key, value = (
        torch.nn.functional.linear(states, *parameters)
        for states, *parameters in zip((head.probe[0], patches, patches), weights, biases, strict=True)
    )

    def similarity(change: torch.Tensor) -> float:
        heads = [
            (k @ q[0] / len(q[0]) ** 0.5).softmax(dim=0) @ v
            for q, k, v in zip(*(each.chunk(HEADS, dim=1) for each in (query, key, value)), strict=True)
        ]
        attended = head.attention.out_proj(torch.cat(heads) + change)
        return float(torch.cosine_similarity(attended + head.mlp(head.layernorm(attended)), text, dim=0))

    steps = STEP * torch.eye(query.shape[1], dtype=torch.float64)
    gradient = torch.tensor([(similarity(step) - similarity(-step)) / (2 * STEP) for step in steps])
    expected = relevance(query[0], key, value, gradient.double())
    assert found.shape == (rows, columns) and 0 < int((expected > 0).sum()) < rows * columns
    torch.testing.assert_close(found.flatten(), expected, atol=2e-4, rtol=1e-3)


def test_what_a_family_has_no_attention_for_is_refused(load):
    with pytest.raises(ValueError, match="TIPSv2 models do not support token scores: .*averages over all tokens"):
        explain_caption(*load("TIPSv2"), PICTURE, CAPTION)
    with pytest.raises(ValueError, match="ALIGN models do not support heat maps: .*convolutional"):
        image_relevance(*load("ALIGN"), PICTURE, CAPTION)
