"""A model that was trained or downloaded, ready to search and to be measured."""

from pathlib import Path
from typing import Any, overload

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from ..configuration_gadms import GADMSConfig, encoder_configs
from ..modeling_gadms import GADMSModel
from ..processing_gadms import GADMSProcessor
from .adapter_folders import find_adapter
from .onnx_model import MANIFEST, RUNTIMES, OnnxModel, RetrievalModel
from .weight_files import check_weights


@overload
def load_model_and_processor(name: str | Path) -> tuple[GADMSModel, GADMSProcessor]: ...


@overload
def load_model_and_processor(name: str | Path, *, runtime: str) -> tuple[RetrievalModel, GADMSProcessor]: ...


def load_model_and_processor(name: str | Path, *, runtime: str = RUNTIMES[0]) -> tuple[RetrievalModel, GADMSProcessor]:
    """Load a model, in evaluation mode and on the GPU if there is one, and the processor made for it.

    Args:
        name (`str` or `Path`):
            Folder or Hub name of a GA-DMS model, with or without what training adds; or of an adapter, which is
            merged into its base, in float32; or of an ONNX export.
        runtime (`str`):
            `"torch"`; or `"onnx"` or `"onnx-int8"` for an ONNX export, which runs on the CPU.

    Returns:
        [`GADMSModel`], or [`OnnxModel`] of the other runtimes, and [`GADMSProcessor`].

    Raises:
        ImportError: if that is an adapter, and peft is not installed, or an ONNX export, and onnxruntime is not.
        ValueError: if that is no model or one of another kind, lacks weights, has a tokenizer of another model, is an
            adapter of another model than its base is now or an export for another runtime, or the runtime is unknown.
        OSError: if nothing is found under that name, or a file or an adapter's base is missing.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime = {runtime!r} must be one of {', '.join(RUNTIMES)}")
    source: str | Path = name
    options: dict[str, Any] = {}
    if adapter := find_adapter(name):
        source, options = adapter.base.name, adapter.base.revision_argument
    config = load_config(source, **options)
    model: Any
    if runtime != RUNTIMES[0]:
        model = OnnxModel(name, config, runtime)
    else:
        _refuse_onnx_export(name)
        check_weights(source, GADMSModel, config, **options)
        if adapter:
            options = {**options, "dtype": torch.float32}
        model = GADMSModel.from_pretrained(source, use_safetensors=True, **options)
        if adapter:
            adapter.merge_into(model)
            model.name_or_path = str(name)
    processor = GADMSProcessor.from_pretrained(adapter.folder if adapter else name)
    known, expected = len(processor.tokenizer), encoder_configs(config)[0].vocab_size
    if known != expected:  # transformers makes up a tokenizer of three tokens where the vocabulary is missing
        raise ValueError(f"{name}: its tokenizer has {known} tokens, its model {expected}; save both there again")
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor


def load_config(name: str | Path, **options: Any) -> GADMSConfig:
    """The configuration of a GA-DMS model.

    Args:
        name (`str` or `Path`): folder or Hub name.
        options: passed to `AutoConfig.from_pretrained` (`revision`, ...).

    Raises:
        ValueError: if it is invalid, or that of another kind of model.
        OSError: if there is none.
    """
    try:
        config = AutoConfig.from_pretrained(name, **options)
    except StrictDataclassError as error:
        raise ValueError(f"{name}: its config.json is invalid: {error}") from error
    if not isinstance(config, GADMSConfig):
        raise ValueError(f"{name} holds a model of type {config.model_type!r}, not a GA-DMS one")
    return config


def _refuse_onnx_export(name: str | Path) -> None:
    folder = Path(name)
    if (folder / MANIFEST).is_file() and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{name} holds an ONNX export and no weights for torch: add --runtime onnx or onnx-int8 (in Python "
            "runtime='onnx'), or give the model that it was made of"
        )


def refuse_missing_weights(name: str | Path, model: Any, loading: dict[str, Any]) -> None:
    """Refuse a model of which weights would be random.

    Args:
        name (`str` or `Path`): what was loaded.
        model: as `from_pretrained` gives it with `output_loading_info=True`.
        loading (`dict`): what it gives beside it.

    Raises:
        ValueError: if weights are missing, naming one.
    """
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"{name} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}")
