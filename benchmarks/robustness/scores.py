"""Token scores of the study: variants of GASS, signed scores, and the quantities that they approximate.

The package computes GASS as in the paper. Here the same quantities are combined in other ways to find out which of
them matter. A test checks that the paper's variant equals the package's score.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.func import functional_call
from transformers import CLIPTextModel

from modeling_gadms import GADMSModel
from modeling_gadms.masking_gadms import apply_mask, caption_token_mask
from modeling_gadms.token_scoring_gadms import (
    frozen_float32,
    pooling_operator,
    record_attention,
    scale_within_caption,
    scoring_mode,
)


@dataclass(frozen=True)
class ScoreVariant:
    """A variant of the score; the default is the paper's with all four layers.

    Attributes:
        layers (`tuple[int, ...]`): text layers, counted from 0.
        scales (`tuple[int, ...]`): scales of the multi-scale pooling.
        attention (`str`): `"mean"`, the factor of eq. 3, averaged over heads; `"heads"`, each head's own attention
            to its own channels of g . v, which is what the token adds to the similarity there; `"none"`, no factor.
        importance (`bool`): whether eq. 1 is a factor.
        rectified (`str`): `"sum"`, the ReLU of eq. 4 after the mean over layers; `"layer"`, before it; `"none"`.
        centred (`bool`): whether the similarity is to the image minus the mean of the batch's images.
        towards (`float`): how far the caption's tokens are moved to the mean embedding, from 0 to 1, before the score
            is computed; see [`embedding_gradient_scores`].
        scaled (`str`): to [0, 1] over each `"caption"`, over all captions of the `"batch"`, or over each caption with
            0.5 for no contribution (`"sign"`), so that words that lower the similarity have low scores.
        of (`str`): variable of the gradient: `"values"` of each layer, as in GASS, or the token `"embeddings"`,
            which ignore layers, scales and factors.
    """

    layers: tuple[int, ...] = (0, 1, 2, 3)
    scales: tuple[int, ...] = (1, 2)
    attention: str = "mean"
    importance: bool = True
    rectified: str = "sum"
    centred: bool = False
    towards: float = 0.0
    scaled: str = "caption"
    of: str = "values"


@dataclass
class Evidence:
    """Contributions of a caption's tokens to the similarity, layer by layer.

    Attributes:
        own_tokens (`torch.BoolTensor` of shape `(batch_size, sequence_length)`)
        gradient_value (`list[torch.FloatTensor]`): per layer g . v, the sum over channels of eq. 2 without importance.
        attention (`list[torch.FloatTensor]`): per layer the EOS row of attention, averaged over heads (eq. 3).
        by_head (`list[torch.FloatTensor]`): per layer, g . v weighed by the attention of each head, summed over heads.
        importance (`dict[tuple[int, ...], list[torch.FloatTensor]]`): by scales, per layer eq. 1.

    All of shape `(batch_size, sequence_length)`.
    """

    own_tokens: torch.Tensor
    gradient_value: list[torch.Tensor] = field(default_factory=list)
    attention: list[torch.Tensor] = field(default_factory=list)
    by_head: list[torch.Tensor] = field(default_factory=list)
    importance: dict[tuple[int, ...], list[torch.Tensor]] = field(default_factory=dict)


def gather_evidence(
    model: GADMSModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_embeds: torch.Tensor,
    *,
    centred: bool,
    towards: float = 0.0,
    scales: tuple[tuple[int, ...], ...] = ((1, 2),),
) -> Evidence:
    """One forward and one backward pass over all layers, as in GASS.

    Args:
        model ([`GADMSModel`]), input_ids, attention_mask, image_embeds: as in
            [`~modeling_gadms.token_scoring_gadms.gradient_attention_scores`].
        centred (`bool`), towards (`float`): see [`ScoreVariant`].
        scales (`tuple[tuple[int, ...], ...]`): the choices of scales to compute eq. 1 for.
    """
    text_model = model.text_model
    layers = list(text_model.encoder.layers)
    images = _targets(image_embeds, centred)
    tokens, _ = _on_the_way(model, input_ids, attention_mask, towards)
    with scoring_mode(text_model), record_attention(layers) as taps, _embedded_as(text_model, tokens):
        outputs = functional_call(
            text_model, frozen_float32(text_model), kwargs={"input_ids": input_ids, "attention_mask": attention_mask}
        )
        texts = functional_call(model.text_projection, frozen_float32(model.text_projection), outputs.pooler_output)
        similarity = (nn.functional.normalize(texts, dim=-1) * images).sum(dim=-1)
        gradients = torch.autograd.grad(similarity.sum(), [tap.output for tap in taps])
    with torch.no_grad():
        eos_token_id = text_model.config.eos_token_id
        own_tokens = caption_token_mask(input_ids, eos_token_id, attention_mask)
        eos = (input_ids == eos_token_id).int().argmax(dim=1)
        rows = torch.arange(len(input_ids))
        up_to_eos = torch.arange(input_ids.shape[1]) <= eos[:, None]
        evidence = Evidence(own_tokens, importance={choice: [] for choice in scales})
        pooling = {choice: pooling_operator(eos + 1, input_ids.shape[1], choice) for choice in scales}
        for layer, tap, gradient in zip(layers, taps, gradients, strict=True):
            split = (layer.self_attn.num_heads, -1)
            query, slope = (tensor[rows, eos].unflatten(-1, split) for tensor in (tap.query, gradient))
            key, value = (tensor.unflatten(-1, split) for tensor in (tap.key, tap.value))
            logits = torch.einsum("bhd,bthd->bht", query, key) * query.shape[-1] ** -0.5
            attention = logits.masked_fill(~up_to_eos[:, None], -torch.inf).softmax(dim=-1)
            contribution = torch.einsum("bhd,bthd->bht", slope, value)
            evidence.gradient_value.append(contribution.sum(dim=1))
            evidence.attention.append(attention.mean(dim=1))
            evidence.by_head.append((attention * contribution).sum(dim=1))
            for choice, operator in pooling.items():
                query = torch.einsum("bt,btd->bd", operator[rows, eos], tap.query)
                importance = torch.einsum("bd,btd->bt", query, operator @ tap.key)
                evidence.importance[choice].append(scale_within_caption(importance, own_tokens))
    return evidence


def signed_scores(evidence: Evidence, variant: ScoreVariant) -> torch.Tensor:
    """The unscaled score, `torch.FloatTensor` of shape `(batch_size, sequence_length)`."""
    total = torch.zeros(evidence.own_tokens.shape)
    for layer in variant.layers:
        score = evidence.by_head[layer] if variant.attention == "heads" else evidence.gradient_value[layer]
        if variant.importance:
            score = score * evidence.importance[variant.scales][layer]
        if variant.attention == "mean":
            score = score * evidence.attention[layer]
        total += torch.relu(score) if variant.rectified == "layer" else score
    total /= len(variant.layers)
    return torch.relu(total) if variant.rectified == "sum" else total


def variant_scores(
    model: GADMSModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_embeds: torch.Tensor,
    variant: ScoreVariant,
) -> torch.Tensor:
    """The scores that determine the masks: `torch.FloatTensor` of shape `(batch_size, sequence_length)`, in [0, 1]."""
    arguments = (model, input_ids, attention_mask, image_embeds)
    way = {"centred": variant.centred, "towards": variant.towards}
    if variant.of == "embeddings":
        scores = embedding_gradient_scores(*arguments, **way)
        scores = torch.relu(scores) if variant.rectified == "sum" else scores
        own_tokens = caption_token_mask(input_ids, model.text_model.config.eos_token_id, attention_mask)
    else:
        evidence = gather_evidence(*arguments, **way, scales=(variant.scales,))
        scores, own_tokens = signed_scores(evidence, variant), evidence.own_tokens
    if variant.scaled == "caption":
        return scale_within_caption(scores, own_tokens)
    if variant.scaled == "sign":
        largest = (scores.abs() * own_tokens).amax(dim=1, keepdim=True).clamp(min=1e-12)
        return (0.5 + 0.5 * scores / largest) * own_tokens
    return scale_within_caption(scores.reshape(1, -1), own_tokens.reshape(1, -1)).reshape(scores.shape)


def embedding_gradient_scores(
    model: GADMSModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_embeds: torch.Tensor,
    *,
    centred: bool,
    towards: float = 0.0,
) -> torch.Tensor:
    """Loss of similarity from effacing each token, estimated by one gradient.

    The gradient of the similarity with respect to the token embeddings, times their distance to the mean embedding of
    the vocabulary (the initial embedding of the mask token with CLIP weights). All of the caption's own tokens are
    first moved by the share `towards` of that distance: 0 is a tangent, 0.5 integrated gradients (Sundararajan et
    al., 2017) with one step.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, sequence_length)`, with its sign. One forward and one backward pass.
    """
    text_model = model.text_model
    tokens, to_no_meaning = _on_the_way(model, input_ids, attention_mask, towards)
    tokens.requires_grad_()
    with scoring_mode(text_model), _embedded_as(text_model, tokens):
        outputs = functional_call(
            text_model, frozen_float32(text_model), kwargs={"input_ids": input_ids, "attention_mask": attention_mask}
        )
        texts = model.text_projection(outputs.pooler_output)
        similarity = (nn.functional.normalize(texts, dim=-1) * _targets(image_embeds, centred)).sum(dim=-1)
        (gradient,) = torch.autograd.grad(similarity.sum(), tokens)
    return -(gradient * to_no_meaning).sum(dim=-1)


def _on_the_way(
    model: GADMSModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, towards: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token embeddings, the caption's own moved towards the vocabulary's mean, and their distance to it.

    Both of shape `(batch_size, sequence_length, hidden_size)`.
    """
    text_model = model.text_model
    table = text_model.embeddings.token_embedding.weight.detach()
    tokens = table[input_ids]
    # The mask token, the last one, does not occur in captions.
    way = table[: model.config.mask_token_id].mean(dim=0) - tokens
    own_tokens = caption_token_mask(input_ids, text_model.config.eos_token_id, attention_mask)
    return tokens + towards * own_tokens[..., None] * way, way


@contextmanager
def _embedded_as(text_model: CLIPTextModel, tokens: torch.Tensor) -> Iterator[None]:
    embedding = text_model.embeddings.token_embedding
    handle = embedding.register_forward_hook(lambda module, arguments, result: tokens)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def leave_one_out_scores(
    model: GADMSModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_embeds: torch.Tensor,
    chosen: torch.Tensor,
    *,
    centred: bool,
) -> torch.Tensor:
    """Loss of similarity from masking each token of `chosen`: the oracle, a forward pass a token.

    Of shape `(batch_size, sequence_length)`, zero for other tokens.
    """
    images = _targets(image_embeds, centred)

    def similarity(ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        texts = model.get_text_features(ids, attention_mask[rows])["pooler_output"]
        return (nn.functional.normalize(texts, dim=-1) * images[rows]).sum(dim=-1)

    whole = torch.cat([similarity(input_ids[rows], rows) for rows in torch.arange(len(input_ids)).split(256)])
    scores = torch.zeros(input_ids.shape)
    for rows, columns in zip(*(part.split(256) for part in chosen.nonzero(as_tuple=True)), strict=True):
        one = torch.zeros(len(rows), input_ids.shape[1], dtype=torch.bool)
        one[torch.arange(len(rows)), columns] = True
        masked = apply_mask(input_ids[rows], one, model.config.mask_token_id)
        scores[rows, columns] = whole[rows] - similarity(masked, rows)
    return scores


def _targets(image_embeds: torch.Tensor, centred: bool) -> torch.Tensor:
    images = nn.functional.normalize(image_embeds.detach(), dim=-1)
    return images - images.mean(dim=0) if centred else images
