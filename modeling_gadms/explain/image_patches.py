"""Relevance of image patches to a caption (Grad-ECLIP), the image-side counterpart of GASS."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..encoders.encoding import encode_captions
from ..encoders.onnx_model import OnnxModel, RetrievalModel
from ..encoders.processors import RetrievalProcessor, family_of
from ..encoders.query_checks import check_query
from ..encoders.shared_weights import copy_sharing_weights
from ..token_scoring_gadms import scoring_mode
from .encoder_attention import Features, record_last_image_attention


_PALETTE = np.array([(255, 255, 255), (255, 225, 90), (240, 120, 40), (170, 20, 40)], dtype=np.float32)
"""Colours of relevance 0 to 1, evenly spaced."""
_OPACITY = 0.65
"""Opacity of the heat map at a score of 1; at a score of 0 it is transparent."""


@dataclass(frozen=True)
class ImageRelevance:
    """Relevance of the patches of an image.

    Attributes:
        scores (`torch.FloatTensor` of shape `(rows, columns)`): relevance of each patch, in [0, 1]; all zero if no
            patch increases the similarity.
        similarity (`float`): cosine similarity of caption and image.
    """

    scores: torch.Tensor
    similarity: float


def image_relevance(
    model: RetrievalModel, processor: RetrievalProcessor, image: Image.Image, caption: str
) -> ImageRelevance:
    """Compute how much each patch of an image contributes to the similarity to a caption.

    The method is Grad-ECLIP (Zhao et al., "Gradient-based Visual Explanation for Transformer-based CLIP", ICML 2024,
    eq. 8-10). With q, k, v of the last vision layer, and g the gradient of the similarity with respect to the
    attention output at the class token,

        relevance_i = ReLU(sum over channels of g * w_i * v_i),  w_i = cosine of q at the class token and k_i,

    where w is scaled to [0, 1] over the patches. SigLIP has no class token: there the attention is that of the pooling
    head, with its probe in place of the class token. A GA-DMS model with `image_pooling="patches"` adds up its
    patches: there, relevance is the ReLU of a patch's part of the similarity. Other threads can use the model at the
    same time.

    Args:
        model ([`GADMSModel`] or a model of transformers): a PyTorch model, since gradients are needed.
        processor ([`GADMSProcessor`] or [`DualEncoderProcessor`]): of the model.
        image (`PIL.Image.Image`): image of a person.
        caption (`str`)

    Warns:
        UserWarning: as [`~modeling_gadms.encoders.query_checks.check_query`].
    Raises:
        TypeError: if the model is not a PyTorch model.
        ValueError: if the caption is empty, or the model's image encoder has no attention.
    """
    if isinstance(model, OnnxModel):
        raise TypeError(f"A heat map needs gradients, and {type(model).__name__} has none: load the model with torch")
    family_of(processor).check_can("heat maps")
    caption = check_query(processor, caption)
    text_embeds = encode_captions(model, processor, [caption], progress=False).to(model.device)
    inputs = processor(images=[image]).to(model.device)
    rows, columns = _patch_grid(inputs, model.config.vision_config.patch_size)
    if getattr(model, "patch_pooling", None) is not None:
        parts = _pooled_parts(model, inputs["pixel_values"], text_embeds[0])
        return ImageRelevance(_scaled_to_highest(torch.relu(parts)).reshape(rows, columns).cpu(), parts.sum().item())
    features = Features(copy_sharing_weights(model), "image")
    with (
        scoring_mode(features.encoder, "eager"),
        torch.autocast(device_type=model.device.type, enabled=False),
        record_last_image_attention(features.encoder) as record,
    ):
        image_embeds = features.in_float32(inputs)
        similarity = torch.cosine_similarity(image_embeds, text_embeds.clone().to(image_embeds.dtype), dim=-1)
        (gradient,) = torch.autograd.grad(similarity.sum(), record.output)
        with torch.no_grad():
            # NaFlex pads the patches at the end; others have class and register tokens at the beginning.
            first = 1 if "spatial_shapes" in inputs else record.key.shape[1] - rows * columns
            keys, values = (each[0, first : first + rows * columns] for each in (record.key, record.value))
            weights = torch.cosine_similarity(record.query[0, :1], keys, dim=-1)  # (num_patches,)
            relevance = torch.relu(_min_max_scaled(weights) * (values @ gradient[0, 0])).float()
    return ImageRelevance(_scaled_to_highest(relevance).reshape(rows, columns).cpu(), similarity.item())


@torch.no_grad()
def _pooled_parts(model: Any, pixels: torch.Tensor, text_embed: torch.Tensor) -> torch.Tensor:
    """The part of each patch in the similarity, of shape `(num_patches,)`; they add up to it."""
    outputs = model.get_image_features(pixels)
    patches = outputs["last_hidden_state"][0, 1:]  # without the class token
    weights = model.patch_pooling.weight.unflatten(1, patches.shape)  # (projection_dim, num_patches, projection_dim)
    parts = torch.einsum("opw,pw,o->p", weights.float(), patches.float(), text_embed.float())
    return parts / outputs["pooler_output"][0].float().norm()


def _patch_grid(inputs: Any, patch_size: int) -> tuple[int, int]:
    """Rows and columns of the patches of one image."""
    if "spatial_shapes" in inputs:
        rows, columns = inputs["spatial_shapes"][0].tolist()
        return rows, columns
    height, width = inputs["pixel_values"].shape[-2:]
    return height // patch_size, width // patch_size


def draw_heat_map(image: Image.Image, scores: torch.Tensor) -> Image.Image:
    """Overlay an image with its heat map.

    Args:
        image (`PIL.Image.Image`)
        scores (`torch.FloatTensor` of shape `(rows, columns)`): from [`image_relevance`].

    Returns:
        `PIL.Image.Image` in mode RGB, of the size of the image.
    """
    grid = Image.fromarray(scores.float().numpy(), mode="F")
    score = np.asarray(grid.resize(image.size, Image.Resampling.BICUBIC)).clip(0, 1)[..., None]  # (height, width, 1)
    steps = np.linspace(0, 1, len(_PALETTE))
    colour = np.stack([np.interp(score[..., 0], steps, channel) for channel in _PALETTE.T], axis=-1)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    blended = pixels + (colour - pixels) * (_OPACITY * np.sqrt(score))
    return Image.fromarray(blended.round().clip(0, 255).astype(np.uint8))


def _scaled_to_highest(relevance: torch.Tensor) -> torch.Tensor:
    highest = relevance.max()
    return relevance / highest if highest > 0 else relevance


def _min_max_scaled(values: torch.Tensor) -> torch.Tensor:
    """Scale to [0, 1]; equal values become 1."""
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else torch.ones_like(values)
