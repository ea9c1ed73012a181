"""Which patches of a picture carry its similarity to a caption: GASS's counterpart on the image's side."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch.func import functional_call
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from ..encoders.encoding import encode_captions
from ..encoders.query_checks import check_query
from ..encoders.thread_copies import with_own_modules
from ..modeling_gadms import GADMSModel
from ..processing_gadms import GADMSProcessor
from ..token_scoring_gadms import frozen_float32, scoring_mode, tapped_layers


_PALETTE = np.array([(255, 255, 255), (255, 225, 90), (240, 120, 40), (170, 20, 40)], dtype=np.float32)
"""From nothing to all of it, evenly spaced."""


@dataclass(frozen=True)
class ImageRelevance:
    """A heat map.

    Attributes:
        scores (`torch.FloatTensor` of shape `(rows, columns)`): of each patch, 0 to 1; all 0 where no patch raises the
            similarity.
        similarity (`float`): cosine of caption and image.
    """

    scores: torch.Tensor
    similarity: float


def image_relevance(
    model: GADMSModel, processor: GADMSProcessor, image: Image.Image, caption: str, *, num_layers: int = 1
) -> ImageRelevance:
    """Weigh the patches of a picture by what they add to its similarity to a caption.

    The method is Grad-ECLIP (Zhao et al., "Gradient-based Visual Explanation for Transformer-based CLIP", ICML 2024,
    eq. 8-10). With q, k, v of a vision layer and g the gradient of the similarity with respect to the attention output
    at the class token,

        relevance_i = ReLU(sum over channels of g * w_i * v_i),  w_i = cosine of q at the class token and k_i,

    w scaled to [0, 1] over the patches. Of several layers the mean is taken before the ReLU, as GASS does. Other
    threads may use the model meanwhile.

    Args:
        model ([`GADMSModel`]): run by torch, for its gradients.
        processor ([`GADMSProcessor`])
        image (`PIL.Image.Image`): of a person.
        caption (`str`)
        num_layers (`int`): how many of the last layers.

    Warns:
        UserWarning: as [`~modeling_gadms.encoders.query_checks.check_query`].
    Raises:
        TypeError: if the model is run by something else than torch.
        ValueError: if the caption is empty, or there are fewer layers.
    """
    if not isinstance(model, GADMSModel):
        raise TypeError(f"A heat map needs gradients, and {type(model).__name__} has none: load the model with torch")
    depth = len(model.vision_model.encoder.layers)
    if not 1 <= num_layers <= depth:
        raise ValueError(f"num_layers must lie between 1 and {depth}, the model's layers, not {num_layers}")
    caption = check_query(processor, caption)
    text_embeds = encode_captions(model, processor, [caption], progress=False).to(model.device)
    pixels = processor(images=[image], return_tensors="pt")["pixel_values"].to(model.device)
    model = with_own_modules(model)
    vision, projection = model.vision_model, model.visual_projection
    layers = cast(list[CLIPEncoderLayer], list(vision.encoder.layers[-num_layers:]))
    with (
        scoring_mode(vision),
        torch.autocast(device_type=pixels.device.type, enabled=False),
        tapped_layers(layers) as taps,
    ):
        # Clones turn tensors made under inference mode into ones that a graph may hold.
        outputs = functional_call(vision, frozen_float32(vision), pixels.clone())
        image_embeds = functional_call(projection, frozen_float32(projection), outputs.last_hidden_state[:, 0])
        similarity = torch.cosine_similarity(image_embeds, text_embeds.clone().to(image_embeds.dtype), dim=-1)
        gradients = torch.autograd.grad(similarity.sum(), [tap.output for tap in taps])
        with torch.no_grad():
            total = torch.zeros(vision.embeddings.position_embedding.num_embeddings - 1, device=pixels.device)
            for tap, gradient in zip(taps, gradients, strict=True):
                weights = torch.cosine_similarity(tap.query[0, :1], tap.key[0, 1:], dim=-1)  # (num_patches,)
                total += _scaled(weights) * (tap.value[0, 1:] @ gradient[0, 0])
            relevance = torch.relu(total / num_layers)
            highest = relevance.max()
            scores = relevance / highest if highest > 0 else relevance
    return ImageRelevance(scores.reshape(model.config.patch_grid).cpu(), similarity.item())


def draw_heat_map(image: Image.Image, scores: torch.Tensor, *, opacity: float = 0.65) -> Image.Image:
    """A picture under its heat map.

    Args:
        image (`PIL.Image.Image`)
        scores (`torch.FloatTensor` of shape `(rows, columns)`): as of [`image_relevance`].
        opacity (`float`): of the map where the score is 1; where it is 0 the picture is seen as it is.

    Returns:
        `PIL.Image.Image` in mode RGB, of the picture's size.
    """
    grid = Image.fromarray(scores.float().numpy(), mode="F")
    score = np.asarray(grid.resize(image.size, Image.Resampling.BICUBIC)).clip(0, 1)[..., None]  # (height, width, 1)
    steps = np.linspace(0, 1, len(_PALETTE))
    colour = np.stack([np.interp(score[..., 0], steps, channel) for channel in _PALETTE.T], axis=-1)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    blended = pixels + (colour - pixels) * (opacity * np.sqrt(score))
    return Image.fromarray(blended.round().clip(0, 255).astype(np.uint8))


def _scaled(values: torch.Tensor) -> torch.Tensor:
    """To [0, 1]; equal values become 1."""
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else torch.ones_like(values)
