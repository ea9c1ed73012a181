"""Export GA-DMS models as PyTorch files in the layout of OpenAI's CLIP, or of the research code built on it."""

import math
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers.models.clip.configuration_clip import CLIPTextConfig, CLIPVisionConfig

from ..configuration_gadms import GADMSConfig, encoder_configs
from ..encoders.atomic_files import atomic_file
from ..encoders.loading import load_config
from ..encoders.weight_files import check_weights
from ..modeling_gadms import GADMSForPreTraining, GADMSModel
from .checkpoint_files import TORCH_SUFFIXES
from .config_inference import HEAD_WIDTH
from .openai_layout import LAYOUTS, RESEARCH_PREFIX, CheckpointParts
from .reports import ExportReport
from .tokenizer import MASK_FROM_END


_LOGIT_SCALE = "gadms.logit_scale"


def export_checkpoint(
    source: str | Path, target: str | Path, *, layout: Literal["openai", "research"]
) -> ExportReport:
    """Write a GA-DMS model as a PyTorch file in float32.

    With the layout `"openai"` the file contains the state dictionary of both encoders. With `"research"` the entry
    `model` contains the encoders under `base_model.`, and fusion encoder, token head and classifier if the model has
    them. Research code expects the mask as third last token: a mask token that was appended to the vocabulary is moved
    there and replaces the last merged token.

    Args:
        source (`str` or `Path`): folder or Hub name of a GA-DMS model.
        target (`str` or `Path`): .pt, .pth or .bin file to write.
        layout (`str`): `"openai"` or `"research"`.

    Returns:
        [`ExportReport`]

    Raises:
        ValueError: if the other code would compute different embeddings, or the source is not a complete GA-DMS model.
        OSError: if a file cannot be read or written, or the target exists.
    """
    target = Path(target)
    if layout not in ("openai", "research"):
        raise ValueError(f"layout = {layout!r} must be 'openai' or 'research'")
    if target.suffix not in TORCH_SUFFIXES:
        raise ValueError(f"{target} must end in one of {', '.join(TORCH_SUFFIXES)}")
    if target.exists():
        raise FileExistsError(f"{target} exists already; give another name, or remove it")
    model, changes = _load(source)
    config, research = model.config, layout == "research"
    text, vision = encoder_configs(config)
    encoders = model if isinstance(model, GADMSModel) else model.gadms
    state = model.state_dict()
    if isinstance(model, GADMSModel):
        state = {f"gadms.{name}": tensor for name, tensor in state.items()}
    parts = CheckpointParts(
        layout=next(each for each in LAYOUTS if each.name == layout),
        prefix=RESEARCH_PREFIX if research else "",
        text_prefix=RESEARCH_PREFIX if research else "",
        vision_layers=vision.num_hidden_layers,
        text_layers=text.num_hidden_layers,
        fusion_layers=config.fusion_num_hidden_layers if research and "fusion.post_norm.weight" in state else None,
        classifier=research and "classifier.weight" in state,
    )
    _check_compatible(source, config, parts)
    height, width = config.image_size
    if not research and height != width:
        changes.append(
            f"images: {height}x{width} (height x width); OpenAI's own loader takes square images alone and refuses "
            "the positions of this file. Export --format research instead for code that takes rectangles"
        )
    if not research:
        changes.append(
            "activation: quick_gelu; loaders that ask need to be told, such as open_clip's -quickgelu models"
        )
    order, note = _token_order(source, config, research)
    changes.append(note)

    mappings = parts.mappings()
    weights = {mapping.openai_name: mapping.to_openai(state) for mapping in mappings}
    for name in (f"{parts.prefix}token_embedding.weight", "mlm_head.fc.weight", "mlm_head.fc.bias"):
        if name in weights:
            weights[name] = weights[name][order]
    written = {name for mapping in mappings for name in mapping.gadms_names}
    skipped = {name: "not part of OpenAI's CLIP" for name in state if name not in written}
    if research:
        skipped[_LOGIT_SCALE] = f"the temperature is a setting of research code: {float(encoders.temperature):.4g}"
    else:
        del skipped[_LOGIT_SCALE]
        weights["logit_scale"] = _logit_scale(encoders)
    with atomic_file(target) as part:
        torch.save({"model": weights} if research else weights, part)
    return ExportReport(str(source), target, layout, len(weights), skipped, tuple(changes))


def _load(source: str | Path) -> tuple[GADMSModel | GADMSForPreTraining, list[str]]:
    """Load the source, with its training heads if it has them. Returns the model and notes for the report."""
    config = load_config(source)
    trained = "GADMSForPreTraining" in (config.architectures or ())
    model_class: Any = GADMSForPreTraining if trained else GADMSModel
    check_weights(source, model_class, config)
    model = model_class.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
    stored = str(config.dtype or torch.float32).removeprefix("torch.")
    return model, [] if stored == "float32" else [f"precision: {stored} weights were cast to float32"]


def _check_compatible(source: str | Path, config: GADMSConfig, parts: CheckpointParts) -> None:
    """Refuse settings that weight files do not contain and the other code assumes."""
    text, vision = encoder_configs(config)
    if not (isinstance(text, CLIPTextConfig) and isinstance(vision, CLIPVisionConfig)):
        raise ValueError(
            f"{source}: OpenAI's layout is that of CLIP, and its encoders are of type {text.model_type} and "
            f"{vision.model_type}; export it to ONNX, or give its folder"
        )
    problems = []
    encoders: list[tuple[str, CLIPTextConfig | CLIPVisionConfig]] = [("text encoder", text), ("image encoder", vision)]
    widths = [(name, encoder.hidden_size, encoder.num_attention_heads) for name, encoder in encoders]
    if parts.fusion_layers is not None:
        widths.append(("fusion encoder", config.projection_dim, config.fusion_num_attention_heads))
    for name, width, heads in widths:
        if width != heads * HEAD_WIDTH:
            problems.append(f"its {name} has {heads} attention heads for a width of {width}, not {HEAD_WIDTH} each")
    for name, encoder in encoders:
        if encoder.hidden_act != "quick_gelu":
            problems.append(f"its {name} has hidden_act = {encoder.hidden_act}, not quick_gelu")
        if encoder.layer_norm_eps != 1e-5:
            problems.append(f"its {name} has layer_norm_eps = {encoder.layer_norm_eps}, not 1e-5")
    if config.image_pooling != "encoder":
        problems.append(f"its images are embedded by image_pooling = {config.image_pooling}, not by the class token")
    if problems:
        raise ValueError(f"{source}: OpenAI's code would compute different embeddings: {'; '.join(problems)}")


def _token_order(source: str | Path, config: GADMSConfig, research: bool) -> tuple[list[int], str]:
    """Return, for each token of the exported vocabulary, its id in the model; and a note for the report."""
    text, _ = encoder_configs(config)
    tokens, mask, eos = text.vocab_size, config.mask_token_id, cast(int, text.eos_token_id)
    appended = mask == tokens - 1
    if eos != tokens - (2 if appended else 1):
        raise ValueError(
            f"{source}: OpenAI's code embeds a caption at its largest id, but here EOS is {eos} of {tokens} tokens"
        )
    order = list(range(tokens))
    last_merged = eos + 1 - MASK_FROM_END
    if not research:
        warning = ""
        if appended:
            warning = "; OpenAI's code takes it for the end of a caption: captions must not contain it"
        elif mask == last_merged:
            warning = "; without a mask token it is the last merged token, whose embedding is lost"
        return order, f"mask token: {mask}{warning}"
    if appended:
        order[last_merged] = order.pop()
        return order, f"mask token: moved from {mask} to {last_merged}, where it replaces the last merged token"
    if mask != last_merged:
        raise ValueError(
            f"{source}: research code has its mask token at {last_merged} of {tokens} tokens, but here it is {mask}"
        )
    return order, f"mask token: {mask}"


def _logit_scale(model: GADMSModel) -> torch.Tensor:
    if model.config.learn_temperature:
        return model.logit_scale.detach().clamp(max=math.log(100))  # as the model reads it
    return torch.tensor(-math.log(model.config.temperature))
