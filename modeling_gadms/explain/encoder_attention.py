"""Find and record the attention of any family's encoders."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call

from ..token_scoring_gadms import CLIP_ATTENTION, AttentionRecord, frozen_float32, record_attention


Parts = Callable[[Any], tuple[nn.Module, ...]]
_BERT_ATTENTION = attrgetter(
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"
)
_DINO_ATTENTION = attrgetter("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")
_KNOWN: tuple[tuple[str, Parts], ...] = (
    ("encoder.layers", CLIP_ATTENTION),  # of CLIP and SigLIP
    ("encoder.layer", _BERT_ATTENTION),  # of ALIGN and Chinese-CLIP
    ("roberta.encoder.layers", _BERT_ATTENTION),  # of AltCLIP
    ("encoder.layer", _DINO_ATTENTION),  # of TIPSv2's images
)


def find_attention(encoder: nn.Module) -> tuple[list[nn.Module], Parts]:
    """The attention layers of an encoder, and the function that finds their parts, for [`record_attention`].

    Raises:
        ValueError: if the encoder has no attention, or it is of an unknown kind.
    """
    for path, parts in _KNOWN:
        try:
            layers = list(attrgetter(path)(encoder))
            parts(layers[0])
        except AttributeError:
            continue
        return layers, parts
    raise ValueError(f"{type(encoder).__name__} has no attention that can be read")


class Features(nn.Module):
    """One of a model's encoders with its projection, as a module.

    Args:
        model: with `get_image_features`, `get_text_features`, `vision_model` and `text_model`.
        of (`str`): `"image"` or `"text"`.
    """

    def __init__(self, model: Any, of: Literal["image", "text"]):
        super().__init__()
        self.model = model
        self.encoder: Any = model.text_model if of == "text" else model.vision_model
        self._compute = f"get_{of}_features"
        self._unused = "model.vision_model." if of == "text" else "model.text_model."

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        embeds: torch.Tensor = getattr(self.model, self._compute)(**inputs)["pooler_output"]
        return embeds

    def in_float32(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings by weights that are float32 constants, so that no gradient of them is computed."""
        weights = {name: value for name, value in frozen_float32(self).items() if not name.startswith(self._unused)}
        # Autograd refuses tensors created in inference mode, but accepts their clones.
        kwargs = {name: value.clone() for name, value in inputs.items()}
        embeds: torch.Tensor = functional_call(self, weights, kwargs=kwargs)
        return embeds


@contextmanager
def record_last_image_attention(vision: Any) -> Iterator[AttentionRecord]:
    """Record the attention that pools an image: of the class token in the last layer, or of SigLIP's pooling head.

    In the record, position 0 is what attends: the class token, or the head's probe. The others are what it attends
    to, in the order of the encoder: patches, after register tokens if there are any.
    """
    if hasattr(vision, "head") and hasattr(vision.head, "probe"):
        with _record_pooling_head(vision.head.attention) as record:
            yield record
        return
    layers, parts = find_attention(vision)
    with record_attention(layers[-1:], parts) as (record,):
        yield record


@contextmanager
def _record_pooling_head(attention: nn.MultiheadAttention) -> Iterator[AttentionRecord]:
    """`torch.nn.MultiheadAttention` keeps its parts to itself: they are computed here from its weights."""
    record = AttentionRecord()

    def hook(module: nn.MultiheadAttention, inputs: tuple[torch.Tensor, ...], result: Any) -> tuple[torch.Tensor, Any]:
        states = torch.cat(inputs[:2], dim=1)  # the probe and the patches: (batch_size, 1 + num_patches, hidden_size)
        projected = nn.functional.linear(states, module.in_proj_weight, module.in_proj_bias)
        record.query, record.key, record.value = projected.chunk(3, dim=-1)
        # The gradient with respect to the output of the heads is that with respect to what is added to it.
        record.output = torch.zeros_like(result[0]).requires_grad_()  # (batch_size, 1, hidden_size)
        return result[0].detach() + nn.functional.linear(record.output, module.out_proj.weight), result[1]

    handle = attention.register_forward_hook(hook)
    try:
        yield record
    finally:
        handle.remove()
