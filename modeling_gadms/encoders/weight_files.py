"""Check the weight files of a model before memory is allocated for it."""

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from ..modeling_gadms import GADMSForPreTraining


def check_weights(
    name: str | Path,
    model_class: type[PreTrainedModel],
    config: Any,
    revision: str | None = None,
    *,
    foreign: bool = False,
) -> None:
    """Check that the stored weights match a configuration. Only the headers of the files are read.

    A configuration is text that anybody can edit, and may claim sizes that do not fit into memory. This check
    allocates neither the model nor its weights.

    Args:
        name (`str` or `Path`): folder or Hub name of the model.
        model_class (`type`): [`GADMSModel`], [`GADMSForPreTraining`] or a model of another family.
        config ([`GADMSConfig`] or another): the configuration of the model.
        revision (`str`, *optional*): of a Hub name.
        foreign (`bool`):
            Whether the model is of another family than GA-DMS. transformers may rename its stored weights as it loads
            them, so that a missing name may be there under another: only the total number is checked here, and missing
            ones are found by loading. The weights may be pickled.

    Raises:
        ValueError: if a file is damaged, or weights are missing or differ in size from the configuration, naming one.
        OSError: if there are no weights in safetensors, or a shard is missing.
    """
    stored = stored_shapes(name, revision, pickled=foreign and not has_safetensors(name, revision))
    num_layers = sum(encoder.num_hidden_layers for encoder in (config.text_config, config.vision_config))
    if model_class is GADMSForPreTraining:
        num_layers += config.fusion_num_hidden_layers
    check_layer_count(name, num_layers, len(stored))
    try:
        with torch.device("meta"):
            model = model_class(config)
    except RuntimeError as error:  # the size of a tensor overflows
        raise ValueError(f"{name}: the sizes in its config.json are too large: {error}") from error
    num_stored = sum(map(math.prod, stored.values()))
    prefix = f"{model.base_model_prefix}."
    stored = stored | {key.removeprefix(prefix): shape for key, shape in stored.items()}
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    missing = sorted(expected.keys() - stored.keys())
    if foreign and (num_expected := sum(map(math.prod, expected.values()))) > 2 * num_stored:
        raise ValueError(
            f"{name}: its weights are {num_stored:,} numbers, and by its config.json there are {num_expected:,}: they "
            "belong to another model"
        )
    if missing and not foreign:
        raise ValueError(f"{name} lacks {len(missing)} weights of {model_class.__name__}, such as {missing[0]}")
    differing = [key for key, shape in sorted(expected.items()) if stored.get(key, shape) != shape]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{name}: {len(differing)} weights have another size than its configuration says, such as {key}: "
            f"{_format_shape(stored[key])} in the file, {_format_shape(expected[key])} by the configuration"
        )


def check_layer_count(name: str | Path, num_layers: int, num_stored: float) -> None:
    """Refuse a configuration with more layers than there are stored weights, before that many modules are built.

    Raises:
        ValueError: if there are more layers than weights.
    """
    if num_layers > num_stored:
        raise ValueError(f"{name} lacks weights: {num_stored} are stored, for {num_layers} layers in its config.json")


def has_safetensors(name: str | Path, revision: str | None = None) -> bool:
    """Whether the weights of a model are in safetensors."""
    return any(_find(name, revision, file) for file in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))


def cached_commit(name: str | Path, file: str) -> str | None:
    """Commit of the repository of the Hub that a file was loaded from, which transformers does not keep.

    Args:
        name (`str` or `Path`): Hub name; `None` is returned for a folder.
        file (`str`): a file of the repository that was loaded.
    """
    cached = None if Path(name).is_dir() else try_to_load_from_cache(str(name), file)
    return Path(cached).parent.name if isinstance(cached, str) else None


def stored_shapes(
    name: str | Path, revision: str | None = None, *, pickled: bool = False
) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors in the weights of a model: one file, or an index and its shards.

    Args:
        name (`str` or `Path`): folder or Hub name of a model.
        revision (`str`, *optional*): of a Hub name.
        pickled (`bool`): whether the weights are pickles instead of safetensors. They are read without running code.

    Raises:
        ValueError: if a file is damaged, or a tensor is not in the file that the index names.
        OSError: if there are no weights in this format, or a shard is missing.
    """
    single_name = WEIGHTS_NAME if pickled else SAFE_WEIGHTS_NAME
    index_name = WEIGHTS_INDEX_NAME if pickled else SAFE_WEIGHTS_INDEX_NAME
    # `from_pretrained` prefers the single file, too.
    single = _find(name, revision, single_name)
    if single is not None:
        return _shapes_of(single)
    index = _find(name, revision, index_name)
    if index is None and pickled:
        raise OSError(f"{name} contains no weights: {SAFE_WEIGHTS_NAME}, {WEIGHTS_NAME} and their indexes are missing")
    if index is None:
        raise OSError(
            f"{name} contains no weights: {SAFE_WEIGHTS_NAME} and {SAFE_WEIGHTS_INDEX_NAME} are missing (pickled "
            "weights are not read, since they can run code; `gadms convert` reads checkpoints of other code bases)"
        )
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(map(os.fspath, weight_map.values())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of weight files: {error!r}") from error
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise ValueError(f"{index} names the file {shard!r}, which is not in the same folder")
        in_file = _shapes_of(Path(cast(str, cached_file(str(name), shard, revision=revision))))
        shapes |= {key: shape for key, shape in in_file.items() if weight_map.get(key) == shard}
    if missing := sorted(weight_map.keys() - shapes.keys()):
        raise ValueError(
            f"{name}: {len(missing)} weights are not in the shards that {index.name} names, such as {missing[0]} in "
            f"{weight_map[missing[0]]}"
        )
    return shapes


def _find(name: str | Path, revision: str | None, file: str) -> Path | None:
    options: dict[str, Any] = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    found = cached_file(str(name), file, **options)
    return Path(found) if found else None


def _shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix == ".bin":
        try:
            tensors = torch.load(path, map_location="meta", weights_only=True)
            return {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        except (RuntimeError, ValueError, EOFError, AttributeError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{path} is damaged, or holds more than weights ({str(error).splitlines()[0]}): fetch it again"
            ) from error
    try:
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); fetch or save it again") from error


def _format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
