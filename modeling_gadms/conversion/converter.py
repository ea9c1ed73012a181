"""Convert checkpoints of CLIP, MetaCLIP 2, SigLIP and SigLIP 2 to GA-DMS model folders.

Input: a folder or Hub repository of transformers, or a weight file (.pt, .pth, .ckpt, .safetensors, ...) of
OpenAI's CLIP, of open_clip or of research code built on it. Output: a folder with weights in float32, configuration,
code and processor.
"""

import math
import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer, CLIPConfig, CLIPModel, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ..configuration_gadms import GADMSConfig, declared_settings, encoder_configs
from ..encoders.atomic_files import atomic_folder
from ..encoders.weight_files import check_layer_count, stored_shapes
from ..modeling_gadms import GADMSForPreTraining, GADMSModel, append_mean_row, resize_patch_positions
from ..processing_gadms import GADMSProcessor
from .checkpoint_files import OTHER_WEIGHTS, WeightFile, find_weight_file, is_weight_name, read_weight_file
from .config_inference import (
    default_fusion_heads,
    format_size,
    infer_config,
    infer_heads,
    infer_patch_grid,
    patch_grid,
    patch_size_of,
    shape_of,
)
from .openai_layout import (
    CONSTANT,
    EMBEDDING_PARTS,
    LONG_CLIP_KEPT,
    LONG_POSITIONS,
    UNKNOWN_PART,
    CheckpointParts,
    find_parts,
)
from .reports import ConversionReport, by_module
from .tokenizer import MASK_FROM_END, fit_tokenizer, openai_tokenizer


PERSON_SIZE = (384, 128)
"""(height, width) in pixels for models converted from square images, as in the paper."""
OPENAI_TOKENS = 49_408
_OTHER_FAMILIES = ("metaclip_2", "siglip", "siglip2")
"""Models of transformers, by `model_type`, that [`GADMSModel.from_dual_encoder`] converts as well as CLIP."""
ACTIVATIONS = ("quick_gelu", "gelu")
_MAX_NAMED = 5
"""Missing tensors that an error names."""
_MAX_LOG_SCALE = 50.0


@dataclass(frozen=True)
class _Converted:
    layout: str
    model: GADMSModel | GADMSForPreTraining
    tokenizer: PreTrainedTokenizerBase
    used: int
    ignored: dict[str, str]
    changes: list[str]
    processing: dict[str, Any] = field(default_factory=dict)
    """Arguments of [`~GADMSProcessor.from_tokenizer`]."""


@dataclass(frozen=True)
class WeightFileOptions:
    """What a weight file may not tell. All are optional.

    Attributes:
        source_image_size (`tuple[int, int]`): (height, width) in pixels of its images.
        activation (`str`): `"quick_gelu"` or `"gelu"`.
        heads (`tuple[int, int]`): attention heads of the image and the text encoder.
        mask_token (`int`): id of its mask token.
    """

    source_image_size: tuple[int, int] | None = None
    activation: str | None = None
    heads: tuple[int, int] | None = None
    mask_token: int | None = None


def convert(
    source: str | Path,
    target: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    source_image_size: tuple[int, int] | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    activation: str | None = None,
    heads: tuple[int, int] | None = None,
    mask_token: int | None = None,
    force: bool = False,
) -> ConversionReport:
    """Convert a CLIP checkpoint to a GA-DMS model folder: weights in float32, configuration, code and processor.

    Supported are transformers' CLIP (folder or Hub name), and weight files with the names of OpenAI's CLIP, below any
    prefix: OpenAI's, open_clip's, Long-CLIP's, and those of research code, including fusion encoder, token head and
    classifier. The processor of a weight file resizes images and cleans captions as its code does. Every entry of the
    source is used or reported as ignored. No code of a source is run.

    Args:
        source (`str` or `Path`):
            Folder or Hub name; .pt, .pth, .bin, .ckpt, .pth.tar or .safetensors file; or run folder with such a file.
        target (`str` or `Path`): folder to write. Nothing is written on an error.
        image_size (`tuple[int, int]`, *optional*):
            (height, width) in pixels of the converted model. By default the size of the source if it was trained on
            images of persons or is not square, else (384, 128).
        source_image_size (`tuple[int, int]`, *optional*):
            (height, width) in pixels of the images of a weight file. By default inferred from the number of
            positions, see [`~modeling_gadms.conversion.config_inference.infer_patch_grid`].
        tokenizer (`str` or `Path`, *optional*):
            Folder or Hub name of the tokenizer. By default that of the source, or OpenAI's for a weight file with
            49,408 tokens.
        revision (`str`, *optional*): commit, branch or tag of a Hub name and its tokenizer.
        activation (`str`, *optional*):
            `"quick_gelu"` (OpenAI's weights and what was trained from them) or `"gelu"` (open_clip's default) of a
            weight file. By default that of its layout; required if its names do not tell the layout.
        heads (`tuple[int, int]`, *optional*):
            Attention heads of the image and the text encoder of a weight file. By default those of its layout, or of
            open_clip's models with these widths.
        mask_token (`int`, *optional*):
            Id of the mask token of a weight file: the third last of the vocabulary, which it replaces, or the next
            one, which is appended. By default that of its layout.
        force (`bool`, *optional*, defaults to `False`):
            Whether to convert a source of which tensors are ignored that its embeddings need.

    Returns:
        [`ConversionReport`]

    Raises:
        ValueError: if the source is not supported, damaged, unsafe or incomplete, does not fit the other arguments,
            or would compute other embeddings.
        OSError: if a file cannot be read or written, or the target exists.
    """
    if activation not in (None, *ACTIVATIONS):
        raise ValueError(f"activation = {activation!r} must be one of {', '.join(ACTIVATIONS)}")
    options = WeightFileOptions(source_image_size, activation, heads, mask_token)
    target = Path(target)
    with atomic_folder(target) as folder:  # first, to refuse an existing target before the conversion
        source, converted = _convert(source, image_size, tokenizer, revision, options)
        report = ConversionReport(
            source=str(source),
            target=target,
            layout=converted.layout,
            model=type(converted.model).__name__,
            config=converted.model.config,
            used=converted.used,
            ignored=converted.ignored,
            lost=tuple(n for n, why in converted.ignored.items() if why in EMBEDDING_PARTS or why == OTHER_WEIGHTS),
            changes=tuple(converted.changes),
        )
        if report.lost and not force:
            reasons = "; ".join(dict.fromkeys(converted.ignored[name] for name in report.lost))
            raise ValueError(
                f"{source}: its embeddings or its ranking would be others: GA-DMS has no place for {len(report.lost)} "
                f"of its tensors ({reasons}): {by_module(report.lost)}. Use its own code, or convert it without them "
                "(--force)"
            )
        processor = GADMSProcessor.from_tokenizer(
            converted.tokenizer, image_size=report.config.image_size, **converted.processing
        )
        converted.model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return report


def _convert(
    source: str | Path,
    image_size: tuple[int, int] | None,
    tokenizer: str | Path | None,
    revision: str | None,
    given: WeightFileOptions,
) -> tuple[str | Path, _Converted]:
    """Return the file, folder or Hub name that was read, and its content."""
    path = Path(source)
    if path.is_dir():
        path = find_weight_file(path) or path
        source = path if path.is_file() else source
    is_weight_file = path.is_file() or is_weight_name(path)
    if revision is not None and (is_weight_file or path.is_dir()):
        raise ValueError(f"{source} is a local path; revision = {revision!r} can only be used with a Hub name")
    file = read_weight_file(path) if is_weight_file else None
    try:
        converted: _Converted
        if file is not None:
            converted = _from_weight_file(file, image_size, tokenizer, given)
        else:
            options: dict[str, Any] = {} if revision is None else {"revision": revision}
            converted = _from_transformers(str(source), image_size, tokenizer, given, options)
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(f"{source}: {error}") from error
    except OSError as error:
        raise OSError(f"{source}: {error}") from error
    context_length = encoder_configs(converted.model.config)[0].max_position_embeddings
    if converted.tokenizer.model_max_length != context_length:
        converted.tokenizer.model_max_length = context_length
        converted.changes.append(f"captions: truncated at {context_length} tokens, the model's number of positions")
    return source, converted


def _from_transformers(
    source: str,
    image_size: tuple[int, int] | None,
    tokenizer: str | Path | None,
    given: WeightFileOptions,
    options: dict[str, Any],
) -> _Converted:
    model_type = PreTrainedConfig.get_config_dict(source, **options)[0].get("model_type")
    if model_type == "gadms":
        raise ValueError("it is a GA-DMS model already: there is nothing to convert")
    if model_type not in ("clip", *_OTHER_FAMILIES):
        found = f"a model of type {model_type!r}" if model_type else "no config.json with a model_type"
        advice = "; load it with transformers" if model_type else ""
        raise ValueError(
            f"it contains {found}; only models of CLIP, MetaCLIP 2, SigLIP and SigLIP 2, and weight files, are "
            f"converted{advice}"
        )
    for name, value in vars(given).items():
        if value is not None:
            raise ValueError(f"{name} is only used for weight files; this model's own files contain it")
    if model_type != "clip":
        if tokenizer:
            raise ValueError("tokenizer is only used for CLIP and weight files; this model's own one is taken")
        return _from_other_family(source, image_size or PERSON_SIZE, options)
    clip, unexpected = _load_clip(source, options)
    config: Any = clip.config
    state = {name: _as_float32(name, tensor) for name, tensor in clip.state_dict().items()}
    image_size = image_size or PERSON_SIZE
    grid = patch_grid("image_size", image_size, config.vision_config.patch_size)
    original_tokenizer = _load_tokenizer(tokenizer) if tokenizer else _load_tokenizer(source, **options)
    fitted, mask_note = fit_tokenizer(original_tokenizer, config.text_config.vocab_size, research=False)
    side = config.vision_config.image_size // config.vision_config.patch_size
    # Loads CLIP a second time, so that there is only one conversion from transformers' CLIP.
    model = GADMSModel.from_clip(
        source,
        image_size=image_size,
        clip_kwargs=options,
        temperature=_temperature(state["logit_scale"]),
        score_layers=min(8, config.text_config.num_hidden_layers),
        masked_token_prediction=False,
        fusion_num_attention_heads=default_fusion_heads(config.projection_dim),
    )
    expected = (encoder_configs(model.config)[0].eos_token_id, model.config.mask_token_id)
    if (fitted.eos_token_id, fitted.mask_token_id) != expected:
        raise ValueError(
            f"its tokenizer has EOS {fitted.eos_token_id} and mask {fitted.mask_token_id}, but the model expects "
            f"{expected[0]} and {expected[1]}; give the tokenizer that it was trained with, without a mask token"
        )
    processing, image_note = _image_settings(source, options)
    changes = [mask_note, *_cast_note(clip.state_dict()), *_resize_note((side, side), grid), image_note]
    ignored = {name: CONSTANT if name.endswith("position_ids") else UNKNOWN_PART for name in unexpected}
    return _Converted("transformers", model, fitted, len(state), ignored, changes, processing)


def _from_other_family(source: str, image_size: tuple[int, int], options: dict[str, Any]) -> _Converted:
    loaded: Any = AutoModel.from_pretrained(source, output_loading_info=True, **options)
    original, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"it lacks {len(missing)} weights of {type(original).__name__}, such as {missing[0]}")
    config, state = original.config, original.state_dict()
    grid = patch_grid("image_size", image_size, config.vision_config.patch_size)
    vision, is_naflex = config.vision_config, config.model_type == "siglip2"
    side = math.isqrt(vision.num_patches) if is_naflex else vision.image_size // vision.patch_size
    processor = GADMSProcessor.from_dual_encoder(source, image_size=image_size, **options)
    last_of_text = "text_projection.weight" if config.model_type == "metaclip_2" else "text_model.head.weight"
    # Loads the model a second time, so that there is only one conversion of it.
    model = GADMSModel.from_dual_encoder(
        source,
        image_size=image_size,
        tokenizer=processor.tokenizer,
        checkpoint_kwargs=options,
        temperature=_temperature(state["logit_scale"]),
        score_layers=min(8, config.text_config.num_hidden_layers),
        masked_token_prediction=False,
        fusion_num_attention_heads=default_fusion_heads(len(state[last_of_text])),
    )
    ignored = dict.fromkeys(sorted(loading["unexpected_keys"]), UNKNOWN_PART)
    if "logit_bias" in state:
        ignored["logit_bias"] = "a bias of all similarities, which changes no ranking"
    _, image_note = _image_settings(source, options)
    mask_note = f"mask token: appended as {model.config.mask_token_id}, with the mean of all token embeddings"
    how = "bilinear interpolation with antialiasing" if is_naflex else "bicubic interpolation"
    changes = [mask_note, *_cast_note(state), *_resize_note((side, side), grid, how), image_note]
    if processor.clean_text:
        changes.append(f"captions: cleaned as in its training ({processor.clean_text})")
    images = processor.image_processor
    processing: dict[str, Any] = {name: getattr(images, name) for name in ("resample", "image_mean", "image_std")}
    processing["clean_text"] = processor.clean_text
    used = len(state) - ("logit_bias" in state)
    return _Converted("transformers", model, processor.tokenizer, used, ignored, changes, processing)


def _image_settings(source: str, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """How the source resizes and normalises images; and a line for the report."""
    try:
        settings, _ = CLIPImageProcessorPil.get_image_processor_dict(source, **options)
    except OSError:
        return {}, "images: resized and normalised as by OpenAI's CLIP; the source has no preprocessor_config.json"
    names: tuple[str, ...] = ("resample", "image_mean", "image_std")
    kept = {name: settings[name] for name in names if name in settings}
    return kept, "images: resized and normalised as by the source, but whole, without a crop of the centre"


def _load_clip(source: str, options: dict[str, Any]) -> tuple[CLIPModel, list[str]]:
    """Load the model. Returns it and the names of unknown tensors."""
    config: Any = CLIPConfig.from_pretrained(source, **options)
    num_stored: float = math.inf
    with suppress(OSError, ValueError):  # pickled weights have no header, and damaged ones are reported below
        num_stored = len(stored_shapes(source, **options))
    num_layers = config.text_config.num_hidden_layers + config.vision_config.num_hidden_layers
    check_layer_count(source, num_layers, num_stored)
    # Refuses invalid sizes, which CLIP's own configuration accepts.
    GADMSConfig(
        text_config=declared_settings(config.text_config) | {"eos_token_id": config.text_config.vocab_size - 1},
        vision_config=declared_settings(config.vision_config),
        projection_dim=config.projection_dim,
        mask_token_id=0,
        score_layers=1,
        fusion_num_attention_heads=1,
    )
    try:
        # First without allocating memory, because a configuration can claim any size.
        loaded: Any = CLIPModel.from_pretrained(
            source, device_map="meta", ignore_mismatched_sizes=True, output_loading_info=True, **options
        )
        loading = loaded[1]
        if missing := sorted(loading["missing_keys"]):
            raise ValueError(f"it lacks {len(missing)} weights of transformers' CLIP, such as {missing[0]}")
        if differing := sorted(key for key, *_ in loading["mismatched_keys"]):
            raise ValueError(
                f"{len(differing)} weights have another size than in its configuration, such as {differing[0]}"
            )
        return CLIPModel.from_pretrained(source, **options), sorted(loading["unexpected_keys"])
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"its weights are damaged, or contain more than tensors ({reason}); download them again"
        ) from error


def _from_weight_file(
    file: WeightFile, image_size: tuple[int, int] | None, tokenizer: str | Path | None, given: WeightFileOptions
) -> _Converted:
    parts = find_parts(file.tensors)
    layout = parts.layout
    tensors = _required_tensors(file, parts)
    scale_name, temperature = _temperature_of(file, parts)
    used = {*tensors, *([scale_name] if scale_name else [])}
    changes = _cast_note({name: file.tensors[name] for name in used})
    if temperature is None:
        changes.append("temperature: the default; the file contains none")
    if _merge_long_positions(file, parts, tensors):
        used.add(parts.text_prefix + LONG_POSITIONS)
        changes.append(f"captions: positions of Long-CLIP, of which the first {LONG_CLIP_KEPT} are CLIP's")

    activation = given.activation or layout.activation
    if activation is None:
        raise ValueError(
            "it has OpenAI's names, but OpenAI's and open_clip's code write them, and its activation is not in the "
            "file; give --activation quick_gelu (OpenAI's weights, what was trained from them, and open_clip's "
            "*-quickgelu models) or --activation gelu (open_clip's other models)"
        )
    changes.append(f"activation: {activation}, {'given' if given.activation else f'that of the {layout.name} layout'}")
    heads, heads_from = infer_heads(tensors, parts, given.heads)
    if heads_from is not None:
        changes.append(f"attention heads: {heads[0]} (images) and {heads[1]} (text), {heads_from}")
    if layout.activation is None:
        changes.append("pooling: the class token and EOS are assumed; the file does not tell")

    embedding = f"{parts.text_prefix}token_embedding.weight"
    vocab_size, _ = shape_of(tensors, embedding, "tokens", "width")
    if not tokenizer and vocab_size != OPENAI_TOKENS:
        raise ValueError(
            f"it embeds {vocab_size} tokens, not OpenAI's {OPENAI_TOKENS}; give its tokenizer (--tokenizer)"
        )
    replaced = vocab_size - MASK_FROM_END
    if given.mask_token not in (None, replaced, vocab_size):
        raise ValueError(
            f"mask_token = {given.mask_token} must be {replaced}, to replace the last merged token as research code "
            f"does, or {vocab_size}, to append a token"
        )
    research = layout.research if given.mask_token is None else given.mask_token == replaced
    original, tokenizer_note = (_load_tokenizer(tokenizer), []) if tokenizer else openai_tokenizer()
    fitted, mask_note = fit_tokenizer(original, vocab_size, research=research)
    if research and given.mask_token is None and parts.fusion_layers is None:
        mask_note += f"; assumed, because there is no token head (--mask-token {vocab_size} appends one)"
    changes += [mask_note, *tokenizer_note]
    if len(fitted) > vocab_size:
        tensors[embedding] = append_mean_row(tensors[embedding])

    positions = f"{parts.prefix}visual.positional_embedding"
    num_positions, _ = shape_of(tensors, positions, "positions", "width")
    patch_size = patch_size_of(tensors, parts)
    grid = patch_grid("image_size", image_size, patch_size) if image_size else None
    source_grid = infer_patch_grid(num_positions - 1, patch_size, given.source_image_size, grid)
    if grid is None:
        keep = layout.research or source_grid[0] != source_grid[1]
        grid = source_grid if keep else patch_grid("image_size", PERSON_SIZE, patch_size)
    if given.source_image_size is None:
        changes.append(
            f"positions: the file does not state their grid; {format_size(source_grid)} patches are assumed"
        )
    changes += _resize_note(source_grid, grid)
    uncropped = "" if layout.research else ", but whole, without CLIP's crop of the centre"
    changes += [
        f"images: resized ({layout.resample.name.lower()}) and normalised as the {layout.name} layout's code does"
        f"{uncropped}",
        "captions: cleaned (ftfy, HTML entities) as CLIP's own code does",
    ]

    def empty_model(its_grid: tuple[int, int]) -> GADMSForPreTraining:
        size = (its_grid[0] * patch_size, its_grid[1] * patch_size)
        with torch.device("meta"):
            config = infer_config(
                tensors, parts, fitted, image_size=size, temperature=temperature, activation=activation, heads=heads
            )
            return GADMSForPreTraining(config)

    # Checked without allocating memory, because a file can claim any size.
    _check_shapes(tensors, parts, empty_model(source_grid).state_dict())
    tensors[positions] = resize_patch_positions(tensors[positions], grid, source_grid)
    model = empty_model(grid)
    state: dict[str, torch.Tensor] = {}
    for mapping in parts.mappings():
        state |= mapping.to_gadms(tensors[mapping.openai_name])
    state["gadms.logit_scale"] = torch.tensor(-math.log(model.config.temperature))
    model.load_state_dict(state, assign=True)
    return _Converted(
        layout=layout.name,
        model=model.gadms if parts.fusion_layers is None and not parts.classifier else model,
        tokenizer=fitted,
        used=len(used),
        ignored=file.ignored | {name: parts.reason_ignored(name) for name in file.tensors if name not in used},
        changes=changes,
        processing={
            "clean_text": True,
            "resample": layout.resample,
            "image_mean": list(layout.image_mean),
            "image_std": list(layout.image_std),
        },
    )


def _required_tensors(file: WeightFile, parts: CheckpointParts) -> dict[str, torch.Tensor]:
    names = [mapping.openai_name for mapping in parts.mappings()]
    if missing := [name for name in names if name not in file.tensors]:
        more = ", ..." if len(missing) > _MAX_NAMED else ""
        raise ValueError(f"it lacks {len(missing)} required tensors: {', '.join(missing[:_MAX_NAMED])}{more}")
    return {name: _as_float32(name, file.tensors[name]) for name in names}


def _merge_long_positions(file: WeightFile, parts: CheckpointParts, tensors: dict[str, torch.Tensor]) -> bool:
    """Replace the text positions by those that Long-CLIP composes, if the file has both parts of them."""
    first, rest = f"{parts.text_prefix}positional_embedding", parts.text_prefix + LONG_POSITIONS
    if rest not in file.tensors:
        return False
    other = _as_float32(rest, file.tensors[rest])
    if other.shape != tensors[first].shape or len(other) <= LONG_CLIP_KEPT:
        raise ValueError(
            f"`{rest}` has shape {tuple(other.shape)} and `{first}` {tuple(tensors[first].shape)}; Long-CLIP has the "
            f"same shape for both, and more than {LONG_CLIP_KEPT} positions"
        )
    tensors[first] = torch.cat([tensors[first][:LONG_CLIP_KEPT], other[LONG_CLIP_KEPT:]])
    return True


def _temperature_of(file: WeightFile, parts: CheckpointParts) -> tuple[str | None, float | None]:
    """Return the name of the tensor with the temperature, and its value."""
    for name in [f"{prefix}logit_scale" for prefix in parts.ancestors()]:
        if name in file.tensors:
            return name, _temperature(_as_float32(name, file.tensors[name]))
    return None, None


def _check_shapes(
    tensors: Mapping[str, torch.Tensor], parts: CheckpointParts, state: Mapping[str, torch.Tensor]
) -> None:
    for mapping in parts.mappings():
        found, expected = tuple(tensors[mapping.openai_name].shape), mapping.openai_shape(state)
        if found != expected:
            raise ValueError(f"`{mapping.openai_name}` has shape {found}, but the other tensors require {expected}")


def _as_float32(name: str, tensor: torch.Tensor) -> torch.Tensor:
    dense = tensor.layout == torch.strided and not tensor.is_meta and tensor.is_floating_point()
    # An expanded tensor can claim more memory than there is.
    if not dense or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise ValueError(f"`{name}` is not a dense floating-point tensor ({tensor.dtype}, {tensor.layout})")
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise ValueError(f"`{name}` has values that are not finite; its training failed or the file is damaged")
    return tensor


def _temperature(log_scale: torch.Tensor) -> float:
    if log_scale.numel() != 1 or abs(log_scale.item()) > _MAX_LOG_SCALE:
        raise ValueError(
            f"`logit_scale` must be one number, the logarithm of 1 / temperature, not {log_scale.tolist()}"
        )
    return math.exp(-log_scale.item())


def _load_tokenizer(name: str | Path, **options: Any) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name, **options)
    except OSError as error:
        raise OSError(f"the tokenizer {name} cannot be loaded; give another one (--tokenizer): {error}") from error


def _cast_note(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    dtypes = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()]
    others = sorted(set(dtypes) - {"float32"})
    count = sum(dtype in others for dtype in dtypes)
    return [f"precision: {count} tensors of {', '.join(others)} were cast to float32"] if others else []


def _resize_note(source_grid: tuple[int, int], grid: tuple[int, int], how: str = "bicubic interpolation") -> list[str]:
    if grid == source_grid:
        return []
    return [f"positions: resized from {format_size(source_grid)} to {format_size(grid)} patches by {how}"]
