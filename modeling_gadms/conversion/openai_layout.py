"""How OpenAI's CLIP and the research code built on it name and lay out their tensors, and what those are here."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..configuration_gadms import GADMSConfig


HEAD_WIDTH = 64
"""Channels of an attention head. Weights do not tell it; it is this in every CLIP with a transformer for images."""
RESEARCH_PREFIX = "base_model."

_VISION, _TEXT, _FUSION = "visual.transformer.resblocks", "transformer.resblocks", "cross_modal_transformer.resblocks"
_FUSION_PARTS = ("cross_attn.", f"{_FUSION}.", "ln_pre_t.", "ln_pre_i.", "ln_post.", "mlm_head.")
_CLASSIFIER = "classifier."


@dataclass(frozen=True)
class Entry:
    """A tensor of that layout and where it is here.

    Attributes:
        theirs (`str`): its name there.
        ours (`tuple[str, ...]`): its name here, or those of the three it is made of, one upon the other.
        transposed (`bool`): whether rows here are columns there.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False

    def to_ours(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensor of that layout as those of ours; copies."""
        parts = (tensor.T,) if self.transposed else tensor.chunk(len(self.ours))
        # Each its own storage: what shares one is not saved.
        copies = (part.clone(memory_format=torch.contiguous_format) for part in parts)
        return dict(zip(self.ours, copies, strict=True))

    def to_theirs(self, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The tensor of that layout, from ours; a copy."""
        tensor = torch.cat([state[name] for name in self.ours]) if len(self.ours) > 1 else state[self.ours[0]].clone()
        return tensor.T.contiguous() if self.transposed else tensor

    def shape(self, state: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
        """Its shape there, where ours have those of `state`."""
        shape = tuple(state[self.ours[0]].shape)
        if self.transposed:
            return shape[::-1]
        return (len(self.ours) * shape[0], *shape[1:])


@dataclass(frozen=True)
class Parts:
    """What of a model a checkpoint holds.

    Attributes:
        research (`bool`): whether it comes from research code, where the third last token is the mask.
        prefix (`str`): of the names of the encoders' tensors.
        vision_layers (`int`): of the image encoder.
        text_layers (`int`): of the text encoder.
        fusion_layers (`int`, *optional*): of the fusion encoder; `None` where neither it nor the token head is there.
        classifier (`bool`): whether there is one of identities.
    """

    research: bool
    prefix: str
    vision_layers: int
    text_layers: int
    fusion_layers: int | None
    classifier: bool

    def entries(self) -> list[Entry]:
        """Every tensor such a checkpoint has, but `logit_scale`; names of ours are [`GADMSForPreTraining`]'s."""
        entries = list(_encoder_entries(self.prefix, self.vision_layers, self.text_layers))
        if self.fusion_layers is not None:
            entries += _fusion_entries(self.fusion_layers)
        if self.classifier:
            entries += _both("classifier", "classifier")
        return entries


def parts_of(names: Iterable[str]) -> Parts:
    """Tell from the names of its tensors what a checkpoint holds; a part of which one tensor is there counts as there.

    Raises:
        ValueError: if it is none of CLIP's, or a CLIP whose image encoder is a ResNet, or a layer is left out.
    """
    names = set(names)
    prefix = RESEARCH_PREFIX if any(name.startswith(RESEARCH_PREFIX) for name in names) else ""
    for name in sorted(names):
        if name.startswith((f"{prefix}visual.layer1.", f"{prefix}visual.attnpool.")):
            raise ValueError(f"its image encoder is a ResNet (`{name}`); only vision transformers are known here")
        if name.startswith(("vision_model.", "text_model.")):
            raise ValueError(f"its names are transformers' (`{name}`); give the folder with its config.json instead")
        if name.startswith("gadms."):
            raise ValueError(f"it is a GA-DMS model already (`{name}`): there is nothing to convert")
    encoders = (f"{prefix}visual.", f"{prefix}transformer.", f"{prefix}token_embedding.")
    if not any(name.startswith(encoders) for name in names):
        examples = ", ".join(sorted(names)[:3])
        raise ValueError(f"it is no CLIP checkpoint: none of its {len(names)} names is one, such as {examples}")
    fusion = any(name.startswith(_FUSION_PARTS) for name in names)
    return Parts(
        research=bool(prefix) or fusion,
        prefix=prefix,
        vision_layers=max(1, _count_layers(names, prefix + _VISION)),
        text_layers=max(1, _count_layers(names, prefix + _TEXT)),
        fusion_layers=_count_layers(names, _FUSION) if fusion else None,
        classifier=any(name.startswith(_CLASSIFIER) for name in names),
    )


def infer_config(
    tensors: Mapping[str, torch.Tensor],
    parts: Parts,
    tokenizer: PreTrainedTokenizerBase,
    *,
    image_size: tuple[int, int],
    temperature: float | None,
) -> GADMSConfig:
    """The configuration that the shapes of a whole checkpoint tell.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): with every tensor of `parts`.
        parts ([`Parts`])
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): has the special tokens, and as many as embeddings.
        image_size (`tuple[int, int]`): (height, width) in pixels.
        temperature (`float`, *optional*): by default the configuration's own.

    Raises:
        ValueError: for a tensor with another number of dimensions than it must have, or a width that is no multiple
            of 64.
    """

    def sizes(name: str, *dimensions: str) -> torch.Size:
        return shape_of(tensors, f"{parts.prefix}{name}", *dimensions)

    _, text_width = sizes("token_embedding.weight", "tokens", "width")
    context_length, _ = sizes("positional_embedding", "tokens", "width")
    _, projection_dim = sizes("text_projection", "width", "projection")
    vision_width, *_ = sizes("visual.conv1.weight", "width", "3", "side", "side")
    fields: dict[str, Any] = {}
    if temperature is not None:
        fields["temperature"] = temperature
    if parts.classifier:
        fields["num_identities"] = shape_of(tensors, "classifier.weight", "identities", "width")[0]
    if parts.fusion_layers:
        name = f"{_FUSION}.0.mlp.c_fc.weight"
        fields["fusion_intermediate_size"] = shape_of(tensors, name, "feed-forward", "width")[0]
    if parts.fusion_layers is not None:
        fields["fusion_num_hidden_layers"] = parts.fusion_layers
        fields["fusion_num_attention_heads"] = _heads("fusion encoder", projection_dim)
    else:
        fields["fusion_num_attention_heads"] = default_fusion_heads(projection_dim)
    common = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    return GADMSConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": text_width,
            "intermediate_size": sizes(f"{_TEXT}.0.mlp.c_fc.weight", "feed-forward", "width")[0],
            "num_hidden_layers": parts.text_layers,
            "num_attention_heads": _heads("text encoder", text_width),
            "max_position_embeddings": context_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **common,
        },
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": sizes(f"{_VISION}.0.mlp.c_fc.weight", "feed-forward", "width")[0],
            "num_hidden_layers": parts.vision_layers,
            "num_attention_heads": _heads("image encoder", vision_width),
            "image_size": image_size,
            "patch_size": patch_size_of(tensors, parts),
            **common,
        },
        projection_dim=projection_dim,
        mask_token_id=tokenizer.mask_token_id,
        score_layers=min(8, parts.text_layers),
        masked_token_prediction=parts.fusion_layers is not None,
        **fields,
    )


def patch_size_of(tensors: Mapping[str, torch.Tensor], parts: Parts) -> int:
    """Side of a patch in pixels.

    Raises:
        ValueError: if patches are no squares of three colours.
    """
    name = f"{parts.prefix}visual.conv1.weight"
    shape = shape_of(tensors, name, "width", "3", "side", "side")
    if shape[1] != 3 or shape[2] != shape[3]:
        raise ValueError(f"`{name}` has shape {tuple(shape)}, where (width, 3, side, side) is expected")
    return shape[2]


def shape_of(tensors: Mapping[str, torch.Tensor], name: str, *dimensions: str) -> torch.Size:
    """The shape of a tensor that has these dimensions, none of them empty.

    Raises:
        ValueError: if it has others.
    """
    shape = tensors[name].shape
    if len(shape) != len(dimensions) or 0 in shape:
        raise ValueError(f"`{name}` has shape {tuple(shape)}, where ({', '.join(dimensions)}) is expected")
    return shape


def default_fusion_heads(projection_dim: int) -> int:
    """Attention heads of a fusion encoder that is not there yet."""
    return projection_dim // HEAD_WIDTH if projection_dim % HEAD_WIDTH == 0 else 1


def why_ignored(name: str, parts: Parts) -> str:
    """The reason why a tensor that is none of `parts` is not used."""
    name = name.removeprefix(parts.prefix)
    last = name.rpartition(".")[2]
    if name in ("input_resolution", "context_length", "vocab_size"):
        return "a setting, which shapes tell as well"
    if last in ("attn_mask", "position_ids"):
        return "a constant, which is computed here"
    if name == "logit_scale":
        return f"the temperature is taken from `{parts.prefix}logit_scale`"
    if name.startswith(("visual.", "transformer.")):
        return "an unknown part of an encoder: embeddings may differ from those of the code that wrote it"
    return "no part of GA-DMS"


def _count_layers(names: set[str], stack: str) -> int:
    pattern = re.compile(re.escape(stack) + r"\.(\d+)\.")
    layers = sorted({int(match[1]) for name in names if (match := pattern.match(name))})
    for expected, layer in enumerate(layers):
        if layer != expected:
            raise ValueError(
                f"it has layer {layer} of `{stack}` and lacks one before: `{stack}.{expected}.ln_1.weight` and so on"
            )
    return len(layers)


def _heads(encoder: str, width: int) -> int:
    if width % HEAD_WIDTH:
        raise ValueError(
            f"its {encoder} has width {width}, which is no multiple of {HEAD_WIDTH}: how many attention heads it has "
            "cannot be told, and CLIP's have that width each"
        )
    return width // HEAD_WIDTH


def _encoder_entries(prefix: str, vision_layers: int, text_layers: int) -> Iterator[Entry]:
    visual, vision_model, text_model = f"{prefix}visual", "gadms.vision_model", "gadms.text_model"
    yield Entry(f"{visual}.class_embedding", (f"{vision_model}.embeddings.class_embedding",))
    yield Entry(f"{visual}.positional_embedding", (f"{vision_model}.embeddings.position_embedding.weight",))
    yield Entry(f"{visual}.conv1.weight", (f"{vision_model}.embeddings.patch_embedding.weight",))
    yield from _both(f"{visual}.ln_pre", f"{vision_model}.pre_layrnorm")
    for layer in range(vision_layers):
        yield from _block(f"{prefix}{_VISION}.{layer}", f"{vision_model}.encoder.layers.{layer}")
    yield from _both(f"{visual}.ln_post", f"{vision_model}.post_layernorm")
    yield Entry(f"{visual}.proj", ("gadms.visual_projection.weight",), transposed=True)
    yield Entry(f"{prefix}token_embedding.weight", (f"{text_model}.embeddings.token_embedding.weight",))
    yield Entry(f"{prefix}positional_embedding", (f"{text_model}.embeddings.position_embedding.weight",))
    for layer in range(text_layers):
        yield from _block(f"{prefix}{_TEXT}.{layer}", f"{text_model}.encoder.layers.{layer}")
    yield from _both(f"{prefix}ln_final", f"{text_model}.final_layer_norm")
    yield Entry(f"{prefix}text_projection", ("gadms.text_projection.weight",), transposed=True)


def _fusion_entries(layers: int) -> Iterator[Entry]:
    yield from _both("ln_pre_t", "fusion.text_norm")
    yield from _both("ln_pre_i", "fusion.image_norm")
    for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"):
        yield Entry(f"cross_attn.{name}", (f"fusion.cross_attention.{name}",))
    for layer in range(layers):
        yield from _block(f"{_FUSION}.{layer}", f"fusion.layers.{layer}")
    yield from _both("ln_post", "fusion.post_norm")
    yield from _both("mlm_head.dense", "token_head.dense")
    yield from _both("mlm_head.ln", "token_head.layer_norm")
    yield from _both("mlm_head.fc", "token_head.decoder")


def _block(theirs: str, ours: str) -> Iterator[Entry]:
    for kind in ("weight", "bias"):
        parts = tuple(f"{ours}.self_attn.{part}_proj.{kind}" for part in ("q", "k", "v"))
        yield Entry(f"{theirs}.attn.in_proj_{kind}", parts)
    yield from _both(f"{theirs}.attn.out_proj", f"{ours}.self_attn.out_proj")
    yield from _both(f"{theirs}.ln_1", f"{ours}.layer_norm1")
    yield from _both(f"{theirs}.mlp.c_fc", f"{ours}.mlp.fc1")
    yield from _both(f"{theirs}.mlp.c_proj", f"{ours}.mlp.fc2")
    yield from _both(f"{theirs}.ln_2", f"{ours}.layer_norm2")


def _both(theirs: str, ours: str) -> Iterator[Entry]:
    for kind in ("weight", "bias"):
        yield Entry(f"{theirs}.{kind}", (f"{ours}.{kind}",))
