"""The loss terms of GA-DMS, as pure functions of tensors.

The alignment losses compare the rows of one process with the columns of all processes. The trainer gathers the
embeddings; the losses do not depend on distribution, since identities determine which columns match a row.
"""

from typing import Any

import torch
from torch import nn


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _similarity_logits(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    all_image_embeds: torch.Tensor | None,
    all_text_embeds: torch.Tensor | None,
    temperature: float | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine similarities divided by the temperature, for both directions: each (rows, columns), at least float32."""
    # A learned temperature is positive by construction. Reading it here would synchronise the device.
    if not isinstance(temperature, torch.Tensor) and temperature <= 0:
        raise ValueError(f"temperature = {temperature} must be positive")
    images, texts, all_images, all_texts = (
        nn.functional.normalize(_at_least_float32(embeds), dim=-1)
        for embeds in (
            image_embeds,
            text_embeds,
            image_embeds if all_image_embeds is None else all_image_embeds,
            text_embeds if all_text_embeds is None else all_text_embeds,
        )
    )
    # Autocast would round the products: at tau = 0.02 this changes a logit by up to 0.1.
    with torch.autocast(images.device.type, enabled=False):
        return images @ all_texts.T / temperature, texts @ all_images.T / temperature


def _check_pairs(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> None:
    if image_embeds.shape != text_embeds.shape:
        raise ValueError(
            f"image_embeds {tuple(image_embeds.shape)} and text_embeds {tuple(text_embeds.shape)} must have one row "
            "for each pair"
        )


def _same_identity(person_ids: torch.Tensor, all_person_ids: torch.Tensor | None) -> torch.Tensor:
    """Whether a row and a column are of the same identity: (rows, columns)."""
    columns = person_ids if all_person_ids is None else all_person_ids
    return person_ids[:, None] == columns[None, :]


def similarity_distribution_matching_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    person_ids: torch.Tensor,
    *,
    temperature: float | torch.Tensor,
    epsilon: float = 1e-8,
    all_image_embeds: torch.Tensor | None = None,
    all_text_embeds: torch.Tensor | None = None,
    all_person_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Align the similarity distribution with the identity distribution (L_sdm of GA-DMS; IRRA eq. 4-6).

    For each row, `p` is the softmax of its similarities divided by the temperature, and `q` is the indicator of the
    same identity divided by its sum. The loss is `KL(p || q)`, with `epsilon` inside the logarithm of `q`.

    Args:
        image_embeds (`torch.FloatTensor` of shape `(num_rows, projection_dim)`): need not be normalised.
        text_embeds (`torch.FloatTensor` of shape `(num_rows, projection_dim)`): row `r` describes image `r`.
        person_ids (`torch.LongTensor` of shape `(num_rows,)`): identity of each row.
        temperature (`float` or `torch.FloatTensor` of shape `()`): tau.
        epsilon (`float`): avoids the logarithm of zero.
        all_image_embeds, all_text_embeds (`torch.FloatTensor` of shape `(num_columns, projection_dim)`, *optional*),
        all_person_ids (`torch.LongTensor` of shape `(num_columns,)`, *optional*):
            Columns of all processes; by default the rows themselves.

    Returns:
        `torch.FloatTensor` of shape `()`: KL divergence in nats, image-to-text plus text-to-image, mean over rows.

    Raises:
        ValueError: if `temperature` is not positive, or the shapes of image and text embeddings differ.
    """
    _check_pairs(image_embeds, text_embeds)
    logits = _similarity_logits(image_embeds, text_embeds, all_image_embeds, all_text_embeds, temperature)
    same_identity = _same_identity(person_ids, all_person_ids).to(logits[0].dtype)
    target = same_identity / same_identity.sum(dim=1, keepdim=True)  # q
    loss = logits[0].new_zeros(())
    for direction in logits:
        log_probability = direction.log_softmax(dim=1)
        divergence = log_probability.exp() * (log_probability - torch.log(target + epsilon))
        loss = loss + divergence.sum(dim=1).mean()
    return loss


def image_text_contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    person_ids: torch.Tensor,
    *,
    temperature: float | torch.Tensor,
    all_image_embeds: torch.Tensor | None = None,
    all_text_embeds: torch.Tensor | None = None,
    all_person_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Symmetric contrastive loss (CLIP), in which all pairs of the same identity are positives.

    The columns of one identity share the target probability equally, so two captions of one image are no negatives.

    Args: as [`similarity_distribution_matching_loss`], without `epsilon`.

    Returns:
        `torch.FloatTensor` of shape `()`: cross-entropy in nats, mean over both directions and all rows. If all
        similarities are equal, it is the logarithm of the number of columns.

    Raises:
        ValueError: as [`similarity_distribution_matching_loss`].
    """
    _check_pairs(image_embeds, text_embeds)
    same_identity = _same_identity(person_ids, all_person_ids)
    return image_query_contrastive_loss(
        image_embeds,
        text_embeds,
        same_identity,
        same_identity,
        temperature=temperature,
        all_image_embeds=all_image_embeds,
        all_query_embeds=all_text_embeds,
    )


def alignment_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    person_ids: torch.Tensor,
    *,
    alignment: str,
    epsilon: float,
    **options: Any,
) -> torch.Tensor:
    """Compute the alignment loss that a configuration names: `"sdm"` or `"itc"`.

    Args: as [`similarity_distribution_matching_loss`]; `epsilon` is not used by `"itc"`.
    """
    if alignment == "itc":
        return image_text_contrastive_loss(image_embeds, text_embeds, person_ids, **options)
    return similarity_distribution_matching_loss(image_embeds, text_embeds, person_ids, epsilon=epsilon, **options)


def image_query_contrastive_loss(
    image_embeds: torch.Tensor,
    query_embeds: torch.Tensor,
    fits: torch.Tensor,
    fits_all_images: torch.Tensor,
    *,
    temperature: float | torch.Tensor,
    all_image_embeds: torch.Tensor | None = None,
    all_query_embeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Symmetric contrastive loss of images and queries, in which a query describes any number of images.

    The columns that fit a row share its target probability equally. A row that fits nothing does not count.

    Args:
        image_embeds (`torch.FloatTensor` of shape `(num_images, projection_dim)`): need not be normalised.
        query_embeds (`torch.FloatTensor` of shape `(num_queries, projection_dim)`): need not be normalised.
        fits (`torch.BoolTensor` of shape `(num_images, num_all_queries)`): whether a query describes an image.
        fits_all_images (`torch.BoolTensor` of shape `(num_queries, num_all_images)`): the same for these queries.
        temperature (`float` or `torch.FloatTensor` of shape `()`): tau.
        all_image_embeds, all_query_embeds (`torch.FloatTensor` of shape `(num_columns, projection_dim)`, *optional*):
            Columns of all processes; by default the rows themselves.

    Returns:
        `torch.FloatTensor` of shape `()`: cross-entropy in nats, mean over both directions and the rows that fit
        something.

    Raises:
        ValueError: if `temperature` is not positive.
    """
    logits = _similarity_logits(image_embeds, query_embeds, all_image_embeds, all_query_embeds, temperature)
    loss = logits[0].new_zeros(())
    for direction, matches in zip(logits, (fits, fits_all_images), strict=True):
        number = matches.sum(dim=1)
        row_loss = -(direction.log_softmax(dim=1) * matches).sum(dim=1) / number.clamp(min=1)
        loss = loss + row_loss.sum() / (number > 0).sum().clamp(min=1)
    return loss / 2


def masked_token_prediction_loss(token_logits: torch.Tensor, token_labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the masked informative tokens (L_mtp of GA-DMS).

    Args:
        token_logits (`torch.FloatTensor` of shape `(num_masked, vocab_size)`): one row for each masked token.
        token_labels (`torch.LongTensor` of shape `(num_masked,)`): the original tokens.

    Returns:
        `torch.FloatTensor` of shape `()`: mean over the masked tokens, in nats. Without masked tokens it is zero and
        still part of the graph.
    """
    total = nn.functional.cross_entropy(_at_least_float32(token_logits), token_labels, reduction="sum")
    return total / max(1, token_labels.numel())


def identity_loss(image_logits: torch.Tensor, text_logits: torch.Tensor, person_ids: torch.Tensor) -> torch.Tensor:
    """Identity classification loss of both embeddings with one shared classifier (fine-tuning).

    Args:
        image_logits, text_logits (`torch.FloatTensor` of shape `(batch_size, num_identities)`)
        person_ids (`torch.LongTensor` of shape `(batch_size,)`): contiguous, from 0 to `num_identities - 1`.

    Returns:
        `torch.FloatTensor` of shape `()`: mean of the two cross-entropies, in nats.

    Raises:
        ValueError: if an id is out of range.
    """
    num_identities = image_logits.shape[1]
    if person_ids.numel() and not 0 <= int(person_ids.min()) <= int(person_ids.max()) < num_identities:
        raise ValueError(
            f"person_ids range from {int(person_ids.min())} to {int(person_ids.max())}, but the classifier has "
            f"identities 0 to {num_identities - 1}; make the ids contiguous or increase config.num_identities"
        )
    image_loss, text_loss = (
        nn.functional.cross_entropy(_at_least_float32(logits), person_ids) for logits in (image_logits, text_logits)
    )
    return (image_loss + text_loss) / 2
