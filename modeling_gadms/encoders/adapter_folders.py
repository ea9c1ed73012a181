"""Read the folder of a LoRA adapter, check that it fits its base model, and merge it into that model's weights."""

import json
from copy import copy
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import cached_file

from ..modeling_gadms import GADMSForPreTraining, GADMSModel
from .atomic_files import file_digest


ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
RUN_RECORD = "run.json"
"""Run record: a file beside the weights with the settings of their training and, for an adapter, its base model."""
# Files downloaded for an adapter and its processor: no pickles and no code.
_DOWNLOADED = ["*.json", "*.txt", ADAPTER_WEIGHTS]
# Fields of peft's configuration that this module supports. Any other field could change what the weights mean.
_KNOWN_FIELDS = frozenset(
    "auto_mapping base_model_name_or_path inference_mode lora_alpha lora_dropout modules_to_save peft_type "
    "peft_version r revision target_modules task_type use_dora use_rslora".split()
)


def require_peft() -> Any:
    """Import peft, an optional dependency.

    Raises:
        ImportError: if it is not installed, with the command that installs it.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("adapters need the library peft: pip install 'gadms[lora]'") from error
    return peft


@dataclass(frozen=True)
class BaseModel:
    """The model that an adapter was trained on.

    Attributes:
        name (`str`): absolute folder, or Hub id.
        revision (`str`, *optional*): commit of a Hub id.
    """

    name: str
    revision: str | None = None

    @property
    def revision_argument(self) -> dict[str, str]:
        """Keyword arguments for `from_pretrained`."""
        return {} if self.revision is None else {"revision": self.revision}

    @cached_property
    def weight_files(self) -> list[Path]:
        """Weight files, downloaded if needed.

        Raises:
            OSError: if the model does not exist, or has no weights in safetensors.
        """
        folder = Path(self.name)
        if not folder.is_dir():
            try:
                folder = Path(snapshot_download(self.name, revision=self.revision, allow_patterns="*.safetensors"))
            except (HFValidationError, OSError) as error:
                raise FileNotFoundError(
                    f"there is no model {self.name}, neither a folder nor on the Hub: {error}"
                ) from error
        files = sorted(file for file in folder.glob("*.safetensors") if file.name != ADAPTER_WEIGHTS)
        if not files:
            raise FileNotFoundError(f"{self.name} has no weights (*.safetensors)")
        return files

    @cached_property
    def weights_sha256(self) -> dict[str, str]:
        """SHA-256 of each weight file. Reads all of them."""
        return {file.name: file_digest(file) for file in self.weight_files}

    @property
    def file_stats(self) -> dict[str, list[int]]:
        """Size in bytes and time of modification in nanoseconds of each weight file."""
        return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in self.weight_files}

    def to_record(self) -> dict[str, Any]:
        """Return the run record's entry for the base."""
        return {
            "name": self.name,
            "revision": self.revision,
            "weights_sha256": self.weights_sha256,
            "file_stats": self.file_stats,
        }

    def is_unchanged_since(self, record: dict[str, Any] | None) -> bool:
        """Return whether the weights are those of an earlier [`to_record`], or there is no record.

        Training hashes the base once. Loading an adapter avoids that where it can: a commit of the Hub names its
        content, and a file with the same size and time of modification has not been written since. Only a base that
        was copied, or downloaded without a commit, is hashed again.
        """
        file_stats = self.file_stats  # also checks that the base exists
        if record is None or record.get("file_stats") == file_stats:
            return True
        if self.revision is not None and self.revision == record.get("revision"):
            return True
        return record.get("weights_sha256") == self.weights_sha256


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, read by [`read_adapter`].

    Attributes:
        folder (`Path`)
        base ([`BaseModel`]): the model that the adapter was trained on.
        config (`peft.LoraConfig`): method, rank, scale and layers.
        weights (`dict[str, torch.Tensor]`):
            Weights of the adapted layers by their names in a [`GADMSModel`], and of modules saved whole, such as the
            identity classifier, by their names in [`GADMSForPreTraining`].
    """

    folder: Path
    base: BaseModel
    config: Any
    weights: dict[str, torch.Tensor]

    @property
    def layers(self) -> list[str]:
        """Names of the adapted layers of the encoders."""
        return sorted(
            name.partition(".lora_A.")[0] for name in self.weights if _in_encoder(name) and ".lora_A." in name
        )

    @property
    def whole_modules(self) -> list[str]:
        """Names of the modules that were saved whole. Retrieval needs none of them."""
        return sorted({name.partition(".")[0] for name in self.weights if not _in_encoder(name)})

    def merge_into(self, model: GADMSModel | GADMSForPreTraining) -> None:
        """Add the adapter to the base's weights in place; no trace of peft remains in the model.

        Args:
            model ([`GADMSModel`] or [`GADMSForPreTraining`]):
                The base, in float32: a sum in half precision would lose small changes. Modules that were saved whole
                are taken over only by the latter.

        Raises:
            ValueError: if configuration, weights and base do not fit each other, or a weight is not finite.
        """
        peft = require_peft()
        prefix, config, names = "base_model.model.", copy(self.config), list(self.weights)
        if isinstance(model, GADMSForPreTraining):
            config.modules_to_save = self.whole_modules or None
            weights = {f"{prefix}{'gadms.' * _in_encoder(name)}{name}": self.weights[name] for name in names}
        else:
            config.modules_to_save = None
            weights = {f"{prefix}{name}": self.weights[name] for name in names if _in_encoder(name)}
        try:
            # A configuration can claim any rank: nothing is allocated before it is checked.
            with torch.device("meta"):
                wrapped = peft.get_peft_model(model, config, low_cpu_mem_usage=True)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.folder / ADAPTER_CONFIG} does not fit the base {self.base.name}: {error}"
            ) from error
        self._check_weights(weights, peft.get_peft_model_state_dict(wrapped))
        peft.set_peft_model_state_dict(wrapped, weights, low_cpu_mem_usage=True)
        wrapped.merge_and_unload()
        if hasattr(model, "peft_config"):
            del model.peft_config

    def _check_weights(self, weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
        file = self.folder / ADAPTER_WEIGHTS
        for key in sorted(weights.keys() | expected.keys()):
            name = key.removeprefix("base_model.model.")
            if key not in weights:
                problem = f"{name} is missing"
            elif key not in expected:
                problem = f"{name} belongs to no adapted layer"
            elif weights[key].shape != expected[key].shape:
                problem = f"{name} has shape {tuple(weights[key].shape)}, not {tuple(expected[key].shape)}"
            elif not weights[key].isfinite().all():
                raise ValueError(f"{file} is damaged: {name} has values that are not finite")
            else:
                continue
            raise ValueError(
                f"{file} does not fit {ADAPTER_CONFIG} and the base {self.base.name}: {problem}; the adapter was "
                "trained on another model, or one of the files has changed"
            )


def _in_encoder(name: str) -> bool:
    return name.startswith(("text_model.", "vision_model."))


def find_adapter(name: str | Path) -> Adapter | None:
    """Read a folder or a Hub repository if it contains an adapter.

    Args:
        name (`str` or `Path`): folder or Hub id.

    Returns:
        [`Adapter`], or `None` for anything else, such as a whole model or a name that does not exist.

    Raises:
        ValueError, OSError: see [`read_adapter`].
    """
    if Path(name).is_dir():
        is_adapter = any(Path(name, file).is_file() for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
        return read_adapter(Path(name)) if is_adapter else None
    errors = ("gated_repo", "missing_entries", "connection_errors")
    optional: dict[str, Any] = {f"_raise_exceptions_for_{error}": False for error in errors}
    try:
        config = cached_file(str(name), ADAPTER_CONFIG, **optional)
    except OSError:  # loading the model reports what is wrong with the name
        return None
    if config is None:
        return None
    commit = Path(config).parent.name
    return read_adapter(Path(snapshot_download(str(name), revision=commit, allow_patterns=_DOWNLOADED)))


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter and find its base model.

    Args:
        folder (`Path`): with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if a file is damaged, the adapter is not LoRA or DoRA, its weights are a pickle, or its base has
            other weights than at training.
        OSError: if a file or the base is missing.
    """
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / file).is_file():
            if file == ADAPTER_WEIGHTS and (folder / "adapter_model.bin").is_file():
                raise ValueError(
                    f"{folder} holds its weights as a pickle (adapter_model.bin), which can run code when it is read; "
                    "save the adapter as safetensors where you trust it"
                )
            raise FileNotFoundError(f"{folder} is no whole adapter: it has no {file}")
    config = _read_config(folder)
    try:
        weights = load_file(folder / ADAPTER_WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / ADAPTER_WEIGHTS} is damaged: {error}") from error
    weights = {key.removeprefix("base_model.model.").removeprefix("gadms."): value for key, value in weights.items()}
    adapter = Adapter(folder, _find_base(folder, config), config, weights)
    if not adapter.layers:
        raise ValueError(f"{folder / ADAPTER_WEIGHTS} adapts no layer of an encoder")
    return adapter


def _read_config(folder: Path) -> Any:
    peft = require_peft()
    file = folder / ADAPTER_CONFIG
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no configuration of an adapter: {error}") from error
    if not isinstance(config, peft.LoraConfig):
        raise ValueError(f"{folder} holds an adapter of type {config.peft_type}; only LORA (with DoRA) can be merged")
    defaults = peft.LoraConfig()
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in _KNOWN_FIELDS and value != getattr(defaults, field.name):
            raise ValueError(f"{file}: `{field.name}` = {value!r} is not supported")
    if not config.base_model_name_or_path:
        raise ValueError(f"{file} names no base_model_name_or_path, the model that the adapter was trained on")
    config.inference_mode = True
    return config


def _find_base(folder: Path, config: Any) -> BaseModel:
    record = folder / RUN_RECORD
    try:
        trained_on = json.loads(record.read_text(encoding="utf-8")).get("base_model") if record.is_file() else None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{record} is no run record: {error}") from error
    base = BaseModel(config.base_model_name_or_path, config.revision)
    try:
        is_unchanged = base.is_unchanged_since(trained_on)
    except OSError as error:
        raise FileNotFoundError(
            f"the base of the adapter {folder} is missing: {error}. Put it back, or write its new place into "
            f"{folder / ADAPTER_CONFIG} as base_model_name_or_path"
        ) from error
    if not is_unchanged:
        raise ValueError(
            f"{base.name} has other weights than when the adapter {folder} was trained on it: restore them, or train "
            "again"
        )
    return base
