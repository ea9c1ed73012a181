"""Our models for users of older code: the layout of OpenAI's CLIP, and that of the research code built on it."""

import math
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers.models.clip.configuration_clip import CLIPTextConfig, CLIPVisionConfig

from ..configuration_gadms import GADMSConfig, encoder_configs
from ..encoders.loading import load_config
from ..encoders.weight_files import check_weights
from ..modeling_gadms import GADMSForPreTraining, GADMSModel
from .checkpoint_files import TORCH_SUFFIXES, write_weight_file
from .openai_layout import HEAD_WIDTH, RESEARCH_PREFIX, Parts
from .reports import ExportReport
from .tokenizer import MASK_FROM_END


_LOGIT_SCALE = "gadms.logit_scale"


def export_checkpoint(
    source: str | Path, target: str | Path, *, layout: Literal["openai", "research"]
) -> ExportReport:
    """Write a model of ours as a PyTorch file that older code reads, in float32.

    `"openai"` is OpenAI's CLIP: both encoders in a plain dictionary. `"research"` is the research code built on it:
    the encoders under `base_model.`, beside them what there is of fusion encoder, token head and classifier, all in
    the entry `model`. There the mask is the third last token: one that was appended to the vocabulary is moved to
    that place, and takes it from the vocabulary's last piece.

    Args:
        source (`str` or `Path`): folder or Hub name of a GA-DMS model.
        target (`str` or `Path`): the .pt, .pth or .bin file to write.
        layout (`str`): `"openai"` or `"research"`.

    Returns:
        [`ExportReport`]

    Raises:
        ValueError: if older code would compute something else, or the source is no whole GA-DMS model.
        OSError: if something cannot be read or written, or the target is there.
    """
    target = Path(target)
    if layout not in ("openai", "research"):
        raise ValueError(f"layout = {layout!r} must be 'openai' or 'research'")
    if target.suffix not in TORCH_SUFFIXES:
        raise ValueError(f"{target} must end in one of {', '.join(TORCH_SUFFIXES)}, which older code reads")
    if target.exists():
        raise FileExistsError(f"{target} is there already; give another name, or remove it")
    model, changes = _load(source)
    config, research = model.config, layout == "research"
    text, vision = encoder_configs(config)
    encoders = model if isinstance(model, GADMSModel) else model.gadms
    state = model.state_dict()
    if isinstance(model, GADMSModel):
        state = {f"gadms.{name}": tensor for name, tensor in state.items()}
    parts = Parts(
        research=research,
        prefix=RESEARCH_PREFIX if research else "",
        vision_layers=vision.num_hidden_layers,
        text_layers=text.num_hidden_layers,
        fusion_layers=config.fusion_num_hidden_layers if research and "fusion.post_norm.weight" in state else None,
        classifier=research and "classifier.weight" in state,
    )
    _refuse_other_arithmetic(source, config, parts)
    order, note = _token_order(source, config, research)
    changes.append(note)

    weights = {entry.theirs: entry.to_theirs(state) for entry in parts.entries()}
    for name in (f"{parts.prefix}token_embedding.weight", "mlm_head.fc.weight", "mlm_head.fc.bias"):
        if name in weights:
            weights[name] = weights[name][order]
    left_out = dict.fromkeys(state, "OpenAI's CLIP has no such part")
    for entry in parts.entries():
        for name in entry.ours:
            del left_out[name]
    if research:
        left_out[_LOGIT_SCALE] = f"the temperature is a setting of research code: {float(encoders.temperature):.4g}"
    else:
        del left_out[_LOGIT_SCALE]
        weights["logit_scale"] = _logit_scale(encoders)
    write_weight_file(target, {"model": weights} if research else weights)
    return ExportReport(str(source), target, layout, len(weights), left_out, tuple(changes))


def _load(source: str | Path) -> tuple[GADMSModel | GADMSForPreTraining, list[str]]:
    """With what training adds, where the checkpoint has it."""
    config = load_config(source)
    trained = "GADMSForPreTraining" in (config.architectures or ())
    model_class: Any = GADMSForPreTraining if trained else GADMSModel
    check_weights(source, model_class, config)
    model = model_class.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
    stored = str(config.dtype or torch.float32).removeprefix("torch.")
    return model, [] if stored == "float32" else [f"precision: {stored} weights were cast to float32"]


def _refuse_other_arithmetic(source: str | Path, config: GADMSConfig, parts: Parts) -> None:
    text, vision = encoder_configs(config)
    problems = []
    widths = [
        ("text encoder", text.hidden_size, text.num_attention_heads),
        ("image encoder", vision.hidden_size, vision.num_attention_heads),
    ]
    if parts.fusion_layers is not None:
        widths.append(("fusion encoder", config.projection_dim, config.fusion_num_attention_heads))
    for encoder, width, heads in widths:
        if width != heads * HEAD_WIDTH:
            problems.append(f"its {encoder} has {heads} attention heads for a width of {width}, not {HEAD_WIDTH} each")
    configs: list[tuple[str, CLIPTextConfig | CLIPVisionConfig]] = [("text encoder", text), ("image encoder", vision)]
    for encoder, its_config in configs:
        if its_config.hidden_act != "quick_gelu":
            problems.append(f"its {encoder} has hidden_act = {its_config.hidden_act}, not quick_gelu")
        if its_config.layer_norm_eps != 1e-5:
            problems.append(f"its {encoder} has layer_norm_eps = {its_config.layer_norm_eps}, not 1e-5")
    if problems:
        raise ValueError(f"{source}: older code would compute something else: {'; '.join(problems)}")


def _token_order(source: str | Path, config: GADMSConfig, research: bool) -> tuple[list[int], str]:
    """Which of our tokens each one there is, and what to say of it."""
    text, _ = encoder_configs(config)
    tokens, mask, eos = text.vocab_size, config.mask_token_id, cast(int, text.eos_token_id)
    appended = mask == tokens - 1
    if eos != tokens - (2 if appended else 1):
        raise ValueError(
            f"{source}: older code embeds a caption at its largest id, and EOS is {eos} of {tokens} tokens here"
        )
    order = list(range(tokens))
    last_piece = eos + 1 - MASK_FROM_END
    if not research:
        warning = ""
        if appended:
            warning = "; older code would take it for the end of a caption, so captions must not have it there"
        elif mask == last_piece:
            warning = "; a tokenizer without a mask has its last piece there, which is not embedded as text any more"
        return order, f"mask token: {mask}{warning}"
    if appended:
        order[last_piece] = order.pop()
        return order, f"mask token: moved from {mask} to {last_piece}, whose piece of the vocabulary is lost"
    if mask != last_piece:
        raise ValueError(
            f"{source}: research code has its mask token at {last_piece} of {tokens} tokens, and here it is {mask}"
        )
    return order, f"mask token: {mask}"


def _logit_scale(model: GADMSModel) -> torch.Tensor:
    if model.config.learn_temperature:
        return model.logit_scale.detach().clamp(max=math.log(100))  # as the model reads it
    return torch.tensor(-math.log(model.config.temperature))
