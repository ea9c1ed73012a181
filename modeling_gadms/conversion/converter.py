"""Convert CLIP checkpoints to GA-DMS model folders.

Input: a folder or Hub repository of transformers' CLIP, or a weight file (.pt, .pth, .bin, .safetensors) of OpenAI's
CLIP or of research code built on it. Output: a folder with weights in float32, configuration, code and processor.
"""

import math
import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, PreTrainedConfig, PreTrainedTokenizerBase

from ..configuration_gadms import GADMSConfig, declared_settings, encoder_configs
from ..encoders.atomic_files import atomic_folder
from ..encoders.weight_files import check_layer_count, stored_shapes
from ..modeling_gadms import GADMSForPreTraining, GADMSModel, append_mean_row, resize_patch_positions
from ..processing_gadms import GADMSProcessor
from .checkpoint_files import WEIGHT_SUFFIXES, WeightFile, read_weight_file
from .config_inference import (
    default_fusion_heads,
    format_size,
    infer_config,
    infer_patch_grid,
    patch_grid,
    patch_size_of,
    shape_of,
)
from .openai_layout import CheckpointParts, find_parts
from .reports import ConversionReport
from .tokenizer import fit_tokenizer


PERSON_SIZE = (384, 128)
"""(height, width) in pixels for models converted from square images, as in the paper."""
OPENAI_TOKENIZER, OPENAI_TOKENS = "openai/clip-vit-base-patch16", 49_408
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


def convert(
    source: str | Path,
    target: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    source_image_size: tuple[int, int] | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
) -> ConversionReport:
    """Convert a CLIP checkpoint to a GA-DMS model folder: weights in float32, configuration, code and processor.

    Supported are transformers' CLIP (folder or Hub name), weight files in the layout of OpenAI's CLIP, and those of
    research code built on it, including fusion encoder, token head and classifier. For weight files, attention heads
    of width 64 and the QuickGELU activation of OpenAI's CLIP are assumed. Every entry of the source is used or
    reported as ignored. No code of a source is run.

    Args:
        source (`str` or `Path`): folder, Hub name, or .pt, .pth, .bin or .safetensors file.
        target (`str` or `Path`): folder to write. Nothing is written on an error.
        image_size (`tuple[int, int]`, *optional*):
            (height, width) in pixels of the converted model. By default (384, 128) if the images of the source are
            square, else their size.
        source_image_size (`tuple[int, int]`, *optional*):
            (height, width) in pixels of the images of a weight file. By default inferred from the number of
            positions, see [`~modeling_gadms.conversion.config_inference.infer_patch_grid`].
        tokenizer (`str` or `Path`, *optional*):
            Folder or Hub name of the tokenizer. By default that of the source, or OpenAI's for a weight file with
            49,408 tokens.
        revision (`str`, *optional*): commit, branch or tag of a Hub name and its tokenizer.

    Returns:
        [`ConversionReport`]

    Raises:
        ValueError: if the source is not supported, damaged, unsafe or incomplete, or does not fit the other
            arguments.
        OSError: if a file cannot be read or written, or the target exists.
    """
    target = Path(target)
    with atomic_folder(target) as folder:  # first, to refuse an existing target before the conversion
        converted = _convert(source, image_size, source_image_size, tokenizer, revision)
        config, changes = converted.model.config, list(converted.changes)
        context_length = encoder_configs(config)[0].max_position_embeddings
        if converted.tokenizer.model_max_length != context_length:
            converted.tokenizer.model_max_length = context_length
            changes.append(f"captions: truncated at {context_length} tokens, the number of positions of the model")
        processor = GADMSProcessor.from_tokenizer(converted.tokenizer, image_size=config.image_size)
        converted.model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return ConversionReport(
        source=str(source),
        target=target,
        layout=converted.layout,
        model=type(converted.model).__name__,
        config=config,
        used=converted.used,
        ignored=converted.ignored,
        changes=tuple(changes),
    )


def _convert(
    source: str | Path,
    image_size: tuple[int, int] | None,
    source_image_size: tuple[int, int] | None,
    tokenizer: str | Path | None,
    revision: str | None,
) -> _Converted:
    is_weight_file = Path(source).is_file() or Path(source).suffix in WEIGHT_SUFFIXES
    if revision is not None and (is_weight_file or Path(source).is_dir()):
        raise ValueError(f"{source} is a local path; revision = {revision!r} can only be used with a Hub name")
    file = read_weight_file(Path(source)) if is_weight_file else None
    try:
        if file is not None:
            return _from_weight_file(file, image_size, source_image_size, tokenizer)
        options: dict[str, Any] = {} if revision is None else {"revision": revision}
        return _from_transformers(str(source), image_size, source_image_size, tokenizer, options)
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(f"{source}: {error}") from error
    except OSError as error:
        raise OSError(f"{source}: {error}") from error


def _from_transformers(
    source: str,
    image_size: tuple[int, int] | None,
    source_image_size: tuple[int, int] | None,
    tokenizer: str | Path | None,
    options: dict[str, Any],
) -> _Converted:
    model_type = PreTrainedConfig.get_config_dict(source, **options)[0].get("model_type")
    if model_type == "gadms":
        raise ValueError("it is a GA-DMS model already: there is nothing to convert")
    if model_type != "clip":
        found = f"a model of type {model_type!r}" if model_type else "no config.json with a model_type"
        raise ValueError(f"it contains {found}; only CLIP models and weight files are converted")
    if source_image_size:
        raise ValueError("source_image_size is only used for weight files; this model's configuration contains it")
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
    changes = [mask_note, *_cast_note(clip.state_dict()), *_resize_note((side, side), grid)]
    ignored = dict.fromkeys(unexpected, "not part of transformers' CLIP")
    return _Converted("transformers", model, fitted, len(state), ignored, changes)


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
    file: WeightFile,
    image_size: tuple[int, int] | None,
    source_image_size: tuple[int, int] | None,
    tokenizer: str | Path | None,
) -> _Converted:
    parts = find_parts(file.tensors)
    tensors = _required_tensors(file, parts)
    scale_name, temperature = _temperature_of(file, parts)
    used = {*tensors, *([scale_name] if scale_name else [])}
    changes = _cast_note({name: file.tensors[name] for name in used})
    if temperature is None:
        changes.append("temperature: the default; the file contains none")

    embedding = f"{parts.prefix}token_embedding.weight"
    vocab_size, _ = shape_of(tensors, embedding, "tokens", "width")
    if not tokenizer and vocab_size != OPENAI_TOKENS:
        raise ValueError(
            f"it embeds {vocab_size} tokens, not OpenAI's {OPENAI_TOKENS}; give its tokenizer (--tokenizer)"
        )
    fitted, note = fit_tokenizer(_load_tokenizer(tokenizer or OPENAI_TOKENIZER), vocab_size, research=parts.research)
    changes.append(note)
    if len(fitted) > vocab_size:
        tensors[embedding] = append_mean_row(tensors[embedding])

    positions = f"{parts.prefix}visual.positional_embedding"
    num_positions, _ = shape_of(tensors, positions, "positions", "width")
    patch_size = patch_size_of(tensors, parts)
    grid = patch_grid("image_size", image_size, patch_size) if image_size else None
    source_grid = infer_patch_grid(num_positions - 1, patch_size, source_image_size, grid)
    if grid is None:
        square = source_grid[0] == source_grid[1]
        grid = patch_grid("image_size", PERSON_SIZE, patch_size) if square else source_grid
    if source_image_size is None:
        changes.append(
            f"positions: the file does not state their grid; {format_size(source_grid)} patches are assumed"
        )
    changes += _resize_note(source_grid, grid)

    def empty_model(its_grid: tuple[int, int]) -> GADMSForPreTraining:
        size = (its_grid[0] * patch_size, its_grid[1] * patch_size)
        with torch.device("meta"):
            return GADMSForPreTraining(infer_config(tensors, parts, fitted, image_size=size, temperature=temperature))

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
        layout="research" if parts.research else "openai",
        model=model.gadms if parts.fusion_layers is None and not parts.classifier else model,
        tokenizer=fitted,
        used=len(used),
        ignored=file.ignored | {name: parts.reason_ignored(name) for name in file.tensors if name not in used},
        changes=changes,
    )


def _required_tensors(file: WeightFile, parts: CheckpointParts) -> dict[str, torch.Tensor]:
    names = [mapping.openai_name for mapping in parts.mappings()]
    if missing := [name for name in names if name not in file.tensors]:
        more = ", ..." if len(missing) > _MAX_NAMED else ""
        raise ValueError(f"it lacks {len(missing)} required tensors: {', '.join(missing[:_MAX_NAMED])}{more}")
    return {name: _as_float32(name, file.tensors[name]) for name in names}


def _temperature_of(file: WeightFile, parts: CheckpointParts) -> tuple[str | None, float | None]:
    """Return the name of the tensor with the temperature, and its value."""
    for name in (f"{parts.prefix}logit_scale", "logit_scale"):
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


def _resize_note(source_grid: tuple[int, int], grid: tuple[int, int]) -> list[str]:
    if grid == source_grid:
        return []
    return [
        f"positions: resized from {format_size(source_grid)} to {format_size(grid)} patches by bicubic interpolation"
    ]
