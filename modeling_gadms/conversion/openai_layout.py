"""Tensor names and layouts of OpenAI's CLIP, and of the research code built on it, mapped to those of GA-DMS.

Research code keeps OpenAI's names for the encoders, usually below `base_model.`, and adds a fusion encoder
(`cross_attn`, `cross_modal_transformer`, `ln_pre_t`, `ln_pre_i`, `ln_post`), a token head (`mlm_head`) and an identity
classifier (`classifier`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from PIL.Image import Resampling


RESEARCH_PREFIX = "base_model."
_ENCODERS_ALONE = (RESEARCH_PREFIX, "base.")
"""Prefixes below which research code has the encoders, and no heads."""
VISION_LAYERS, TEXT_LAYERS = "visual.transformer.resblocks", "transformer.resblocks"
FUSION_LAYERS = "cross_modal_transformer.resblocks"
LONG_POSITIONS, LONG_CLIP_KEPT = "positional_embedding_res", 20
"""Long-CLIP's text positions: the first 20 of `positional_embedding`, then those of `positional_embedding_res`."""
_FUSION_PREFIXES = ("cross_attn.", f"{FUSION_LAYERS}.", "ln_pre_t.", "ln_pre_i.", "ln_post.", "mlm_head.")
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Layout:
    """What the code that wrote a checkpoint does, as far as shapes do not tell it.

    Attributes:
        name (`str`)
        sign (`str`): regular expression; a checkpoint has the first layout whose sign a name of a tensor begins with.
        activation (`str`, *optional*): `"quick_gelu"` or `"gelu"`; `None` if the code may have either.
        head_width (`int`, *optional*): channels of an attention head; `None` if it depends on the code.
        research (`bool`):
            Whether it is research code for persons: its mask token takes the place of the last merged token, and the
            size of its images is kept.
        resample (`Resampling`): how images are resized.
        image_mean, image_std (`tuple[float, float, float]`): how images are normalised.
    """

    name: str
    sign: str
    activation: str | None = "quick_gelu"
    head_width: int | None = 64
    research: bool = False
    resample: Resampling = Resampling.BICUBIC
    image_mean: tuple[float, float, float] = _CLIP_MEAN
    image_std: tuple[float, float, float] = _CLIP_STD


LAYOUTS = (
    Layout("tbps-clip", r"(.+\.)?encode_text\.", image_mean=_IMAGENET_MEAN, image_std=_IMAGENET_STD, research=True),
    Layout(
        "research",
        r"(.+\.)?(base_model|base|cross_attn|cross_modal_transformer|mlm_head)\.",
        resample=Resampling.BILINEAR,
        research=True,
    ),
    Layout("long-clip", rf"(.+\.)?{LONG_POSITIONS}$"),
    # The settings of OpenAI's own archives.
    Layout("openai", r"(.+\.)?(input_resolution|context_length|vocab_size)$"),
    # OpenAI's names, but of any code: fine-tuned by OpenAI's, trained by open_clip, ...
    Layout("clip", "", activation=None, head_width=None),
)

# Names of tensors, of which each expression must match one; and what has them.
_OTHER_ARCHITECTURES: tuple[tuple[tuple[str, ...], str], ...] = (
    ((r"visual\.(layer1|attnpool)\.",), "its image encoder is a ResNet"),
    ((r"(vision_model|text_model)\.head\.",), "it is SigLIP; load its folder with transformers"),
    ((r"visual\.trunk\.attn_pool\.", r"logit_bias$"), "it is SigLIP; load it with open_clip"),
    ((r"(vision_model|text_model)\.",), "its names are transformers'; give the folder with its config.json instead"),
    (
        (r"visual\.(trunk\.)?blocks\.\d+\.(attn\.(q_proj|q_bias|inner_attn_ln|rope)|mlp\.(w1|w12|fc1_g|ffn_ln))",),
        "it is EVA02-CLIP; load it with open_clip",
    ),
    ((r"text_decoder\.",), "it is CoCa; load it with open_clip"),
    (
        (r"((visual\.trunk|image_encoder\.model)\..*(conv_kxk|rbr_|reparam|token_mixer|convffn)|text_encoder\.emb)",),
        "it is MobileCLIP; load it with open_clip",
    ),
    (
        (r"visual\.(attn_pool\.|trunk\.attn_pool\.)",),
        "it pools by attention, as Perception Encoder (PE); load it with open_clip or its own code",
    ),
    ((r"visual\.trunk\.",), "its image encoder is timm's; load it with open_clip"),
    (
        (r".*layers\.\d+\.blocks\.\d+\.", r"(.*\.)?(bert|text_encoder)\."),
        "it is a Swin transformer with BERT, as APTM and MRA; use its own code",
    ),
    (
        (r"(.*\.)?(roberta|word_embeddings|bert)\.",),
        "its text encoder is BERT or XLM-RoBERTa, as in ALBEF, RaSa and Bi-IRRA; use its own code",
    ),
    (
        (r"text\.(transformer|token_embedding|positional_embedding|cls_emb)",),
        "its text encoder is a module of its own, as in open_clip's CustomTextCLIP; load it with open_clip",
    ),
)

# Reasons why tensors are not converted.
CONSTANT, _SETTING = "a constant, which is recomputed", "a setting, which is inferred from shapes"
_TRAINING = "used in training only"
_ENCODER_PART = "an unknown part of an encoder"
UNKNOWN_PART = "an unknown part, which the encoders may use"
_TOKEN_SELECTION = "token selection: the source ranks by the mean of two similarities, of which this is one"
EMBEDDING_PARTS = frozenset({_ENCODER_PART, UNKNOWN_PART, _TOKEN_SELECTION})
"""The reasons of tensors that the embeddings or the ranking of the source need, or may need."""
# Heads and fusion encoders by the names that IRRA, VFE-TPS and TBPS-CLIP give them, and losses with parameters.
_TRAINING_PARTS = re.compile(
    r"(cross_\w+|(\w+_)?ln_(pre_[ti]|post)|\w*classifier\w*|mlm_head|\w*itm\w*|gToken2id|decoder|mask_token|simclr_mlp"
    r"|logit_bias|\w*(queue|criterion|loss)\w*)(\.|$)"
)


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
        layout ([`Layout`]): what the code that wrote it does.
        vision_layers (`int`), text_layers (`int`): layers of the encoders.
        fusion_layers (`int`, *optional*): layers of the fusion encoder; `None` without fusion encoder and token head.
        classifier (`bool`): whether there is an identity classifier.
        prefix, text_prefix, head_prefix (`str`):
            what precedes the names of the image encoder, of the text encoder, and of everything else.
    """

    layout: Layout
    vision_layers: int
    text_layers: int
    fusion_layers: int | None = None
    classifier: bool = False
    prefix: str = ""
    text_prefix: str = ""
    head_prefix: str = ""

    def mappings(self) -> list[TensorMapping]:
        """Map every tensor of such a checkpoint except `logit_scale` to a [`GADMSForPreTraining`]."""
        mappings = [
            *_vision_mappings(self.prefix, self.vision_layers),
            *_text_mappings(self.text_prefix, self.text_layers),
        ]
        if self.fusion_layers is not None:
            mappings += _fusion_mappings(self.head_prefix, self.fusion_layers)
        if self.classifier:
            mappings += _weight_and_bias(f"{self.head_prefix}classifier", "classifier")
        return mappings

    def ancestors(self) -> list[str]:
        """The prefixes under which a tensor that belongs to the model may be, the nearest to the encoders first."""
        return _ancestors(self.prefix)

    def reason_ignored(self, name: str) -> str:
        """Say why a tensor that is not in [`~CheckpointParts.mappings`] is not converted."""
        within = next(prefix for prefix in self.ancestors() if name.startswith(prefix))
        rest = name.removeprefix(within)
        if rest in ("input_resolution", "context_length", "vocab_size"):
            return _SETTING
        if rest.rpartition(".")[2] in ("attn_mask", "position_ids", "num_batches_tracked"):
            return CONSTANT
        if rest == "logit_scale":
            return "another temperature is nearer to the encoders"
        if re.match(r"\w*(visul|visual|texual|textual)_emb_layer\.", rest):
            return _TOKEN_SELECTION
        if name.startswith((f"{self.prefix}visual.", f"{self.text_prefix}transformer.")):
            return _ENCODER_PART
        if _TRAINING_PARTS.match(rest) and not within.endswith(_ENCODERS_ALONE):
            return _TRAINING
        return _ENCODER_PART if within == self.prefix != "" else UNKNOWN_PART


def find_parts(names: Iterable[str]) -> CheckpointParts:
    """Find the parts of a checkpoint from its tensor names. A part counts as present if one of its tensors is.

    The encoders may be below any prefix, the text encoder also below `encode_text.` beside the image encoder.

    Raises:
        ValueError: if it is not a CLIP checkpoint, has several, is another architecture, or a layer is missing.
    """
    names = set(names)
    for name in sorted(names):
        if name.startswith("gadms."):
            raise ValueError(f"it is a GA-DMS model already (`{name}`): there is nothing to convert")
    for expressions, found in _OTHER_ARCHITECTURES:
        matches = [next((n for n in sorted(names) if re.match(rf"(.+\.)?{e}", n)), None) for e in expressions]
        if None not in matches:
            raise ValueError(f"{found} (`{matches[0]}`); only CLIP with a vision transformer is converted")
    image_prefixes = _prefixes_of(names, r"visual\.(conv1\.weight|class_embedding|positional_embedding|proj)")
    text_prefixes = _prefixes_of(names, r"(token_embedding\.weight|text_projection|ln_final\.weight)")
    if not image_prefixes and not text_prefixes:
        examples = ", ".join(sorted(names)[:3])
        raise ValueError(f"it is not a CLIP checkpoint: none of its {len(names)} names is CLIP's, such as {examples}")
    if len(image_prefixes) > 1:
        places = ", ".join(f"`{prefix}visual.`" for prefix in image_prefixes)
        raise ValueError(f"it has several image encoders ({places}); save only the one to convert")
    prefix = (image_prefixes or text_prefixes)[0]
    text_prefix = f"{prefix}encode_text." if f"{prefix}encode_text." in text_prefixes else prefix
    if image_prefixes and not any(name.startswith(f"{prefix}visual.ln_pre.") for name in names):
        raise ValueError(
            f"its image encoder has no `{prefix}visual.ln_pre`: it averages patches, as CLIPA, instead of taking the "
            "class token; load it with open_clip"
        )
    heads = [p for p in _ancestors(prefix) if any(n.startswith((*_under(p), f"{p}classifier.")) for n in names)]
    head_prefix = heads[0] if heads else ""
    # A fusion encoder without a token head predicts no tokens.
    fusion = any(name.startswith(f"{head_prefix}mlm_head.dense.") for name in names)
    return CheckpointParts(
        layout=next(layout for layout in LAYOUTS if any(re.match(layout.sign, name) for name in names)),
        vision_layers=max(1, _count_layers(names, prefix + VISION_LAYERS)),
        text_layers=max(1, _count_layers(names, text_prefix + TEXT_LAYERS)),
        fusion_layers=_count_layers(names, head_prefix + FUSION_LAYERS) if fusion else None,
        classifier={f"{head_prefix}classifier.weight", f"{head_prefix}classifier.bias"} <= names,
        prefix=prefix,
        text_prefix=text_prefix,
        head_prefix=head_prefix,
    )


def _prefixes_of(names: set[str], expression: str) -> list[str]:
    matches = (re.fullmatch(rf"((?:.+\.)?){expression}", name) for name in names)
    return sorted({match[1] for match in matches if match})


def _ancestors(prefix: str) -> list[str]:
    parts = prefix.split(".")[:-1]
    return [*(".".join(parts[:count]) + "." for count in range(len(parts), 0, -1)), ""]


def _under(prefix: str) -> tuple[str, ...]:
    return tuple(prefix + part for part in _FUSION_PREFIXES)


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


def _vision_mappings(prefix: str, layers: int) -> Iterator[TensorMapping]:
    visual, vision_model = f"{prefix}visual", "gadms.vision_model"
    yield TensorMapping(f"{visual}.class_embedding", (f"{vision_model}.embeddings.class_embedding",))
    yield TensorMapping(f"{visual}.positional_embedding", (f"{vision_model}.embeddings.position_embedding.weight",))
    yield TensorMapping(f"{visual}.conv1.weight", (f"{vision_model}.embeddings.patch_embedding.weight",))
    yield from _weight_and_bias(f"{visual}.ln_pre", f"{vision_model}.pre_layrnorm")
    for layer in range(layers):
        yield from _layer_mappings(f"{prefix}{VISION_LAYERS}.{layer}", f"{vision_model}.encoder.layers.{layer}")
    yield from _weight_and_bias(f"{visual}.ln_post", f"{vision_model}.post_layernorm")
    yield TensorMapping(f"{visual}.proj", ("gadms.visual_projection.weight",), transposed=True)


def _text_mappings(prefix: str, layers: int) -> Iterator[TensorMapping]:
    text_model = "gadms.text_model"
    yield TensorMapping(f"{prefix}token_embedding.weight", (f"{text_model}.embeddings.token_embedding.weight",))
    yield TensorMapping(f"{prefix}positional_embedding", (f"{text_model}.embeddings.position_embedding.weight",))
    for layer in range(layers):
        yield from _layer_mappings(f"{prefix}{TEXT_LAYERS}.{layer}", f"{text_model}.encoder.layers.{layer}")
    yield from _weight_and_bias(f"{prefix}ln_final", f"{text_model}.final_layer_norm")
    yield TensorMapping(f"{prefix}text_projection", ("gadms.text_projection.weight",), transposed=True)


def _fusion_mappings(prefix: str, layers: int) -> Iterator[TensorMapping]:
    yield from _weight_and_bias(f"{prefix}ln_pre_t", "fusion.text_norm")
    yield from _weight_and_bias(f"{prefix}ln_pre_i", "fusion.image_norm")
    for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"):
        yield TensorMapping(f"{prefix}cross_attn.{name}", (f"fusion.cross_attention.{name}",))
    for layer in range(layers):
        yield from _layer_mappings(f"{prefix}{FUSION_LAYERS}.{layer}", f"fusion.layers.{layer}")
    yield from _weight_and_bias(f"{prefix}ln_post", "fusion.post_norm")
    yield from _weight_and_bias(f"{prefix}mlm_head.dense", "token_head.dense")
    yield from _weight_and_bias(f"{prefix}mlm_head.ln", "token_head.layer_norm")
    yield from _weight_and_bias(f"{prefix}mlm_head.fc", "token_head.decoder")


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
