"""Token scores against a literal oracle of GA-DMS eq. 1-4: one caption, one layer and one backward call at a time."""

import copy
import itertools
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, SiglipTextConfig, SiglipTextModel

from modeling_gadms.token_scoring_gadms import (
    gradient_attention_scores,
    pooling_operator,
    scale_within_caption,
    token_image_cosine_scores,
)


PAD, BOS, EOS, MASK = 0, 37, 38, 39
VOCAB_SIZE, WIDTH, NUM_HEADS, NUM_LAYERS, PROJECTION = 40, 24, 4, 4, 12
POSITIONS = 20
RAGGED = ([5, 9, 2, 14, 7, 7, 30, 21, 16, 1, 28, 12, 3, 36], [11, 3], [6], [25, 8, 19, 4, 33, 10, 2, 17, 22])


# The oracle: no transformers module, the raw weights in float64.


@dataclass
class Layer:
    """Tensors of one attention layer for one caption."""

    query: torch.Tensor  # (length, width), concatenated heads
    key: torch.Tensor
    value: torch.Tensor
    attention: torch.Tensor  # (heads, length, length)
    output: torch.Tensor  # (length, width), before the output projection


def affine(weights: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def is_siglip(weights: dict[str, torch.Tensor]) -> bool:
    """Whether the weights are SigLIP's, whose projection has a bias."""
    return "text_projection.bias" in weights


def layer_norm(weights: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    deviation = (centred.pow(2).mean(dim=-1, keepdim=True) + (1e-6 if is_siglip(weights) else 1e-5)).sqrt()
    return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def encode(
    weights: dict[str, torch.Tensor], caption: list[int], num_heads: int
) -> tuple[torch.Tensor, torch.Tensor, list[Layer]]:
    """The caption's embedding, all its final states, and each layer's attention.

    `caption` is all that the encoder reads: BOS..EOS for CLIP, and with its padding for SigLIP.
    """
    length = len(caption)
    x = (
        weights["embeddings.token_embedding.weight"][caption]
        + weights["embeddings.position_embedding.weight"][:length]
    )
    x = x.detach().requires_grad_()
    num_layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layers."))
    layers = []
    for index in range(num_layers):
        prefix = f"encoder.layers.{index}"
        normed = layer_norm(weights, f"{prefix}.layer_norm1", x)
        query, key, value = (affine(weights, f"{prefix}.self_attn.{name}_proj", normed) for name in "qkv")
        head_dim = query.shape[1] // num_heads
        maps, heads = [], []
        for head in range(num_heads):
            part = slice(head * head_dim, (head + 1) * head_dim)
            logits = query[:, part] @ key[:, part].T / head_dim**0.5
            hidden = torch.ones(length, length, dtype=torch.bool).triu(1)  # CLIP's tokens do not see later ones
            hidden &= not is_siglip(weights)
            maps.append(logits.masked_fill(hidden, float("-inf")).softmax(dim=1))
            heads.append(maps[-1] @ value[:, part])
        output = torch.cat(heads, dim=1)
        layers.append(Layer(query, key, value, torch.stack(maps), output))
        x = x + affine(weights, f"{prefix}.self_attn.out_proj", output)
        inner = affine(weights, f"{prefix}.mlp.fc1", layer_norm(weights, f"{prefix}.layer_norm2", x))
        quick_gelu = inner * torch.sigmoid(1.702 * inner)
        activated = F.gelu(inner, approximate="tanh") if is_siglip(weights) else quick_gelu
        x = x + affine(weights, f"{prefix}.mlp.fc2", activated)
    x = layer_norm(weights, "final_layer_norm", x)
    projected = x @ weights["text_projection.weight"].T + weights.get("text_projection.bias", 0)
    return projected[-1], projected, layers


def literal_pooling(x: torch.Tensor, scales: tuple[int, ...]) -> torch.Tensor:
    """MSP over the token axis of (length, width)."""
    length, channels_first = len(x), x.T[None]
    pooled = []
    for scale in scales:
        coarse = F.avg_pool1d(channels_first, kernel_size=scale, stride=scale, ceil_mode=True)
        pooled.append(F.interpolate(coarse, size=length, mode="linear", align_corners=False)[0].T)
    return sum(pooled) / len(scales)


def min_max(values: torch.Tensor) -> torch.Tensor:
    low, high = values.min(), values.max()
    are_equal = high - low <= 1e-12 * values.abs().max()
    return torch.full_like(values, 0.5) if are_equal else (values - low) / (high - low)


def literal_scores(
    weights: dict[str, torch.Tensor],
    caption: list[int],
    image: torch.Tensor,
    *,
    num_layers: int,
    scales: tuple[int, ...],
    num_heads: int = NUM_HEADS,
    divide_by_importance: bool = False,
    scaled: bool = True,
    own: slice = slice(1, -1),
) -> torch.Tensor:
    """GASS of one caption's own tokens (by default those between BOS and EOS)."""
    embedding, _, layers = encode(weights, caption, num_heads)
    similarity = embedding @ image / (embedding.norm() * image.norm())
    total = torch.zeros(len(caption[own]), dtype=similarity.dtype)
    for layer in layers[-num_layers:]:
        (gradient,) = torch.autograd.grad(similarity, layer.output, retain_graph=True)
        g = gradient[-1]
        raw = literal_pooling(layer.key, scales) @ literal_pooling(layer.query, scales)[-1]
        w = min_max(raw[own])  # eq. 1
        s_g = (g[None, :] * w[:, None] * layer.value[own]).sum(dim=1)  # eq. 2
        row = layer.attention.mean(dim=0)[-1]
        s_a = row[own] / (w.sum() if divide_by_importance else row.sum())  # eq. 3
        total = total + s_g * s_a
    scores = F.relu(total / num_layers).detach()  # eq. 4
    return min_max(scores) if scaled else scores


# Random tiny text towers and padded batches.


class Tower(nn.Module):
    """A text encoder whose every weight, bias and norm is random."""

    def __init__(self, seed: int = 0, attention: str = "sdpa", siglip: bool = False, **fields):
        super().__init__()
        config_class, model_class = (SiglipTextConfig, SiglipTextModel) if siglip else (CLIPTextConfig, CLIPTextModel)
        config = config_class(
            **{
                "vocab_size": VOCAB_SIZE,
                "hidden_size": WIDTH,
                "intermediate_size": 32,
                "num_hidden_layers": NUM_LAYERS,
                "num_attention_heads": NUM_HEADS,
                "max_position_embeddings": POSITIONS,
                "bos_token_id": BOS,
                "eos_token_id": EOS,
                "pad_token_id": PAD,
            }
            | fields
        )
        self.text_model = model_class._from_config(config, attn_implementation=attention)
        self.text_projection = nn.Linear(WIDTH, PROJECTION, bias=siglip)
        if siglip:
            self.text_model.head = nn.Identity()
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.data = centre + 0.12 * noise
        self.eval()

    def raw_weights(self) -> dict[str, torch.Tensor]:
        return {
            name.removeprefix("text_model."): value.detach().double().clone()
            for name, value in self.state_dict().items()
        }

    def scores(self, input_ids, attention_mask, images, num_layers=3, scales=(1, 2)):
        return gradient_attention_scores(
            self.text_model,
            self.text_projection,
            input_ids,
            attention_mask,
            images,
            num_layers=num_layers,
            scales=scales,
        )

    def state_to_keep(self) -> list:
        """Everything that scoring must not change."""
        return [
            [
                (name, module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
                for name, module in self.named_modules()
            ],
            [
                (name, id(p), p.requires_grad, p.dtype, None if p.grad is None else p.grad.clone().tolist())
                for name, p in self.named_parameters()
            ],
            self.text_model.config._attn_implementation,
            self.text_model.encoder.layers[0].self_attn.config._attn_implementation,
            [getattr(module, "gradient_checkpointing", None) for module in self.modules()],
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
        ]


def pad_batch(captions, pad: int = PAD, extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """`input_ids` and `attention_mask` of captions given by their own tokens."""
    rows = [[BOS, *caption, EOS] for caption in captions]
    length = max(map(len, rows)) + extra
    input_ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
    attention_mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return input_ids, attention_mask


def random_images(count: int, seed: int = 99) -> torch.Tensor:
    return torch.randn(count, PROJECTION, generator=torch.Generator().manual_seed(seed))


def literal_batch(tower: Tower, captions, images, num_layers=3, scales=(1, 2), length=None, **variant) -> torch.Tensor:
    """The oracle's scores of a batch, in float64, zero outside own tokens."""
    weights = tower.raw_weights()
    length = length or max(map(len, captions)) + 2
    expected = torch.zeros(len(captions), length, dtype=torch.float64)
    for row, (caption, image) in enumerate(zip(captions, images.double(), strict=True)):
        expected[row, 1 : len(caption) + 1] = literal_scores(
            weights, [BOS, *caption, EOS], image, num_layers=num_layers, scales=scales, **variant
        )
    return expected


def assert_literal(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)


attentions = pytest.mark.parametrize("attention", ["sdpa", "eager"])


def test_oracle_encodes_as_clip():
    """The oracle's forward is the network that is scored."""
    tower = Tower().double()
    input_ids, _ = pad_batch(RAGGED[:1])
    embedding, projected, _ = encode(tower.raw_weights(), input_ids[0].tolist(), NUM_HEADS)
    outputs = tower.text_model(input_ids)
    torch.testing.assert_close(embedding, tower.text_projection(outputs.pooler_output)[0])
    torch.testing.assert_close(projected, tower.text_projection(outputs.last_hidden_state)[0])


def slope_of_similarity(tower, input_ids: torch.Tensor, image: torch.Tensor, index: int, channel: int) -> torch.Tensor:
    """Central difference over a channel of what the attention of a layer gives the last position to project."""
    step = 1e-5

    def moved(amount: float) -> torch.Tensor:
        def add(module, arguments):
            shifted = arguments[0].clone()
            shifted[0, -1, channel] += amount
            return (shifted,)

        handle = tower.text_model.encoder.layers[index].self_attn.out_proj.register_forward_pre_hook(add)
        with torch.no_grad():
            embedding = tower.text_projection(tower.text_model(input_ids).pooler_output)[0]
        handle.remove()
        return F.cosine_similarity(embedding, image, dim=0)

    return (moved(step) - moved(-step)) / (2 * step)


def test_oracle_gradient_is_the_slope_of_the_similarity():
    """Finite differences of eq. 2's gradient: move the EOS attention output of one layer, measure the cosine."""
    tower = Tower().double()
    input_ids, _ = pad_batch(RAGGED[:1])
    image = random_images(1)[0].double()
    embedding, _, layers = encode(tower.raw_weights(), input_ids[0].tolist(), NUM_HEADS)
    index, channel = 1, 5
    similarity = F.cosine_similarity(embedding, image, dim=0)
    (gradient,) = torch.autograd.grad(similarity, layers[index].output)
    slope = slope_of_similarity(tower, input_ids, image, index, channel)
    torch.testing.assert_close(gradient[-1, channel], slope, rtol=1e-6, atol=1e-9)


def test_random_towers_give_scores_worth_comparing():
    """Saturated attention would leave one 1 among zeros, and any formula would pass."""
    images = random_images(len(RAGGED))
    scores = torch.stack([Tower(seed).scores(*pad_batch(RAGGED), images) for seed in range(8)])
    longest = scores[:, 0, 1 : len(RAGGED[0]) + 1]
    assert ((longest > 0.02) & (longest < 0.98)).float().mean() > 0.3


# GASS equals eq. 1-4.


@attentions
@pytest.mark.parametrize("seed", range(4))
def test_gass_equals_the_equations_on_ragged_captions(attention, seed):
    tower, images = Tower(seed, attention), random_images(len(RAGGED), seed + 50)
    scores = tower.scores(*pad_batch(RAGGED), images)
    assert scores.dtype == torch.float32 and not scores.requires_grad
    assert_literal(scores, literal_batch(tower, RAGGED, images))


@attentions
@pytest.mark.parametrize("scales", [(1,), (1, 2), (2, 3), (1, 3, 16)])
@pytest.mark.parametrize("num_layers", [1, 2, NUM_LAYERS])
def test_gass_equals_the_equations_for_layers_and_scales(attention, num_layers, scales):
    tower, images = Tower(7, attention), random_images(len(RAGGED))
    scores = tower.scores(*pad_batch(RAGGED), images, num_layers, scales)
    assert_literal(scores, literal_batch(tower, RAGGED, images, num_layers, scales))


@settings(max_examples=60, deadline=None)
@given(
    captions=st.lists(st.lists(st.integers(1, 36), min_size=1, max_size=12), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    attention=st.sampled_from(["sdpa", "eager"]),
)
def test_gass_equals_the_equations_on_any_captions(captions, seed, attention):
    """In float64, so that an ill-conditioned min-max of a random caption cannot blur the comparison."""
    tower, images = Tower(seed, attention).double(), random_images(len(captions), seed).double()
    scores = tower.scores(*pad_batch(captions), images)
    assert_literal(scores, literal_batch(tower, captions, images))


@pytest.mark.torture
@settings(max_examples=1000, deadline=None)
@given(
    captions=st.lists(st.lists(st.integers(1, 36), min_size=1, max_size=18), min_size=1, max_size=6),
    seed=st.integers(0, 10**6),
    attention=st.sampled_from(["sdpa", "eager"]),
    num_layers=st.integers(1, NUM_LAYERS),
    # A window as long as the caption leaves keys that differ by rounding alone, which min-max would compare.
    scales=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
)
def test_gass_equals_the_equations_everywhere(captions, seed, attention, num_layers, scales):
    tower, images = Tower(seed, attention).double(), random_images(len(captions), seed).double()
    scores = tower.scores(*pad_batch(captions), images, num_layers, scales)
    assert_literal(scores, literal_batch(tower, captions, images, num_layers, scales))


@attentions
def test_gass_in_autocast(attention):
    tower, images = Tower(1, attention), random_images(len(RAGGED))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = tower.scores(*pad_batch(RAGGED), images)
        assert torch.is_autocast_enabled("cpu")
    assert scores.dtype == torch.float32
    assert_literal(scores, literal_batch(tower, RAGGED, images))


@attentions
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gass_without_gradients(attention, context):
    tower, outer = Tower(2, attention), random_images(len(RAGGED))
    with context():
        images = outer * 1.0  # made inside, as an encoder's output is
        scores = tower.scores(*pad_batch(RAGGED), images)
        from_outside = tower.scores(*pad_batch(RAGGED), outer)
        assert not torch.is_grad_enabled()
    expected = literal_batch(tower, RAGGED, outer)
    assert_literal(scores, expected)
    assert_literal(from_outside, expected)


@attentions
@pytest.mark.parametrize("reentrant", [True, False])
def test_gass_with_gradient_checkpointing(attention, reentrant):
    tower, images = Tower(3, attention), random_images(len(RAGGED))
    tower.text_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    tower.train()
    before = tower.state_to_keep()
    scores = tower.scores(*pad_batch(RAGGED), images)
    assert tower.state_to_keep() == before
    assert_literal(scores, literal_batch(tower, RAGGED, images))


@attentions
@pytest.mark.parametrize("training", [True, False])
def test_gass_in_training_and_evaluation_mode(attention, training):
    tower, images = Tower(4, attention).train(training), random_images(len(RAGGED))
    assert_literal(tower.scores(*pad_batch(RAGGED), images), literal_batch(tower, RAGGED, images))


@attentions
def test_gass_of_a_network_in_training_with_dropout_is_of_the_deterministic_network(attention):
    tower, images = Tower(5, attention, attention_dropout=0.5).train(), random_images(len(RAGGED))
    scores = tower.scores(*pad_batch(RAGGED), images)
    assert torch.equal(scores, tower.scores(*pad_batch(RAGGED), images))
    assert_literal(scores, literal_batch(tower, RAGGED, images))


@attentions
def test_gass_of_float64_weights_stays_in_float64_precision(attention):
    tower, images = Tower(6, attention).double(), random_images(len(RAGGED)).double()
    assert_literal(tower.scores(*pad_batch(RAGGED), images), literal_batch(tower, RAGGED, images), 1e-6)


@attentions
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gass_of_half_precision_weights_is_computed_in_float32(attention, dtype):
    tower, images = Tower(8, attention).to(dtype), random_images(len(RAGGED)).to(dtype)
    scores = tower.scores(*pad_batch(RAGGED), images)
    assert scores.dtype == torch.float32
    assert_literal(scores, literal_batch(tower, RAGGED, images))
    assert {parameter.dtype for parameter in tower.parameters()} == {dtype}


@attentions
@pytest.mark.parametrize("pass_mask", [True, False])
def test_gass_where_eos_is_the_padding_token(attention, pass_mask):
    tower, images = Tower(9, attention, pad_token_id=EOS), random_images(len(RAGGED))
    input_ids, attention_mask = pad_batch(RAGGED, pad=EOS)
    scores = tower.scores(input_ids, attention_mask if pass_mask else None, images)
    assert_literal(scores, literal_batch(tower, RAGGED, images))


def test_gass_without_an_attention_mask():
    tower, images = Tower(10), random_images(len(RAGGED))
    assert_literal(tower.scores(pad_batch(RAGGED)[0], None, images), literal_batch(tower, RAGGED, images))


def test_gass_of_a_caption_with_a_mask_token_reads_eos():
    """The mask token's id is above EOS: it is one more token and not the end."""
    tower, captions = Tower(11), [[4, MASK, 9, 12], [3, 3, MASK]]
    images = random_images(2)
    assert_literal(tower.scores(*pad_batch(captions), images), literal_batch(tower, captions, images))


def test_gass_does_not_depend_on_the_length_of_the_image_embedding():
    tower, images = Tower(12), random_images(len(RAGGED))
    torch.testing.assert_close(
        tower.scores(*pad_batch(RAGGED), images), tower.scores(*pad_batch(RAGGED), images * 17.0), rtol=0, atol=1e-5
    )


def test_gass_range_and_zeros():
    tower, images = Tower(13), random_images(len(RAGGED))
    scores = tower.scores(*pad_batch(RAGGED, extra=3), images)
    for row, caption in zip(scores, RAGGED, strict=True):
        own = row[1 : len(caption) + 1]
        assert row[0] == 0 and not row[len(caption) + 1 :].any()
        if len(caption) > 1 and own.unique().numel() > 1:
            assert own.min() == 0 and own.max() == 1
    assert scores[2, 1] == 0.5  # one token alone has no rank


def test_gass_of_a_caption_that_no_token_supports_is_one_half():
    """ReLU makes all scores zero: they are equal, and noise masking is improbable."""
    tower, captions = Tower(0), [[token, token + 1] for token in range(1, 30)]
    images = random_images(len(captions))
    expected = literal_batch(tower, captions, images)
    unsupported = (expected[:, 1:3] == 0.5).all(dim=1)
    assert unsupported.any()
    assert (tower.scores(*pad_batch(captions), images)[unsupported, 1:3] == 0.5).all()


# A caption's scores are its own.


@attentions
def test_scores_do_not_depend_on_neighbours_order_or_padding(attention):
    tower, images = Tower(14, attention), random_images(len(RAGGED))
    batch = tower.scores(*pad_batch(RAGGED), images)
    for order in itertools.islice(itertools.permutations(range(len(RAGGED))), 0, None, 5):
        captions = [RAGGED[index] for index in order]
        shuffled = tower.scores(*pad_batch(captions, extra=len(order) % 3 + 1), images[list(order)])
        torch.testing.assert_close(shuffled[:, : batch.shape[1]], batch[list(order)], rtol=0, atol=1e-5)
    for row, caption in enumerate(RAGGED):
        alone = tower.scores(*pad_batch([caption]), images[row : row + 1])[0]
        torch.testing.assert_close(alone, batch[row, : len(alone)], rtol=0, atol=1e-5)


def test_a_broken_pair_does_not_spoil_its_neighbours():
    """Released code zeroes the scores of a whole batch on one NaN."""
    tower, images = Tower(15), random_images(len(RAGGED))
    expected = tower.scores(*pad_batch(RAGGED), images)
    images[1] = float("nan")
    scores = tower.scores(*pad_batch(RAGGED), images)
    torch.testing.assert_close(scores[[0, 2, 3]], expected[[0, 2, 3]], rtol=0, atol=1e-6)


# Defects of the released code (each would make one of these fail).


def test_scores_belong_to_the_network_with_its_own_heads():
    tower, images = Tower(16), random_images(len(RAGGED))
    scores = tower.scores(*pad_batch(RAGGED), images).double()
    one_head = literal_batch(tower, RAGGED, images, num_heads=1)
    assert (scores - one_head).abs().max() > 0.05
    assert_literal(scores, literal_batch(tower, RAGGED, images, num_heads=NUM_HEADS))


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_scores_follow_the_configured_heads(heads):
    tower, images = Tower(16, num_attention_heads=heads), random_images(len(RAGGED))
    assert_literal(tower.scores(*pad_batch(RAGGED), images), literal_batch(tower, RAGGED, images, num_heads=heads))


def test_attention_is_divided_by_the_sum_of_attention():
    tower, images = Tower(17), random_images(len(RAGGED))
    scores = tower.scores(*pad_batch(RAGGED), images).double()
    assert (scores - literal_batch(tower, RAGGED, images, divide_by_importance=True)).abs().max() > 0.01
    assert_literal(scores, literal_batch(tower, RAGGED, images))


def test_scores_are_scaled_within_the_caption_and_not_over_the_batch():
    """Every caption with a ranking reaches 0 and 1, also next to captions with larger scores."""
    tower, captions = Tower(18), [RAGGED[0]] * 6
    images = random_images(len(captions))
    weights, caption = tower.raw_weights(), [BOS, *RAGGED[0], EOS]
    strengths = [
        literal_scores(weights, caption, image.double(), num_layers=3, scales=(1, 2), scaled=False).max()
        for image in images
    ]
    assert max(strengths) > 1.5 * min(strengths) > 0  # scaling over the batch would leave the weakest at 2/3
    scores = tower.scores(*pad_batch(captions), images)[:, 1 : len(caption) - 1]
    assert scores.amin(dim=1).tolist() == [0.0] * len(captions)
    assert scores.amax(dim=1).tolist() == [1.0] * len(captions)


def test_half_precision_scores_are_finite_and_close_to_full_precision():
    tower, images = Tower(19), random_images(len(RAGGED))
    full = tower.scores(*pad_batch(RAGGED), images)
    half = copy.deepcopy(tower).half().scores(*pad_batch(RAGGED), images.half())
    assert half.isfinite().all()
    assert (half - full).abs().mean() < 0.05


def test_every_layer_is_scored_by_one_backward_pass(monkeypatch):
    calls = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: calls.append(args) or grad(*args, **kwargs))
    monkeypatch.setattr(torch.autograd, "backward", lambda *args, **kwargs: calls.append(args))
    tower, images = Tower(20), random_images(len(RAGGED))
    forwards = []
    tower.text_model.encoder.layers[0].register_forward_hook(lambda *_: forwards.append(1))
    tower.scores(*pad_batch(RAGGED), images, num_layers=NUM_LAYERS)
    assert len(calls) == 1 and len(forwards) == 1


# Scoring leaves no trace.


def with_uneven_state(tower: Tower) -> Tower:
    """Frozen and trained parameters, some with gradients, layers in different modes, a hook of somebody else."""
    for index, parameter in enumerate(tower.parameters()):
        parameter.requires_grad_(index % 3 != 0)
        if index % 2:
            parameter.grad = torch.full_like(parameter, float(index))
    tower.train()
    tower.text_model.encoder.layers[1].eval()
    tower.text_model.encoder.layers[0].self_attn.register_forward_hook(lambda *_: None)
    tower.text_model.encoder.layers[2].self_attn.v_proj.register_forward_hook(lambda *_: None)
    return tower


@attentions
@pytest.mark.parametrize("score", ["gass", "cosine"])
def test_scoring_restores_what_it_found(attention, score):
    tower, images = with_uneven_state(Tower(21, attention)), random_images(len(RAGGED))
    before, weights = tower.state_to_keep(), tower.raw_weights()
    if score == "gass":
        tower.scores(*pad_batch(RAGGED), images)
    else:
        token_image_cosine_scores(tower.text_model, tower.text_projection, *pad_batch(RAGGED), images)
    assert tower.state_to_keep() == before
    assert all(torch.equal(value, weights[name]) for name, value in tower.raw_weights().items())


@attentions
@pytest.mark.parametrize("where", ["layer", "similarity"])
def test_scoring_restores_what_it_found_after_an_error(attention, where):
    tower, images = with_uneven_state(Tower(22, attention)), random_images(len(RAGGED))
    if where == "layer":

        def fail(*_):
            raise RuntimeError("planted")

        handle = tower.text_model.encoder.layers[-1].mlp.register_forward_hook(fail)
    else:
        images = images[:, :-1]  # another width than the projection's
    before = tower.state_to_keep()
    with pytest.raises(RuntimeError, match="planted" if where == "layer" else None):
        tower.scores(*pad_batch(RAGGED), images)
    assert tower.state_to_keep() == before
    if where == "layer":
        handle.remove()
        images = random_images(len(RAGGED))
        assert_literal(tower.scores(*pad_batch(RAGGED), images), literal_batch(tower, RAGGED, images))


def test_scores_carry_no_graph_to_the_image():
    tower, images = Tower(23), random_images(len(RAGGED)).requires_grad_()
    scores = tower.scores(*pad_batch(RAGGED), images)
    assert not scores.requires_grad and images.grad is None


def test_scoring_inside_a_graph_leaves_the_gradient_of_a_loss_alone():
    """Score between a forward and its backward, as a training step does."""

    def gradients(score: bool) -> list[torch.Tensor]:
        tower, images = Tower(24).train(), random_images(len(RAGGED)).requires_grad_()
        input_ids, attention_mask = pad_batch(RAGGED)
        outputs = tower.text_model(input_ids, attention_mask)
        loss = (tower.text_projection(outputs.pooler_output) * images).sum()
        if score:
            tower.scores(input_ids, attention_mask, images)
        loss.backward()
        return [images.grad, *(parameter.grad for parameter in tower.parameters())]

    for without, with_scoring in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(without, with_scoring)


@attentions
@pytest.mark.parametrize("training", [True, False])
def test_gass_of_lora_layers_is_that_of_the_merged_weights(attention, training):
    peft = pytest.importorskip("peft")
    tower, images = Tower(25, attention), random_images(len(RAGGED))
    plain = tower.scores(*pad_batch(RAGGED), images)
    torch.manual_seed(0)
    lora = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.3,
        target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc1"],
        init_lora_weights=False,
    )
    wrapped = peft.get_peft_model(tower, lora).train(training)
    requires_grad = [parameter.requires_grad for parameter in wrapped.parameters()]
    scores = gradient_attention_scores(
        wrapped.base_model.model.text_model,
        wrapped.base_model.model.text_projection,
        *pad_batch(RAGGED),
        images,
        num_layers=3,
        scales=(1, 2),
    )
    assert [parameter.requires_grad for parameter in wrapped.parameters()] == requires_grad
    assert all(parameter.grad is None for parameter in wrapped.parameters())
    assert all(module.training == training for module in wrapped.modules())
    merged = wrapped.merge_and_unload()
    assert_literal(scores, literal_batch(merged, RAGGED, images))
    assert (scores - plain).abs().max() > 0.05


# Parts.


@pytest.mark.parametrize("scales", [(1,), (2,), (1, 2), (2, 3), (5,), (1, 40)])
def test_pooling_operator_is_literal_pooling(scales):
    lengths = torch.tensor([3, 9, 4, 12, 7])
    operator = pooling_operator(lengths, 12, scales)
    assert operator.shape == (5, 12, 12)
    generator = torch.Generator().manual_seed(0)
    for matrix, length in zip(operator.double(), lengths.tolist(), strict=True):
        x = torch.randn(length, 6, dtype=torch.float64, generator=generator)
        torch.testing.assert_close(matrix[:length, :length] @ x, literal_pooling(x, scales), rtol=0, atol=1e-6)
        assert not matrix[length:].any() and not matrix[:, length:].any()


def test_pooling_by_hand():
    """Five tokens in windows of two: means of (0, 1), (2, 3) and (4,), read at window centres 5/3 tokens apart."""
    (matrix,) = pooling_operator(torch.tensor([5]), 5, (2,))
    # token i sits at (i + 0.5) * 3 / 5 - 0.5 = -0.2, 0.4, 1.0, 1.6, 2.2 on the window axis, held inside [0, 2]
    by_hand = [
        [0.5, 0.5, 0.0, 0.0, 0.0],
        [0.3, 0.3, 0.2, 0.2, 0.0],
        [0.0, 0.0, 0.5, 0.5, 0.0],
        [0.0, 0.0, 0.2, 0.2, 0.6],
        [0.0, 0.0, 0.0, 0.0, 1.0],
    ]
    torch.testing.assert_close(matrix, torch.tensor(by_hand))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [3.0, -3.0, 1e-12])
def test_differences_by_rounding_are_not_scaled_up(dtype, level):
    """Pooled by a window over the whole caption, all tokens are equal; 54 units of rounding were measured."""
    steps = torch.tensor([[0, 54, -54, 7], [0, 1e5, 1e5, 0]], dtype=dtype)
    values = level * (1 + steps * torch.finfo(dtype).eps)
    scaled = scale_within_caption(values, torch.ones(2, 4, dtype=torch.bool))
    assert scaled[0].tolist() == [0.5] * 4
    assert scaled[1].tolist() == ([0, 1, 1, 0] if level > 0 else [1, 0, 0, 1])


def test_scaling_by_hand():
    values = torch.tensor([[9.0, 2.0, 4.0, 3.0, -7.0], [5.0, 1.0, 1.0, 8.0, 8.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    own = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    expected = [[0, 0, 1, 0.5, 0], [0, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 0]]
    assert scale_within_caption(values, own).tolist() == expected


# SigLIP: no BOS, attention in both directions and to padding, a caption embedded at the last position.


class SiglipTower(Tower):
    """A tower of SigLIP, whose captions have no BOS."""

    def __init__(self, *arguments, **fields):
        super().__init__(*arguments, siglip=True, **{"bos_token_id": None} | fields)


def siglip_row(caption, pad: int = PAD) -> list[int]:
    """All that SigLIP reads of a caption."""
    return [*caption, EOS] + [pad] * (POSITIONS - len(caption) - 1)


def siglip_batch(captions, pad: int = PAD, length: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """`input_ids` and `attention_mask`, padded to the longest caption or to a length."""
    length = length or max(map(len, captions)) + 1
    input_ids = torch.tensor([siglip_row(caption, pad)[:length] for caption in captions])
    attention_mask = torch.tensor([[1] * (len(row) + 1) + [0] * (length - len(row) - 1) for row in captions])
    return input_ids, attention_mask


def literal_siglip_batch(tower, captions, images, length, pad: int = PAD, num_layers=3, scales=(1, 2)):
    weights, expected = tower.raw_weights(), torch.zeros(len(captions), length, dtype=torch.float64)
    for row, (caption, image) in enumerate(zip(captions, images.double(), strict=True)):
        expected[row, : len(caption)] = literal_scores(
            weights, siglip_row(caption, pad), image, num_layers=num_layers, scales=scales, own=slice(0, len(caption))
        )
    return expected


def test_oracle_encodes_as_siglip():
    tower = SiglipTower().double()
    row = siglip_row(RAGGED[0])
    embedding, projected, _ = encode(tower.raw_weights(), row, NUM_HEADS)
    outputs = tower.text_model(torch.tensor([row]))
    torch.testing.assert_close(embedding, tower.text_projection(outputs.pooler_output)[0])
    torch.testing.assert_close(projected, tower.text_projection(outputs.last_hidden_state)[0])


@settings(max_examples=40, deadline=None)
@given(
    captions=st.lists(st.lists(st.integers(1, 36), min_size=1, max_size=12), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    attention=st.sampled_from(["sdpa", "eager"]),
    pad=st.sampled_from([PAD, EOS]),
    scales=st.sampled_from([(1,), (1, 2), (2, 3)]),
    padded_by_caller=st.sampled_from(["to the longest, with a mask", "wrongly, with a mask", "fully, without a mask"]),
)
def test_gass_of_siglip_equals_the_equations_on_any_captions(captions, seed, attention, pad, scales, padded_by_caller):
    """However the caller has padded: the encoder reads 20 tokens, with the true padding token."""
    tower = SiglipTower(seed, attention, pad_token_id=pad).double()
    images = random_images(len(captions), seed).double()
    if padded_by_caller == "fully, without a mask":
        input_ids, attention_mask = siglip_batch(captions, pad, POSITIONS)[0], None
    else:
        input_ids, attention_mask = siglip_batch(captions, pad if "longest" in padded_by_caller else BOS)
    scores = tower.scores(input_ids, attention_mask, images, scales=scales)
    expected = literal_siglip_batch(tower, captions, images, input_ids.shape[1], pad, scales=scales)
    assert_literal(scores, expected)


@pytest.mark.parametrize("index", [0, NUM_LAYERS - 1])
def test_gradient_of_siglip_is_the_slope_of_the_similarity_where_the_caption_is_embedded(index):
    tower, image = SiglipTower().double(), random_images(1)[0].double()
    input_ids = torch.tensor([siglip_row(RAGGED[1])])
    embedding, _, layers = encode(tower.raw_weights(), input_ids[0].tolist(), NUM_HEADS)
    (gradient,) = torch.autograd.grad(F.cosine_similarity(embedding, image, dim=0), layers[index].output)
    channel = 5
    slope = slope_of_similarity(tower, input_ids, image, index, channel)
    torch.testing.assert_close(gradient[-1, channel], slope, rtol=1e-6, atol=1e-9)
    if index == NUM_LAYERS - 1:  # what the definition says: nothing is read anywhere else
        assert not gradient[:-1].any()


@pytest.mark.parametrize("siglip", [False, True])
def test_gass_ranks_tokens_by_the_change_of_similarity_without_them(siglip):
    """Leave one token out of the last layer's attention, with one head: the change is what g * v * W predicts."""
    correlations = []
    for seed in range(6):
        tower = (SiglipTower if siglip else Tower)(seed, num_attention_heads=1).double()
        weights, image = tower.raw_weights(), random_images(1, seed)[0].double()
        caption = RAGGED[0]
        row, own = (siglip_row(caption), range(len(caption))) if siglip else ([BOS, *caption, EOS], range(1, 15))
        embedding, _, layers = encode(weights, row, 1)
        similarity = F.cosine_similarity(embedding, image, dim=0)
        (gradient,) = torch.autograd.grad(similarity, layers[-1].output)
        shares = layers[-1].attention[0, -1]
        predicted = torch.stack([shares[token] * (gradient[-1] @ layers[-1].value[token]) for token in own])

        def without(token: int, tower=tower, layer=layers[-1], shares=shares, row=row) -> torch.Tensor:
            def leave_out(module, arguments):
                changed = arguments[0].clone()
                changed[0, -1] -= shares[token] * layer.value[token]
                return (changed,)

            handle = tower.text_model.encoder.layers[-1].self_attn.out_proj.register_forward_pre_hook(leave_out)
            with torch.no_grad():
                left = tower.text_projection(tower.text_model(torch.tensor([row])).pooler_output)[0]
            handle.remove()
            return left

        change = torch.stack([similarity - F.cosine_similarity(without(token), image, dim=0) for token in own])
        correlations.append(torch.corrcoef(torch.stack([predicted, change]).detach())[0, 1])
    assert min(correlations) > 0.95


def test_siglip_captions_with_bos_do_not_score_it():
    tower, images = SiglipTower(3, bos_token_id=BOS), random_images(1)
    scores = tower.scores(*siglip_batch([[BOS, 4, 9, 12]]), images)[0]
    assert scores[0] == scores[4] == 0 and scores[1:4].any()


@attentions
def test_cosine_scores_by_a_loop(attention):
    tower, images = Tower(26, attention), random_images(len(RAGGED))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        scores = token_image_cosine_scores(tower.text_model, tower.text_projection, *pad_batch(RAGGED), images)
    expected = torch.zeros(scores.shape, dtype=torch.float64)
    for row, (caption, image) in enumerate(zip(RAGGED, images.double(), strict=True)):
        _, projected, _ = encode(tower.raw_weights(), [BOS, *caption, EOS], NUM_HEADS)
        similarities = [F.cosine_similarity(token, image, dim=0) for token in projected[1:-1].detach()]
        expected[row, 1 : len(caption) + 1] = min_max(torch.stack(similarities))
    assert scores.dtype == torch.float32
    assert_literal(scores, expected)


def test_cosine_scores_of_siglip_by_a_loop():
    tower, images = SiglipTower(26), random_images(len(RAGGED))
    scores = token_image_cosine_scores(tower.text_model, tower.text_projection, *siglip_batch(RAGGED), images)
    expected = torch.zeros(scores.shape, dtype=torch.float64)
    for row, (caption, image) in enumerate(zip(RAGGED, images.double(), strict=True)):
        _, projected, _ = encode(tower.raw_weights(), siglip_row(caption), NUM_HEADS)
        similarities = [F.cosine_similarity(token, image, dim=0) for token in projected[: len(caption)].detach()]
        expected[row, : len(caption)] = min_max(torch.stack(similarities))
    assert_literal(scores, expected)


def test_cosine_scores_are_of_the_deterministic_network():
    tower, images = Tower(27, attention_dropout=0.5), random_images(len(RAGGED))
    arguments = (tower.text_model, tower.text_projection, *pad_batch(RAGGED), images)
    expected = token_image_cosine_scores(*arguments)
    tower.train()
    assert torch.equal(token_image_cosine_scores(*arguments), expected)
