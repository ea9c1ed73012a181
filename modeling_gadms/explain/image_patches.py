"""Relevance of image patches to a caption (Grad-ECLIP), the image-side counterpart of GASS."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch.func import functional_call
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from ..encoders.encoding import encode_captions
from ..encoders.query_checks import check_query
from ..encoders.shared_weights import copy_sharing_weights
from ..modeling_gadms import GADMSModel
from ..processing_gadms import GADMSProcessor
from ..token_scoring_gadms import frozen_float32, record_attention, scoring_mode


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


def image_relevance(model: GADMSModel, processor: GADMSProcessor, image: Image.Image, caption: str) -> ImageRelevance:
    """Compute how much each patch of an image contributes to the similarity to a caption.

    The method is Grad-ECLIP (Zhao et al., "Gradient-based Visual Explanation for Transformer-based CLIP", ICML 2024,
    eq. 8-10). With q, k, v of the last vision layer, and g the gradient of the similarity with respect to the
    attention output at the class token,

        relevance_i = ReLU(sum over channels of g * w_i * v_i),  w_i = cosine of q at the class token and k_i,

    where w is scaled to [0, 1] over the patches. With `image_pooling="patches"`, the embedding is a sum over patches:
    their relevance is the ReLU of their parts of the similarity. Other threads can use the model at the same time.

    Args:
        model ([`GADMSModel`]): a PyTorch model, since gradients are needed.
        processor ([`GADMSProcessor`])
        image (`PIL.Image.Image`): image of a person.
        caption (`str`)

    Warns:
        UserWarning: as [`~modeling_gadms.encoders.query_checks.check_query`].
    Raises:
        TypeError: if the model is not a PyTorch model.
        ValueError: if the caption is empty.
    """
    if not isinstance(model, GADMSModel):
        raise TypeError(f"A heat map needs gradients, and {type(model).__name__} has none: load the model with torch")
    caption = check_query(processor, caption)
    text_embeds = encode_captions(model, processor, [caption], progress=False).to(model.device)
    pixels = processor(images=[image], return_tensors="pt")["pixel_values"].to(model.device)
    if model.patch_pooling is not None:
        return _pooled_relevance(model, pixels, text_embeds[0])
    model = copy_sharing_weights(model)
    vision, projection = model.vision_model, model.visual_projection
    layer = cast(CLIPEncoderLayer, vision.encoder.layers[-1])
    with (
        scoring_mode(vision),
        torch.autocast(device_type=pixels.device.type, enabled=False),
        record_attention([layer]) as (record,),
    ):
        # Autograd refuses tensors created in inference mode, but accepts their clones.
        outputs = functional_call(vision, frozen_float32(vision), pixels.clone())
        image_embeds = functional_call(projection, frozen_float32(projection), outputs.last_hidden_state[:, 0])
        similarity = torch.cosine_similarity(image_embeds, text_embeds.clone().to(image_embeds.dtype), dim=-1)
        (gradient,) = torch.autograd.grad(similarity.sum(), record.output)
        with torch.no_grad():
            weights = torch.cosine_similarity(record.query[0, :1], record.key[0, 1:], dim=-1)  # (num_patches,)
            relevance = torch.relu(_min_max_scaled(weights) * (record.value[0, 1:] @ gradient[0, 0])).float()
    return _image_relevance(model, relevance, similarity.item())


@torch.no_grad()
def _pooled_relevance(model: GADMSModel, pixels: torch.Tensor, text_embed: torch.Tensor) -> ImageRelevance:
    patch_pooling = cast(torch.nn.Linear, model.patch_pooling)
    outputs = model.get_image_features(pixels)
    weights = patch_pooling.weight.unflatten(1, (-1, model.config.projection_dim))  # (projection_dim, patches, width)
    patches = outputs["last_hidden_state"][0, 1:]  # without the class token
    parts = torch.einsum("opw,pw,o->p", weights.float(), patches.float(), text_embed.float())
    parts = parts / outputs["pooler_output"][0].float().norm()
    return _image_relevance(model, torch.relu(parts), parts.sum().item())


def _image_relevance(model: GADMSModel, relevance: torch.Tensor, similarity: float) -> ImageRelevance:
    highest = relevance.max()
    scores = relevance / highest if highest > 0 else relevance
    return ImageRelevance(scores.reshape(model.config.patch_grid).cpu(), similarity)


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


def _min_max_scaled(values: torch.Tensor) -> torch.Tensor:
    """Scale to [0, 1]; equal values become 1."""
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else torch.ones_like(values)
