"""Dual masking: compute the noise mask and the informative mask from token scores."""

import torch


def caption_token_mask(
    input_ids: torch.Tensor,
    eos_token_id: int,
    attention_mask: torch.Tensor | None = None,
    *,
    starts_with_bos: bool = True,
) -> torch.Tensor:
    """Mask of the caption's own tokens, between BOS and the first EOS. Only these are scored and masked.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): BOS, the caption, EOS, padding.
        eos_token_id (`int`): EOS, which may also be the padding token.
        attention_mask (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*)
        starts_with_bos (`bool`, *optional*, defaults to `True`): whether the first token is BOS; see
            [`starts_with_bos`].

    Returns:
        `torch.BoolTensor` of shape `(batch_size, sequence_length)`.
    """
    before_eos = (input_ids == eos_token_id).cumsum(dim=1) == 0
    own = before_eos.clone()
    own[:, 0] &= not starts_with_bos
    if attention_mask is not None:
        own &= attention_mask.bool()
    return own


def noise_mask_probability(scores: torch.Tensor, *, rate: float, sharpness: float, threshold: float) -> torch.Tensor:
    """Probability of masking each token as noise: `alpha_n / (1 + exp(-lambda ((1 - s) - gamma_n)))`.

    Args:
        scores (`torch.FloatTensor`, any shape): s, in `[0, 1]`.
        rate (`float`): alpha_n.  sharpness (`float`): lambda.  threshold (`float`): gamma_n.

    Returns:
        `torch.FloatTensor` of the shape of `scores`, in `[0, rate]`.
    """
    return rate * torch.sigmoid(sharpness * ((1.0 - scores) - threshold))


def informative_mask_probability(
    scores: torch.Tensor, *, rate: float, sharpness: float, threshold: float
) -> torch.Tensor:
    """Probability of masking each token for prediction: `alpha_i / (1 + exp(-lambda (s - gamma_i)))`.

    Args:
        scores (`torch.FloatTensor`, any shape): s, in `[0, 1]`.
        rate (`float`): alpha_i.  sharpness (`float`): lambda.  threshold (`float`): gamma_i.

    Returns:
        `torch.FloatTensor` of the shape of `scores`, in `[0, rate]`.
    """
    return rate * torch.sigmoid(sharpness * (scores - threshold))


def draw_mask(
    probability: torch.Tensor, own_tokens: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw a mask: each of the caption's own tokens is masked independently, with its probability.

    Args:
        probability (`torch.FloatTensor` of shape `(batch_size, sequence_length)`): in `[0, 1]`.
        own_tokens (`torch.BoolTensor` of shape `(batch_size, sequence_length)`): see [`caption_token_mask`].
        generator (`torch.Generator`, *optional*): the global generator by default.

    Returns:
        `torch.BoolTensor` of shape `(batch_size, sequence_length)`: true for masked tokens.
    """
    uniform = torch.rand(probability.shape, generator=generator, device=probability.device, dtype=probability.dtype)
    return (uniform < probability) & own_tokens


def apply_mask(input_ids: torch.Tensor, mask: torch.Tensor, mask_token_id: int) -> torch.Tensor:
    """Replace masked tokens by the mask token.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`)
        mask (`torch.BoolTensor` of shape `(batch_size, sequence_length)`)
        mask_token_id (`int`)

    Returns:
        `torch.LongTensor` of shape `(batch_size, sequence_length)`.
    """
    return input_ids.masked_fill(mask, mask_token_id)
