"""Foreign models as ours: transformers' CLIP, the layout of OpenAI's CLIP, and the research code built on that."""

import math
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, PreTrainedConfig, PreTrainedTokenizerBase

from ..configuration_gadms import GADMSConfig, declared_settings, encoder_configs
from ..encoders.atomic_files import atomic_folder
from ..modeling_gadms import GADMSForPreTraining, GADMSModel, append_mean_row, resize_patch_positions
from ..processing_gadms import GADMSProcessor
from .checkpoint_files import WEIGHT_SUFFIXES, WeightFile, read_weight_file
from .openai_layout import (
    Parts,
    default_fusion_heads,
    infer_config,
    parts_of,
    patch_size_of,
    shape_of,
    why_ignored,
)
from .patch_grids import by, patch_grid, source_patch_grid
from .reports import ConversionReport
from .tokenizer import fit_tokenizer


PERSON_SIZE = (384, 128)
"""(height, width) in pixels of what a model for square images becomes, as in the paper."""
OPENAI_TOKENIZER, OPENAI_TOKENS = "openai/clip-vit-base-patch16", 49_408
_NAMED = 5
_MOST_LOG_SCALE = 50.0


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
    """Write a foreign checkpoint as a folder of ours: weights in float32, configuration, code and processor.

    Known are transformers' CLIP (folder or Hub name), weight files in the layout of OpenAI's CLIP, and those of
    research code built on it, with what they have of fusion encoder, token head and classifier. What weights do not
    tell is as in OpenAI's CLIP: attention heads are 64 wide, the activation is QuickGELU. Every entry of the source
    is used, or reported as ignored; nothing that a file brings is run.

    Args:
        source (`str` or `Path`): folder, Hub name, or .pt, .pth, .bin or .safetensors file.
        target (`str` or `Path`): folder to write; on an error nothing is there.
        image_size (`tuple[int, int]`, *optional*):
            (height, width) in pixels of the model written. By default that of the source where it is a rectangle, else
            (384, 128).
        source_image_size (`tuple[int, int]`, *optional*):
            (height, width) in pixels of a weight file's images. By default a square, else three or two times as high
            as wide, else `image_size`, whichever has as many patches.
        tokenizer (`str` or `Path`, *optional*):
            Folder or Hub name of the tokenizer. By default that of the source, and for a weight file with 49,408
            tokens OpenAI's.
        revision (`str`, *optional*): commit, branch or tag of a Hub name, for its tokenizer too.

    Returns:
        [`ConversionReport`]

    Raises:
        ValueError: if the source is of another kind, damaged, unsafe or incomplete, or does not fit the other
            arguments.
        OSError: if something cannot be read or written, or the target is taken.
    """
    target = Path(target)
    # From the start, since a target that is taken is better refused before the work than after it.
    with atomic_folder(target) as folder:
        converted = _convert(source, image_size, source_image_size, tokenizer, revision)
        config, changes = converted.model.config, list(converted.changes)
        context_length = encoder_configs(config)[0].max_position_embeddings
        if converted.tokenizer.model_max_length != context_length:
            converted.tokenizer.model_max_length = context_length
            note = f"captions: the tokenizer now cuts at {context_length} tokens, as the model has positions"
            changes.append(note)
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
        raise ValueError(f"{source} is on this disk, and revision = {revision!r} goes with a Hub name")
    if is_weight_file:
        file = read_weight_file(Path(source))
        with _errors_of(source):
            return _from_weight_file(file, image_size, source_image_size, tokenizer)
    with _errors_of(source):
        where: dict[str, Any] = {} if revision is None else {"revision": revision}
        return _from_transformers(str(source), image_size, source_image_size, tokenizer, where)


def _from_transformers(
    source: str,
    image_size: tuple[int, int] | None,
    source_image_size: tuple[int, int] | None,
    tokenizer: str | Path | None,
    where: dict[str, Any],
) -> _Converted:
    model_type = PreTrainedConfig.get_config_dict(source, **where)[0].get("model_type")
    if model_type == "gadms":
        raise ValueError("it is a GA-DMS model already: there is nothing to convert")
    if model_type != "clip":
        found = f"a model of type {model_type!r}" if model_type else "no config.json with a model_type"
        raise ValueError(f"it holds {found}; only CLIP models are converted, or give a weight file")
    if source_image_size:
        raise ValueError("source_image_size goes with weight files; this model's own configuration has it")
    clip, unexpected = _load_clip(source, where)
    config: Any = clip.config
    state = {name: _as_float32(name, tensor) for name, tensor in clip.state_dict().items()}
    image_size = image_size or PERSON_SIZE
    grid = patch_grid("image_size", image_size, config.vision_config.patch_size)
    its_tokenizer = _load_tokenizer(tokenizer) if tokenizer else _load_tokenizer(source, **where)
    fitted, mask_note = fit_tokenizer(its_tokenizer, config.text_config.vocab_size, research=False)
    side = config.vision_config.image_size // config.vision_config.patch_size
    # It loads CLIP once more; so there is one way from transformers' CLIP to ours.
    model = GADMSModel.from_clip(
        source,
        image_size=image_size,
        clip_kwargs=where,
        temperature=_temperature(state["logit_scale"]),
        score_layers=min(8, config.text_config.num_hidden_layers),
        masked_token_prediction=False,
        fusion_num_attention_heads=default_fusion_heads(config.projection_dim),
    )
    ours = (encoder_configs(model.config)[0].eos_token_id, model.config.mask_token_id)
    if (fitted.eos_token_id, fitted.mask_token_id) != ours:
        raise ValueError(
            f"its tokenizer has EOS {fitted.eos_token_id} and mask {fitted.mask_token_id}, and the model would have "
            f"{ours[0]} and {ours[1]}; give the tokenizer that it was trained with, without a mask token"
        )
    changes = [mask_note, *_cast_note(clip.state_dict()), *_resize_note((side, side), grid)]
    ignored = dict.fromkeys(unexpected, "no part of transformers' CLIP")
    return _Converted("transformers", model, fitted, len(state), ignored, changes)


def _load_clip(source: str, where: dict[str, Any]) -> tuple[CLIPModel, list[str]]:
    """The model, and the names of tensors that it has no use for."""
    config: Any = CLIPConfig.from_pretrained(source, **where)
    # Refused here if there is no such model: CLIP's own configuration takes any size.
    GADMSConfig(
        text_config=declared_settings(config.text_config) | {"eos_token_id": config.text_config.vocab_size - 1},
        vision_config=declared_settings(config.vision_config),
        projection_dim=config.projection_dim,
        mask_token_id=0,
        score_layers=1,
        fusion_num_attention_heads=1,
    )
    try:
        # First without memory, which a configuration could claim more of than there is.
        loaded: Any = CLIPModel.from_pretrained(
            source, device_map="meta", ignore_mismatched_sizes=True, output_loading_info=True, **where
        )
        loading = loaded[1]
        if missing := sorted(loading["missing_keys"]):
            raise ValueError(f"it lacks {len(missing)} weights of transformers' CLIP, such as {missing[0]}")
        if differing := sorted(key for key, *_ in loading["mismatched_keys"]):
            raise ValueError(f"{len(differing)} weights have another size than its configuration, as {differing[0]}")
        return CLIPModel.from_pretrained(source, **where), sorted(loading["unexpected_keys"])
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"its weights are damaged, or more than weights ({reason}); download them again") from error


def _from_weight_file(
    file: WeightFile,
    image_size: tuple[int, int] | None,
    source_image_size: tuple[int, int] | None,
    tokenizer: str | Path | None,
) -> _Converted:
    parts = parts_of(file.tensors)
    tensors = _whole_model(file, parts)
    scale_name, temperature = _temperature_of(file, parts)
    used = {*tensors, *([scale_name] if scale_name else [])}
    changes = _cast_note({name: file.tensors[name] for name in used})
    if temperature is None:
        changes.append("temperature: our default; the file has none")

    embedding = f"{parts.prefix}token_embedding.weight"
    vocab_size, _ = shape_of(tensors, embedding, "tokens", "width")
    if not tokenizer and vocab_size != OPENAI_TOKENS:
        raise ValueError(
            f"it embeds {vocab_size} tokens, and OpenAI's are {OPENAI_TOKENS}; give its tokenizer (--tokenizer)"
        )
    fitted, note = fit_tokenizer(_load_tokenizer(tokenizer or OPENAI_TOKENIZER), vocab_size, research=parts.research)
    changes.append(note)
    if len(fitted) > vocab_size:
        tensors[embedding] = append_mean_row(tensors[embedding])

    positions = f"{parts.prefix}visual.positional_embedding"
    num_positions, _ = shape_of(tensors, positions, "positions", "width")
    patch_size = patch_size_of(tensors, parts)
    grid = patch_grid("image_size", image_size, patch_size) if image_size else None
    source_grid = source_patch_grid(num_positions - 1, patch_size, source_image_size, grid)
    if grid is None:
        square = source_grid[0] == source_grid[1]
        grid = patch_grid("image_size", PERSON_SIZE, patch_size) if square else source_grid
    if source_image_size is None:
        changes.append(f"positions: taken for those of {by(source_grid)} patches, which the file does not tell")
    changes += _resize_note(source_grid, grid)

    def without_memory(its_grid: tuple[int, int]) -> GADMSForPreTraining:
        size = (its_grid[0] * patch_size, its_grid[1] * patch_size)
        with torch.device("meta"):
            return GADMSForPreTraining(infer_config(tensors, parts, fitted, image_size=size, temperature=temperature))

    # Sizes are compared before memory is taken: a file may claim what no computer holds.
    _check_shapes(tensors, parts, without_memory(source_grid).state_dict())
    tensors[positions] = resize_patch_positions(tensors[positions], grid, source_grid)
    model = without_memory(grid)
    state = {name: part for entry in parts.entries() for name, part in entry.to_ours(tensors[entry.theirs]).items()}
    state["gadms.logit_scale"] = torch.tensor(-math.log(model.config.temperature))
    model.load_state_dict(state, assign=True)
    return _Converted(
        layout="research" if parts.research else "openai",
        model=model.gadms if parts.fusion_layers is None and not parts.classifier else model,
        tokenizer=fitted,
        used=len(used),
        ignored=file.ignored | {name: why_ignored(name, parts) for name in file.tensors if name not in used},
        changes=changes,
    )


def _whole_model(file: WeightFile, parts: Parts) -> dict[str, torch.Tensor]:
    names = [entry.theirs for entry in parts.entries()]
    if missing := [name for name in names if name not in file.tensors]:
        more = ", ..." if len(missing) > _NAMED else ""
        raise ValueError(f"it lacks {len(missing)} tensors of such a model: {', '.join(missing[:_NAMED])}{more}")
    return {name: _as_float32(name, file.tensors[name]) for name in names}


def _temperature_of(file: WeightFile, parts: Parts) -> tuple[str | None, float | None]:
    """The tensor that tells it, and what it tells."""
    for name in (f"{parts.prefix}logit_scale", "logit_scale"):
        if name in file.tensors:
            return name, _temperature(_as_float32(name, file.tensors[name]))
    return None, None


def _check_shapes(tensors: Mapping[str, torch.Tensor], parts: Parts, expected: Mapping[str, torch.Tensor]) -> None:
    for entry in parts.entries():
        found, right = tuple(tensors[entry.theirs].shape), entry.shape(expected)
        if found != right:
            raise ValueError(f"`{entry.theirs}` has shape {found}, and {right} goes with the other tensors")


def _as_float32(name: str, tensor: torch.Tensor) -> torch.Tensor:
    dense = tensor.layout == torch.strided and not tensor.is_meta and tensor.is_floating_point()
    # A tensor that repeats few numbers can claim more memory than there is.
    if not dense or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise ValueError(f"`{name}` is no dense floating-point tensor of its own ({tensor.dtype}, {tensor.layout})")
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise ValueError(f"`{name}` has numbers that are not finite; its training failed or the file is damaged")
    return tensor


def _temperature(log_scale: torch.Tensor) -> float:
    if log_scale.numel() != 1 or abs(log_scale.item()) > _MOST_LOG_SCALE:
        raise ValueError(
            f"`logit_scale` must be one number, the logarithm of 1 / temperature, and is {log_scale.tolist()}"
        )
    return math.exp(-log_scale.item())


def _load_tokenizer(name: str | Path, **where: Any) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name, **where)
    except OSError as error:
        raise OSError(f"the tokenizer {name} cannot be loaded; give another one (--tokenizer): {error}") from error


def _cast_note(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    dtypes = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()]
    others = sorted(set(dtypes) - {"float32"})
    count = sum(dtype in others for dtype in dtypes)
    return [f"precision: {count} tensors of {', '.join(others)} became float32"] if others else []


def _resize_note(source_grid: tuple[int, int], grid: tuple[int, int]) -> list[str]:
    if grid == source_grid:
        return []
    return [f"positions: resized from {by(source_grid)} to {by(grid)} patches by bicubic interpolation"]


@contextmanager
def _errors_of(source: str | Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(f"{source}: {error}") from error
    except OSError as error:
        raise OSError(f"{source}: {error}") from error
