"""Weight files of a model, looked at before anything is made of them."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from ..configuration_gadms import GADMSConfig


def check_weights(
    name: str | Path, model_class: type[PreTrainedModel], config: GADMSConfig, revision: str | None = None
) -> None:
    """Refuse weights that do not make the model of a configuration, from the headers of their files alone.

    A configuration is text that anybody can edit: a model of the sizes it claims may be more than the memory holds.
    Nothing is allocated here, neither for the model nor for its weights.

    Args:
        name (`str` or `Path`): folder or Hub name of the model.
        model_class (`type`): [`GADMSModel`] or [`GADMSForPreTraining`].
        config ([`GADMSConfig`]): the model's.
        revision (`str`, *optional*): of a Hub name.

    Raises:
        ValueError: if a file is damaged, or weights are missing or of another size than the configuration says, naming
            one.
        OSError: if there are no weights in safetensors, or a shard is missing.
    """
    stored = stored_shapes(name, revision)
    with torch.device("meta"):
        model = model_class(config)
    prefix = f"{model.base_model_prefix}."
    stored = stored | {key.removeprefix(prefix): shape for key, shape in stored.items()}
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    if missing := sorted(expected.keys() - stored.keys()):
        raise ValueError(f"{name} lacks {len(missing)} weights of {model_class.__name__}, such as {missing[0]}")
    differing = [key for key, shape in sorted(expected.items()) if stored[key] != shape]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{name}: {len(differing)} weights have another size than its configuration says, such as {key}: "
            f"{_times(stored[key])} in the file, {_times(expected[key])} by the configuration"
        )


def stored_shapes(name: str | Path, revision: str | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a model's weight files, which are one file in safetensors, or several and an index.

    Args:
        name (`str` or `Path`): folder or Hub name of a model.
        revision (`str`, *optional*): of a Hub name.

    Raises:
        ValueError: if a file is damaged, or is not where the index says.
        OSError: if there are no weights in safetensors, or a shard is missing.
    """
    # Whatever else a folder holds, `from_pretrained` takes the one file if it is there.
    single = _find(name, revision, SAFE_WEIGHTS_NAME, required=False)
    if single is not None:
        return _shapes_of(single)
    index = _find(name, revision, SAFE_WEIGHTS_INDEX_NAME, required=False)
    if index is None:
        raise OSError(
            f"{name} holds no weights: there is neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME} (weights in "
            "pickles are not read, they can run code; `gadms convert` reads checkpoints of other code bases)"
        )
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(map(os.fspath, weight_map.values())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of weight files: {error!r}") from error
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise ValueError(f"{index} names the file {shard!r}, which is not beside it")
        found = _find(name, revision, shard, required=True)
        in_file = _shapes_of(found) if found else {}
        shapes |= {key: shape for key, shape in in_file.items() if weight_map.get(key) == shard}
    if missing := sorted(weight_map.keys() - shapes.keys()):
        raise ValueError(
            f"{name}: {len(missing)} weights are not where {index.name} says, such as {missing[0]} in "
            f"{weight_map[missing[0]]}"
        )
    return shapes


def _find(name: str | Path, revision: str | None, file: str, *, required: bool) -> Path | None:
    options: dict[str, Any] = {"revision": revision, "_raise_exceptions_for_missing_entries": required}
    found = cached_file(str(name), file, **options)
    return Path(found) if found else None


def _shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); fetch or save it again") from error


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
