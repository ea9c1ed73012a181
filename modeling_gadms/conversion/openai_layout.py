"""Tensor names and layouts of OpenAI's CLIP, and of the research code built on it, mapped to those of GA-DMS.

Research code keeps OpenAI's names for the encoders, usually below `base_model.`, and adds a fusion encoder
(`cross_attn`, `cross_modal_transformer`, `ln_pre_t`, `ln_pre_i`, `ln_post`), a token head (`mlm_head`) and an identity
classifier (`classifier`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch


RESEARCH_PREFIX = "base_model."
VISION_LAYERS, TEXT_LAYERS = "visual.transformer.resblocks", "transformer.resblocks"
FUSION_LAYERS = "cross_modal_transformer.resblocks"
_FUSION_PREFIXES = ("cross_attn.", f"{FUSION_LAYERS}.", "ln_pre_t.", "ln_pre_i.", "ln_post.", "mlm_head.")


@dataclass(frozen=True)
class TensorMapping:
    """A tensor in OpenAI's layout and the GA-DMS tensors with the same values.

    Attributes:
        openai_name (`str`): its name in OpenAI's layout.
        gadms_names (`tuple[str, ...]`): one name, or three for a tensor that concatenates query, key and value.
        transposed (`bool`): whether one layout stores the transpose of the other.
    """

    openai_name: str
    gadms_names: tuple[str, ...]
    transposed: bool = False

    def to_gadms(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """Convert a tensor from OpenAI's layout. Returns copies."""
        parts = (tensor.T,) if self.transposed else tensor.chunk(len(self.gadms_names))
        # safetensors does not save tensors that share storage.
        copies = (part.clone(memory_format=torch.contiguous_format) for part in parts)
        return dict(zip(self.gadms_names, copies, strict=True))

    def to_openai(self, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Convert tensors of a GA-DMS model to OpenAI's layout. Returns a copy."""
        tensor = torch.cat([state[name] for name in self.gadms_names])
        return tensor.T.contiguous() if self.transposed else tensor

    def openai_shape(self, state: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
        """Return the shape in OpenAI's layout of the tensors in a GA-DMS state dictionary."""
        rows, *others = state[self.gadms_names[0]].shape
        return (*others, rows) if self.transposed else (len(self.gadms_names) * rows, *others)


@dataclass(frozen=True)
class CheckpointParts:
    """Parts of a model that a checkpoint contains.

    Attributes:
        research (`bool`): whether research code wrote it, whose mask token is the third last of the vocabulary.
        prefix (`str`): prefix of the encoders' tensor names.
        vision_layers (`int`), text_layers (`int`): layers of the encoders.
        fusion_layers (`int`, *optional*): layers of the fusion encoder; `None` without fusion encoder and token head.
        classifier (`bool`): whether there is an identity classifier.
    """

    research: bool
    prefix: str
    vision_layers: int
    text_layers: int
    fusion_layers: int | None
    classifier: bool

    def mappings(self) -> list[TensorMapping]:
        """Map every tensor of such a checkpoint except `logit_scale` to a [`GADMSForPreTraining`]."""
        mappings = list(_encoder_mappings(self.prefix, self.vision_layers, self.text_layers))
        if self.fusion_layers is not None:
            mappings += _fusion_mappings(self.fusion_layers)
        if self.classifier:
            mappings += _weight_and_bias("classifier", "classifier")
        return mappings

    def reason_ignored(self, name: str) -> str:
        """Say why a tensor that is not in [`~CheckpointParts.mappings`] is not converted."""
        name = name.removeprefix(self.prefix)
        if name in ("input_resolution", "context_length", "vocab_size"):
            return "a setting, which is inferred from shapes"
        if name.rpartition(".")[2] in ("attn_mask", "position_ids"):
            return "a constant, which is recomputed"
        if name == "logit_scale":
            return f"the temperature is taken from `{self.prefix}logit_scale`"
        if name.startswith(("visual.", "transformer.")):
            return "an unknown part of an encoder; embeddings may differ from those of the original model"
        return "not part of GA-DMS"


def find_parts(names: Iterable[str]) -> CheckpointParts:
    """Find the parts of a checkpoint from its tensor names. A part counts as present if one of its tensors is.

    Raises:
        ValueError: if it is not a CLIP checkpoint, its image encoder is a ResNet, or a layer is missing.
    """
    names = set(names)
    prefix = RESEARCH_PREFIX if any(name.startswith(RESEARCH_PREFIX) for name in names) else ""
    for name in sorted(names):
        if name.startswith((f"{prefix}visual.layer1.", f"{prefix}visual.attnpool.")):
            raise ValueError(f"its image encoder is a ResNet (`{name}`); only vision transformers are supported")
        if name.startswith(("vision_model.", "text_model.")):
            raise ValueError(f"its names are transformers' (`{name}`); give the folder with its config.json instead")
        if name.startswith("gadms."):
            raise ValueError(f"it is a GA-DMS model already (`{name}`): there is nothing to convert")
    encoders = (f"{prefix}visual.", f"{prefix}transformer.", f"{prefix}token_embedding.")
    if not any(name.startswith(encoders) for name in names):
        examples = ", ".join(sorted(names)[:3])
        raise ValueError(f"it is not a CLIP checkpoint: none of its {len(names)} names is CLIP's, such as {examples}")
    fusion = any(name.startswith(_FUSION_PREFIXES) for name in names)
    return CheckpointParts(
        research=bool(prefix) or fusion,
        prefix=prefix,
        vision_layers=max(1, _count_layers(names, prefix + VISION_LAYERS)),
        text_layers=max(1, _count_layers(names, prefix + TEXT_LAYERS)),
        fusion_layers=_count_layers(names, FUSION_LAYERS) if fusion else None,
        classifier=any(name.startswith("classifier.") for name in names),
    )


def _count_layers(names: set[str], stack: str) -> int:
    pattern = re.compile(re.escape(stack) + r"\.(\d+)\.")
    layers = sorted({int(match[1]) for name in names if (match := pattern.match(name))})
    for expected, layer in enumerate(layers):
        if layer != expected:
            raise ValueError(
                f"it has layer {layer} of `{stack}` but not layer {expected}: `{stack}.{expected}.ln_1.weight` etc. "
                "are missing"
            )
    return len(layers)


def _encoder_mappings(prefix: str, vision_layers: int, text_layers: int) -> Iterator[TensorMapping]:
    visual, vision_model, text_model = f"{prefix}visual", "gadms.vision_model", "gadms.text_model"
    yield TensorMapping(f"{visual}.class_embedding", (f"{vision_model}.embeddings.class_embedding",))
    yield TensorMapping(f"{visual}.positional_embedding", (f"{vision_model}.embeddings.position_embedding.weight",))
    yield TensorMapping(f"{visual}.conv1.weight", (f"{vision_model}.embeddings.patch_embedding.weight",))
    yield from _weight_and_bias(f"{visual}.ln_pre", f"{vision_model}.pre_layrnorm")
    for layer in range(vision_layers):
        yield from _layer_mappings(f"{prefix}{VISION_LAYERS}.{layer}", f"{vision_model}.encoder.layers.{layer}")
    yield from _weight_and_bias(f"{visual}.ln_post", f"{vision_model}.post_layernorm")
    yield TensorMapping(f"{visual}.proj", ("gadms.visual_projection.weight",), transposed=True)
    yield TensorMapping(f"{prefix}token_embedding.weight", (f"{text_model}.embeddings.token_embedding.weight",))
    yield TensorMapping(f"{prefix}positional_embedding", (f"{text_model}.embeddings.position_embedding.weight",))
    for layer in range(text_layers):
        yield from _layer_mappings(f"{prefix}{TEXT_LAYERS}.{layer}", f"{text_model}.encoder.layers.{layer}")
    yield from _weight_and_bias(f"{prefix}ln_final", f"{text_model}.final_layer_norm")
    yield TensorMapping(f"{prefix}text_projection", ("gadms.text_projection.weight",), transposed=True)


def _fusion_mappings(layers: int) -> Iterator[TensorMapping]:
    yield from _weight_and_bias("ln_pre_t", "fusion.text_norm")
    yield from _weight_and_bias("ln_pre_i", "fusion.image_norm")
    for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"):
        yield TensorMapping(f"cross_attn.{name}", (f"fusion.cross_attention.{name}",))
    for layer in range(layers):
        yield from _layer_mappings(f"{FUSION_LAYERS}.{layer}", f"fusion.layers.{layer}")
    yield from _weight_and_bias("ln_post", "fusion.post_norm")
    yield from _weight_and_bias("mlm_head.dense", "token_head.dense")
    yield from _weight_and_bias("mlm_head.ln", "token_head.layer_norm")
    yield from _weight_and_bias("mlm_head.fc", "token_head.decoder")


def _layer_mappings(openai: str, gadms: str) -> Iterator[TensorMapping]:
    for kind in ("weight", "bias"):
        projections = tuple(f"{gadms}.self_attn.{name}_proj.{kind}" for name in ("q", "k", "v"))
        yield TensorMapping(f"{openai}.attn.in_proj_{kind}", projections)
    yield from _weight_and_bias(f"{openai}.attn.out_proj", f"{gadms}.self_attn.out_proj")
    yield from _weight_and_bias(f"{openai}.ln_1", f"{gadms}.layer_norm1")
    yield from _weight_and_bias(f"{openai}.mlp.c_fc", f"{gadms}.mlp.fc1")
    yield from _weight_and_bias(f"{openai}.mlp.c_proj", f"{gadms}.mlp.fc2")
    yield from _weight_and_bias(f"{openai}.ln_2", f"{gadms}.layer_norm2")


def _weight_and_bias(openai: str, gadms: str) -> Iterator[TensorMapping]:
    for kind in ("weight", "bias"):
        yield TensorMapping(f"{openai}.{kind}", (f"{gadms}.{kind}",))
