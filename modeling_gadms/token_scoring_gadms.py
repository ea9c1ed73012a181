"""Token scores: the relevance of each caption token to its image.

`gradient_attention_scores` is the gradient-attention similarity score (GASS) of GA-DMS, eq. 1-4;
`token_image_cosine_scores` is the plain cosine as a baseline. Both are scaled to [0, 1] within each caption.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, cast

import torch
from torch import nn
from torch.func import functional_call
from transformers import PreTrainedModel

from .configuration_gadms import TextConfig, starts_with_bos
from .masking_gadms import caption_token_mask
from .packing_gadms import pooled_positions, text_encoder_inputs


CLIP_ATTENTION = attrgetter("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
"""Modules of a layer that make queries, keys and values, and that take the heads' output."""
_ROUNDING = 1_000
"""Relative error of sums of products whose values should be equal (measured: 54), in units of the machine epsilon."""


def scale_within_caption(values: torch.Tensor, own_tokens: torch.Tensor) -> torch.Tensor:
    """Min-max scale each caption's values to [0, 1] over its own tokens.

    If all values are equal up to rounding, as in a caption of one token, or in one that is no longer than a window of
    the pooling, they become 0.5, at which noise masking is improbable.

    Args:
        values (`torch.FloatTensor` of shape `(batch_size, sequence_length)`)
        own_tokens (`torch.BoolTensor` of shape `(batch_size, sequence_length)`): see `caption_token_mask`.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, sequence_length)`, zero outside the caption's own tokens.
    """
    lowest = values.masked_fill(~own_tokens, torch.inf).amin(dim=1, keepdim=True)
    highest = values.masked_fill(~own_tokens, -torch.inf).amax(dim=1, keepdim=True)
    spread = highest - lowest
    rounding = _ROUNDING * torch.finfo(values.dtype).eps * torch.maximum(highest.abs(), lowest.abs())
    scaled = torch.where(spread > rounding, (values - lowest) / spread, 0.5)
    return scaled.masked_fill(~own_tokens, 0.0)


def pooling_operator(lengths: torch.Tensor, sequence_length: int, scales: Sequence[int]) -> torch.Tensor:
    """Multi-scale pooling (MSP, eq. 1) along the token axis, as one matrix for each caption.

    For each scale c, adjacent windows of c tokens are averaged and interpolated linearly back to the full length.
    The results of all scales are averaged. Each caption is pooled over the tokens that its embedding reads, from BOS
    to EOS for CLIP, so the result does not depend on padding. Not stated in the paper, chosen here: windows do not
    overlap, an incomplete last window averages its tokens, and interpolation aligns window centres
    (`torch.nn.functional.interpolate` with `align_corners=False`).

    Args:
        lengths (`torch.LongTensor` of shape `(batch_size,)`): number of tokens up to the one at which the caption is
            embedded, which is included.
        sequence_length (`int`): padded length.
        scales (`Sequence[int]`): window lengths c, in tokens.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, sequence_length, sequence_length)`: row `i` contains the weights of
        all tokens in pooled token `i`. Rows and columns beyond a caption's length are zero.
    """
    position = torch.arange(sequence_length, device=lengths.device)
    length = lengths[:, None]  # (batch_size, 1)
    operator = torch.zeros(len(lengths), sequence_length, sequence_length, device=lengths.device)
    for scale in scales:
        num_windows = (length + scale - 1) // scale
        source = ((position + 0.5) * (num_windows / length) - 0.5).clamp(min=0)  # (batch_size, sequence_length)
        source = torch.minimum(source, num_windows - 1.0)
        left = source.floor()
        right = torch.minimum(left + 1, num_windows - 1.0)
        right_weight = source - left
        window = position // scale
        for neighbour, weight in ((left, 1 - right_weight), (right, right_weight)):
            window_size = torch.clamp(length - neighbour * scale, max=scale)
            member = window[None, None, :] == neighbour[:, :, None]
            operator += member * (weight / window_size)[:, :, None]
    inside = position < length
    return operator * (inside[:, :, None] & inside[:, None, :]) / len(scales)


@dataclass
class AttentionRecord:
    """Tensors of one attention layer, each of shape (batch_size, sequence_length, hidden_size)."""

    query: torch.Tensor = field(init=False)
    key: torch.Tensor = field(init=False)
    value: torch.Tensor = field(init=False)
    output: torch.Tensor = field(init=False)  # heads concatenated, before the output projection


@contextmanager
def record_attention(
    layers: Sequence[nn.Module], parts: Callable[[Any], tuple[nn.Module, ...]] = CLIP_ATTENTION
) -> Iterator[list[AttentionRecord]]:
    """Record the attention of each layer. The autograd graph starts at the first layer's output.

    `parts` finds the modules of a layer that make queries, keys and values, and the output projection.
    """
    records = [AttentionRecord() for _ in layers]
    handles = []

    def result_hook(record: AttentionRecord, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], result: torch.Tensor) -> None:
            setattr(record, name, result)

        return hook

    def output_hook(record: AttentionRecord, is_first: bool) -> Callable[..., tuple[Any, ...]]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            output = arguments[0]
            if is_first:
                output = output.detach().requires_grad_()
            record.output = output
            return (output, *arguments[1:])

        return hook

    try:
        for index, (layer, record) in enumerate(zip(layers, records, strict=True)):
            *projections, output = parts(layer)
            for name, projection in zip(("query", "key", "value"), projections, strict=True):
                handles.append(projection.register_forward_hook(result_hook(record, name)))
            handles.append(output.register_forward_pre_hook(output_hook(record, index == 0)))
        yield records
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def scoring_mode(encoder: PreTrainedModel, attention: str = "sdpa") -> Iterator[None]:
    """Prepare an encoder for scoring in any mode: deterministic, with gradients, and with attention in float32.

    Evaluation mode disables dropout and gradient checkpointing, whose recomputation would call the hooks again.
    Scaled-dot-product attention supports float32, which flash attention does not. `"eager"` attention is that of every
    encoder of transformers: some, such as ALIGN's, are causal by mistake in scaled-dot-product attention.
    """
    training = [module for module in encoder.modules() if module.training]
    attention_implementation = encoder.config._attn_implementation
    encoder.eval()
    encoder.config._attn_implementation = attention
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        encoder.config._attn_implementation = attention_implementation
        for module in training:
            module.training = True


def frozen_float32(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's parameters as float32 constants (float64 is kept), for `functional_call`.

    With constants, the backward pass neither touches parameter gradients nor saves the inputs they would need.
    """
    return {
        name: parameter.detach() if parameter.dtype == torch.float64 else parameter.detach().float()
        for name, parameter in module.named_parameters()
    }


def gradient_attention_scores(
    text_model: PreTrainedModel,
    text_projection: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    image_embeds: torch.Tensor,
    *,
    num_layers: int,
    scales: Sequence[int],
) -> torch.Tensor:
    """Gradient-attention similarity score of every caption token (GASS, GA-DMS eq. 1-4).

    With g, q, k, v of each of the last `num_layers` text layers, W its EOS attention row averaged over heads, and
    SIM the cosine similarity of caption and image (the image a constant):

        w   = Phi(MSP(q)[EOS] . MSP(k))                  eq. 1, Phi: min-max over the caption's own tokens
        S_g = sum over channels of g * w * v             eq. 2, g = dSIM / d(attention output at EOS)
        S_a = W / sum W                                  eq. 3
        S   = ReLU(mean over layers of S_g * S_a)        eq. 4

    For SigLIP, which the paper does not cover, EOS stands for the position at which the caption is embedded, the last
    one of the encoder. MSP and W extend over all positions up to it, padding included. This is what EOS is to CLIP:
    the position that the similarity reads, with all the tokens that it attends to. Elsewhere g would be zero in the
    last layer. Padding takes a share of the attention, as BOS does in CLIP, and has no score.

    One `autograd.grad` call computes the gradients of all layers. Everything runs in float32 with the model's own
    heads, outside autocast, and does not change parameter gradients. It works under `no_grad` and `inference_mode`, in
    training and evaluation mode, and with gradient checkpointing.

    Args:
        text_model ([`~transformers.PreTrainedModel`]): the text encoder, of CLIP or SigLIP.
        text_projection (`torch.nn.Module`): projection of its pooled state to the shared embedding space.
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`)
        attention_mask (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*)
        image_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`): row `r` is the image of caption
            `r`; need not be normalised.
        num_layers (`int`): L, the number of last layers that are scored.
        scales (`Sequence[int]`): window lengths of the multi-scale pooling.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, sequence_length)`: in [0, 1] within each caption, zero at special
        tokens and padding.
    """
    text_config = cast(TextConfig, text_model.config)
    layers = list(cast(Any, text_model).encoder.layers[-num_layers:])
    num_heads = layers[0].self_attn.num_heads
    with (
        scoring_mode(text_model),
        torch.autocast(device_type=input_ids.device.type, enabled=False),
        record_attention(layers) as records,
    ):
        # Autograd refuses tensors created in inference mode, but accepts their clones.
        input_ids, image_embeds = input_ids.clone(), image_embeds.detach().clone()
        attention_mask = None if attention_mask is None else attention_mask.clone()
        inputs = text_encoder_inputs(text_config, input_ids, attention_mask)
        outputs = functional_call(text_model, frozen_float32(text_model), kwargs=inputs)
        text_embeds = functional_call(text_projection, frozen_float32(text_projection), outputs.pooler_output)
        similarity = nn.functional.cosine_similarity(text_embeds, image_embeds.to(text_embeds.dtype), dim=-1)
        # Captions are independent, so the gradient of the sum contains the gradient of each caption.
        gradients = torch.autograd.grad(similarity.sum(), [record.output for record in records])

        with torch.no_grad():
            captions = cast(torch.Tensor, inputs["input_ids"])  # as the encoder reads them
            own_tokens = own_token_mask(text_config, input_ids, attention_mask)
            embedded_at = pooled_positions(text_config, captions)
            scores = scores_of_attention(
                records,
                gradients,
                embedded_at=embedded_at,
                visible=torch.arange(captions.shape[1], device=captions.device) <= embedded_at[:, None],
                own_tokens=nn.functional.pad(own_tokens, (0, captions.shape[1] - own_tokens.shape[1])),
                num_heads=num_heads,
                scales=scales,
            )
            return scores[:, : input_ids.shape[1]]


def scores_of_attention(
    records: Sequence[AttentionRecord],
    gradients: Sequence[torch.Tensor],
    *,
    embedded_at: torch.Tensor,
    visible: torch.Tensor,
    own_tokens: torch.Tensor,
    num_heads: int,
    scales: Sequence[int],
) -> torch.Tensor:
    """Equations 1 to 4 of [`gradient_attention_scores`] for the recorded layers of any text encoder.

    Args:
        records (`Sequence[AttentionRecord]`): attention of the scored layers.
        gradients (`Sequence[torch.FloatTensor]`): of the similarity, with respect to the output of each layer.
        embedded_at (`torch.LongTensor` of shape `(batch_size,)`): the position at which a caption is embedded.
        visible (`torch.BoolTensor` of shape `(batch_size, sequence_length)`): the tokens, from the first one on, that
            this position attends to.
        own_tokens (`torch.BoolTensor` of shape `(batch_size, sequence_length)`): the tokens that are scored.
        num_heads (`int`), scales (`Sequence[int]`): attention heads, and window lengths of the multi-scale pooling.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, sequence_length)`: in [0, 1] within each caption.
    """
    rows, dtype = torch.arange(len(embedded_at), device=embedded_at.device), gradients[0].dtype
    pooling = pooling_operator(visible.sum(dim=1), visible.shape[1], scales).to(dtype)
    total = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    for record, gradient in zip(records, gradients, strict=True):
        gradient_there = gradient[rows, embedded_at]  # (batch_size, hidden_size)
        pooled_query = torch.einsum("bt,btd->bd", pooling[rows, embedded_at], record.query)
        pooled_key = pooling @ record.key
        importance = torch.einsum("bd,btd->bt", pooled_query, pooled_key)
        importance = scale_within_caption(importance, own_tokens)  # eq. 1
        gradient_score = importance * torch.einsum("bd,btd->bt", gradient_there, record.value)  # eq. 2
        attention = _attention_row(record.query[rows, embedded_at], record.key, visible, num_heads)
        attention_score = attention / attention.sum(dim=1, keepdim=True)  # eq. 3
        total += gradient_score * attention_score
    scores = torch.relu(total / len(records))  # eq. 4
    # Deviation: the released code scales over the minibatch, which makes a caption's masks depend on the other
    # captions; the paper does not state how S is scaled to [0, 1].
    return scale_within_caption(scores, own_tokens)


def own_token_mask(
    text_config: TextConfig, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """[`caption_token_mask`] for the captions of a text encoder."""
    eos_token_id = cast(int, text_config.eos_token_id)  # `GADMSConfig` refuses lists
    return caption_token_mask(input_ids, eos_token_id, attention_mask, starts_with_bos=starts_with_bos(text_config))


def _attention_row(query: torch.Tensor, keys: torch.Tensor, visible: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Attention of one query over the tokens, averaged over heads: (batch_size, sequence_length)."""
    query = query.unflatten(-1, (num_heads, -1))  # (batch_size, num_heads, head_dim)
    keys = keys.unflatten(-1, (num_heads, -1))  # (batch_size, sequence_length, num_heads, head_dim)
    logits = torch.einsum("bhd,bthd->bht", query, keys) * query.shape[-1] ** -0.5
    return logits.masked_fill(~visible[:, None], -torch.inf).softmax(dim=-1).mean(dim=1)


def token_image_cosine_scores(
    text_model: PreTrainedModel,
    text_projection: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    image_embeds: torch.Tensor,
) -> torch.Tensor:
    """Baseline score: cosine of each token's projected last hidden state and the image.

    Args: as [`gradient_attention_scores`].

    Returns:
        `torch.FloatTensor` of shape `(batch_size, sequence_length)`: in [0, 1] within each caption, zero at special
        tokens and padding.
    """
    text_config = cast(TextConfig, text_model.config)
    with scoring_mode(text_model), torch.no_grad(), torch.autocast(input_ids.device.type, enabled=False):
        inputs = text_encoder_inputs(text_config, input_ids, attention_mask)
        states = functional_call(text_model, frozen_float32(text_model), kwargs=inputs).last_hidden_state
        states = states[:, : input_ids.shape[1]]
        tokens = functional_call(text_projection, frozen_float32(text_projection), states)
        cosine = nn.functional.cosine_similarity(tokens, image_embeds.to(tokens.dtype)[:, None], dim=-1)
    own_tokens = own_token_mask(text_config, input_ids, attention_mask)
    return scale_within_caption(cosine, own_tokens)
