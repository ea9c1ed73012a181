"""Load a trained or downloaded model with its processor, for search and evaluation."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING, AutoConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME, logging

from ..configuration_gadms import GADMSConfig, encoder_configs, reads_padding
from ..processing_gadms import GADMSProcessor
from .adapter_folders import ADAPTER_CONFIG, find_adapter
from .families import find_families
from .onnx_model import MANIFEST, RUNTIMES, OnnxModel
from .open_clip_model import is_open_clip, load_open_clip
from .processors import RetrievalProcessor, load_dual_encoder_processor, with_image_fit
from .weight_files import cached_commit, check_weights, has_safetensors


_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def load_model_and_processor(
    name: str | Path, *, runtime: str = RUNTIMES[0], image_fit: str | None = None
) -> tuple[Any, Any]:
    """Load a dual encoder and its processor. The model is in evaluation mode, and on the GPU if one is available.

    Args:
        name (`str` or `Path`):
            Folder or Hub name of a model of a supported family (`modeling_gadms.encoders.families.FAMILIES`), of an
            adapter of a GA-DMS model (merged into its base, in float32), or of an ONNX export. The modules that only
            training uses may be present or not. Models of open_clip are named as in
            [`~modeling_gadms.encoders.open_clip_model.load_open_clip`].
        runtime (`str`):
            `"torch"`, or `"onnx"` or `"onnx-int8"` for an ONNX export, which runs on the CPU.
        image_fit (`str`, *optional*):
            How images are brought to the model's size: `"squash"`, `"pad"` or `"crop"`, as far as the family supports
            it; by default the family's own.

    Returns:
        The model: [`GADMSModel`], the model of transformers, or [`OnnxModel`] for the other runtimes; and its
        processor: [`GADMSProcessor`] or [`DualEncoderProcessor`].

    Raises:
        ImportError: if peft is not installed for an adapter, or onnxruntime for an ONNX export, or sentencepiece for
            a tokenizer that needs it.
        ValueError: if the family is not supported, weights are missing, the tokenizer belongs to another model, the
            base of an adapter has changed, an export lacks the runtime, or the runtime or the fit is unknown.
        OSError: if the name, a file or an adapter's base is not found.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime = {runtime!r} must be one of {', '.join(RUNTIMES)}")
    if is_open_clip(name):
        if runtime != RUNTIMES[0]:
            raise ValueError(f"{name} is a model of open_clip, which runs with torch alone, not with {runtime}")
        return load_open_clip(name, image_fit)
    name = _folder_or_hub_name(name)
    source: str | Path = name
    options: dict[str, Any] = {}
    if adapter := find_adapter(name):
        source, options = adapter.base.name, adapter.base.revision_argument
    config = _read_config(source, **options)
    find_families(config, str(source))
    processor_folder = adapter.folder if adapter else name
    model: Any
    if runtime != RUNTIMES[0]:
        processor = _load_processor(processor_folder, name, config)
        model = OnnxModel(name, config, runtime, processor.image_size)
    else:
        _refuse_onnx_export(name)
        if adapter:
            _check_is_gadms(config, source)
            options = {**options, "dtype": torch.float32}
        model = _load_weights(source, config, **options)
        if adapter:
            adapter.merge_into(model)
            model.name_or_path = str(name)
        processor = _load_processor(processor_folder, name, config)
    model.config._commit_hash = cached_commit(name, ADAPTER_CONFIG if adapter else CONFIG_NAME)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return model, with_image_fit(processor, image_fit)


def _load_weights(name: str | Path, config: PreTrainedConfig, **options: Any) -> Any:
    model_class: Any = MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    is_own = isinstance(config, GADMSConfig)
    revision = options.get("revision")
    check_weights(name, model_class, config, revision, foreign=not is_own)
    safe = is_own or has_safetensors(name, revision)
    with _without_report():
        model, loading = model_class.from_pretrained(name, use_safetensors=safe, output_loading_info=True, **options)
    refuse_missing_weights(name, model, loading)
    return model


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers from listing the weights that retrieval does not need; missing ones are refused here."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _load_processor(folder: str | Path, name: str | Path, config: PreTrainedConfig) -> RetrievalProcessor:
    """Load the processor from `folder`, which is `name` or, for an adapter, where it was downloaded to."""
    if not isinstance(config, GADMSConfig):
        return load_dual_encoder_processor(folder, config)
    processor = GADMSProcessor.from_pretrained(folder)
    if mismatch := find_mismatch(processor, config):
        raise ValueError(f"{name}: {mismatch}; save both there again")
    return processor


def load_config(name: str | Path, **options: Any) -> GADMSConfig:
    """Load the configuration of a GA-DMS model.

    Args:
        name (`str` or `Path`): folder or Hub name.
        options: passed to `AutoConfig.from_pretrained` (`revision`, ...).

    Raises:
        ValueError: if it is invalid, or belongs to another kind of model.
        OSError: if it is not found.
    """
    return _check_is_gadms(_read_config(_folder_or_hub_name(name), **options), name)


def _check_is_gadms(config: PreTrainedConfig, name: str | Path) -> GADMSConfig:
    if not isinstance(config, GADMSConfig):
        raise ValueError(f"{name} holds a model of type {config.model_type!r}, not a GA-DMS one")
    return config


def _read_config(name: str | Path, **options: Any) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(name, **options)
    except StrictDataclassError as error:
        raise ValueError(f"{name}: its config.json is invalid: {error}") from error
    except OSError as error:
        if Path(name).is_dir():
            raise
        raise FileNotFoundError(
            f"There is no model {str(name)!r}: it is not a folder, and it cannot be loaded from the Hub (a model of "
            f"open_clip is named hf-hub:{name}): {error}"
        ) from error


def _folder_or_hub_name(name: str | Path) -> str | Path:
    """Refuse a path without a folder, which transformers would take for a Hub name; `~` is the home directory."""
    if str(name) and Path(name).expanduser().is_dir():
        return type(name)(Path(name).expanduser())
    if Path(name).is_file():
        raise ValueError(f"{name} is a file, not the folder of a model: convert weights with `gadms convert` first")
    if not _HUB_NAME.fullmatch(str(name)):
        raise FileNotFoundError(f"There is no model folder {str(name)!r}")
    return name


def find_mismatch(processor: GADMSProcessor, config: GADMSConfig) -> str | None:
    """Compare a processor with the model whose inputs it is to prepare.

    Args:
        processor ([`GADMSProcessor`]), config ([`GADMSConfig`]): of the processor and the model.

    Returns:
        `str`: the first difference that would give wrong embeddings; `None` if they fit.
    """
    text, tokenizer = encoder_configs(config)[0], processor.tokenizer
    # transformers creates a tokenizer of three tokens if the vocabulary is missing.
    if len(tokenizer) != text.vocab_size:
        return f"its tokenizer has {len(tokenizer)} tokens, its model {text.vocab_size}"
    if tokenizer.mask_token_id != config.mask_token_id:
        return f"the mask is token {tokenizer.mask_token_id} of its tokenizer, and {config.mask_token_id} of its model"
    last = processor.tokenize("person")["input_ids"][-1]
    if last != text.eos_token_id:
        return f"its tokenizer ends captions with token {last}, its model reads them at token {text.eos_token_id}"
    if reads_padding(text) and tokenizer.pad_token_id != text.pad_token_id:
        return f"its tokenizer pads captions with token {tokenizer.pad_token_id}, its model with {text.pad_token_id}"
    if tokenizer.model_max_length > cast(int, text.max_position_embeddings):
        return (
            f"its tokenizer cuts captions at {tokenizer.model_max_length} tokens (model_max_length), its model reads "
            f"{text.max_position_embeddings}"
        )
    if processor.image_size != config.image_size:
        return f"its processor makes images of {processor.image_size} pixels, its model reads {config.image_size}"
    return None


def _refuse_onnx_export(name: str | Path) -> None:
    folder = Path(name)
    if (folder / MANIFEST).is_file() and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{name} holds an ONNX export and no weights for torch: add --runtime onnx or onnx-int8 (in Python "
            "runtime='onnx'), or give the model that was exported"
        )


def refuse_missing_weights(name: str | Path, model: Any, loading: dict[str, Any]) -> None:
    """Refuse a loaded model if some of its weights were missing and are random.

    Args:
        name (`str` or `Path`): the name it was loaded from.
        model, loading (`dict`): results of `from_pretrained(..., output_loading_info=True)`.

    Raises:
        ValueError: if weights are missing, naming one.
    """
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"{name} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}")
