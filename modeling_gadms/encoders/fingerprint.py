"""Fingerprints of models, so that embeddings of different models are never compared."""

import hashlib
import json
from functools import cache

import numpy as np
import torch
from PIL import Image

from .families import GADMS
from .onnx_model import OnnxModel, RetrievalModel
from .processors import RetrievalProcessor, family_of, image_fit_of


# Settings that change embeddings without changing weights or their shapes. The whole configuration would also contain
# training settings, and fields that only some versions of transformers have.
_ENCODER_FIELDS = ("eos_token_id", "hidden_act", "layer_norm_eps", "num_attention_heads")
_OTHER_ENCODER_FIELDS = (
    "batch_norm_eps",
    "patch_size",
    "pooling_epsilon",
    "pooling_type",
    "scale_sqrt_depth",
    "strides",
)
_PROBE_TEXT = "A woman in a red coat, carrying a black backpack."
_PROBE_COLOUR = (30, 120, 210)


def model_fingerprint(model: RetrievalModel, processor: RetrievalProcessor) -> str:
    """Digest of everything that an embedding depends on: weights, architecture, family and preprocessing.

    Preprocessing enters through its result for one sentence and one image, not through its settings; for GA-DMS the
    image is uniform, as it was when the first galleries were built, and [`image_fingerprint`] tells the rest. The same
    weights in another precision or runtime count as another model. An ONNX export enters through its files.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    family, digest = family_of(processor), hashlib.sha256()
    if isinstance(model, OnnxModel):
        digest.update(json.dumps([model.runtime, model.digests]).encode())
    fields: tuple[str, ...] = _ENCODER_FIELDS
    if family is not GADMS:
        fields += _OTHER_ENCODER_FIELDS
        settings = [family.name, family.pooling, family.padding, family.attention_mask, family.score]
        digest.update(json.dumps([*settings, processor.tokenizer.model_max_length, image_fit_of(processor)]).encode())
    for config in (model.config.text_config, model.config.vision_config):
        digest.update(json.dumps([getattr(config, field, None) for field in fields]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    digest.update(_preprocessed(processor))
    return digest.hexdigest()[:16]


def preprocessing_fingerprint(processor: RetrievalProcessor) -> str:
    """Digest of the processor's result for one sentence and one image, as [`model_fingerprint`] takes it.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    return hashlib.sha256(_preprocessed(processor)).hexdigest()[:16]


def image_fingerprint(processor: RetrievalProcessor) -> str:
    """Digest of the processor's result for an image with edges and gradients, which tells how images are resized.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(processor(images=[_probe_image()]).items()):
        # Rounded, since the last digits differ between platforms.
        values = (100 * tensor.float()).round().to(torch.int16)
        digest.update(f"{name} {tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]


def _preprocessed(processor: RetrievalProcessor) -> bytes:
    if family_of(processor) is not GADMS:
        tokens = {name: tensor.tolist() for name, tensor in sorted(processor(text=[_PROBE_TEXT]).items())}
        return json.dumps([tokens, image_fingerprint(processor)]).encode()
    probe = processor(text=[_PROBE_TEXT], images=[Image.new("RGB", (100, 200), _PROBE_COLOUR)], return_tensors="pt")
    pixels = probe["pixel_values"].float()
    # Rounded, since the last digits differ between platforms.
    colour = [round(channel, 2) for channel in pixels.mean((0, 2, 3)).tolist()]
    return json.dumps([probe["input_ids"].tolist(), list(pixels.shape), colour]).encode()


@cache
def _probe_image() -> Image.Image:
    """A tall image: a gradient in each colour, crossed by stripes."""
    rows, columns = np.mgrid[0:301, 0:101]
    stripes = (rows // 5 + columns // 7) % 2
    channels = (rows * 255 // 300, columns * 255 // 100, (rows + columns) * 255 // 400 * stripes)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
