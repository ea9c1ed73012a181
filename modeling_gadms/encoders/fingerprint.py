"""Fingerprints of models, so that embeddings of different models are never compared."""

import hashlib
import json

import torch
from PIL import Image

from ..processing_gadms import GADMSProcessor
from .onnx_model import OnnxModel, RetrievalModel


# Settings that change embeddings without changing weights or their shapes. The whole configuration would also contain
# training settings, and fields that only some versions of transformers have.
_ENCODER_FIELDS = ("eos_token_id", "hidden_act", "layer_norm_eps", "num_attention_heads")
_PROBE_TEXT = "A woman in a red coat, carrying a black backpack."
_PROBE_COLOUR = (30, 120, 210)


def model_fingerprint(model: RetrievalModel, processor: GADMSProcessor) -> str:
    """Digest of everything that an embedding depends on: weights, architecture and preprocessing.

    Preprocessing enters through its result for one sentence and one uniform image, not through its settings. The same
    weights in another precision or runtime count as another model. An ONNX export enters through its files.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    if isinstance(model, OnnxModel):
        digest.update(json.dumps([model.runtime, model.digests]).encode())
    for config in (model.config.text_config, model.config.vision_config):
        digest.update(json.dumps([getattr(config, field, None) for field in _ENCODER_FIELDS]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    digest.update(_preprocessed(processor))
    return digest.hexdigest()[:16]


def preprocessing_fingerprint(processor: GADMSProcessor) -> str:
    """Digest of the processor's result for one sentence and one uniform image.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    return hashlib.sha256(_preprocessed(processor)).hexdigest()[:16]


def _preprocessed(processor: GADMSProcessor) -> bytes:
    probe = processor(text=[_PROBE_TEXT], images=[Image.new("RGB", (100, 200), _PROBE_COLOUR)], return_tensors="pt")
    pixels = probe["pixel_values"].float()
    # Rounded, since the last digits differ between platforms.
    colour = [round(channel, 2) for channel in pixels.mean((0, 2, 3)).tolist()]
    return json.dumps([probe["input_ids"].tolist(), list(pixels.shape), colour]).encode()
