"""An adapter's folder: what it holds, the model it belongs to, and its weights into the weights of that model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.utils import cached_file

from ..modeling_gadms import GADMSModel
from .atomic_files import file_digest


ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
RUN_RECORD = "run.json"
"""Name of the file beside the weights that tells how they were trained: of an adapter also on which base."""
# Of an adapter and its processor: no pickles and no code.
_READ_FILES = ["*.json", "*.txt", ADAPTER_WEIGHTS]
# Of peft's configuration: what merging reads, and what is a note. Anything else would change what the weights mean.
_KNOWN_FIELDS = frozenset(
    {"r", "lora_alpha", "lora_dropout", "target_modules", "use_dora", "use_rslora", "modules_to_save"}
    | {"base_model_name_or_path", "revision", "peft_type", "peft_version", "task_type", "auto_mapping"}
    | {"inference_mode"}
)


def require_peft() -> Any:
    """The library of the adapters, which is optional.

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
    """The model that an adapter belongs to.

    Attributes:
        name (`str`): absolute folder, or Hub id.
        revision (`str`, *optional*): commit of a Hub id.
        weights_sha256 (`dict[str, str]`): digest of each of its weight files.
    """

    name: str
    revision: str | None
    weights_sha256: dict[str, str]

    @classmethod
    def of(cls, name: str, revision: str | None = None) -> "BaseModel":
        """Find a model and digest its weights.

        Raises:
            OSError: if it is not there, or has no weights in safetensors.
        """
        files = _weight_files(name, revision)
        return cls(name, revision, {file.name: file_digest(file) for file in files})

    @property
    def revision_argument(self) -> dict[str, str]:
        """For `from_pretrained`."""
        return {} if self.revision is None else {"revision": self.revision}


def _weight_files(name: str, revision: str | None) -> list[Path]:
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns="*.safetensors"))
        except (HFValidationError, OSError) as error:
            raise FileNotFoundError(f"there is no model {name}: neither a folder nor on the Hub ({error})") from error
    files = sorted(file for file in folder.glob("*.safetensors") if file.name != ADAPTER_WEIGHTS)
    if not files:
        raise FileNotFoundError(f"{name} has no weights (*.safetensors)")
    return files


@dataclass(frozen=True)
class Adapter:
    """What an adapter's folder holds. [`read_adapter`] makes it.

    Attributes:
        folder (`Path`): its place.
        base ([`BaseModel`]): what it belongs to, as it is found now.
        config (`peft.LoraConfig`): method, rank, scale and layers.
        encoder_weights (`dict[str, torch.Tensor]`): of the adapted layers, as peft names them on a [`GADMSModel`].
        whole_modules (`dict[str, dict[str, torch.Tensor]]`):
            Weights of modules that were trained and saved whole, such as the identity classifier, by their name in
            [`GADMSForPreTraining`]. Retrieval needs none of them.
    """

    folder: Path
    base: BaseModel
    config: Any
    encoder_weights: dict[str, torch.Tensor]
    whole_modules: dict[str, dict[str, torch.Tensor]]

    @property
    def layers(self) -> list[str]:
        """Names of the adapted layers in a [`GADMSModel`]."""
        return sorted(name.partition(".lora_A.")[0] for name in self.encoder_weights if ".lora_A." in name)

    def merge_into(self, model: GADMSModel) -> None:
        """Add what was learned to the weights of the base, in place; no trace of peft is left.

        Args:
            model ([`GADMSModel`]): the base, in float32: a sum in half precision would lose small changes.

        Raises:
            ValueError: if the model's layers are not those that were adapted, or a weight is not finite.
        """
        peft = require_peft()
        self._check_layers(model)
        wrapped = peft.get_peft_model(model, self.config)
        prefixed = {f"base_model.model.{name}": value for name, value in self.encoder_weights.items()}
        try:
            result = peft.set_peft_model_state_dict(wrapped, prefixed)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.folder}: {ADAPTER_WEIGHTS} and {ADAPTER_CONFIG} differ on a layer: {reason}"
            ) from error
        missing = sorted(name for name in result.missing_keys if ".lora_" in name)
        if missing or result.unexpected_keys:
            name = (missing or sorted(result.unexpected_keys))[0]
            raise ValueError(f"{self.folder}: {ADAPTER_WEIGHTS} and {ADAPTER_CONFIG} differ on the layer of {name}")
        wrapped.merge_and_unload()
        if hasattr(model, "peft_config"):
            del model.peft_config

    def _check_layers(self, model: GADMSModel) -> None:
        for name, value in self.encoder_weights.items():
            if not value.isfinite().all():
                raise ValueError(f"{self.folder / ADAPTER_WEIGHTS} is damaged: {name} has values that are not finite")
        for layer in self.layers:
            lora_a, lora_b = (self.encoder_weights.get(f"{layer}.{side}.weight") for side in ("lora_A", "lora_B"))
            if lora_a is None or lora_b is None or len(lora_a) != self.config.r or lora_b.shape[1] != self.config.r:
                raise ValueError(f"{self.folder}: {layer} in {ADAPTER_WEIGHTS} is not of rank {self.config.r}")
            try:
                module = model.get_submodule(layer)
            except AttributeError:
                module = None
            if not isinstance(module, nn.Linear):
                raise ValueError(f"{self.folder} adapts {layer}, which its base {self.base.name} does not have")
            needed, found = (lora_b.shape[0], lora_a.shape[1]), tuple(module.weight.shape)
            if needed != found:
                raise ValueError(
                    f"{self.folder} adapts {layer} of {needed[0]}x{needed[1]} weights, its base {self.base.name} has "
                    f"{found[0]}x{found[1]}: it was trained on another model"
                )


def find_adapter(name: str | Path) -> Adapter | None:
    """Read a folder or a Hub repository if it holds an adapter.

    Args:
        name (`str` or `Path`): folder or Hub id.

    Returns:
        [`Adapter`], or `None` for anything else, whole models and names of nothing among them.

    Raises:
        ValueError, OSError: as of [`read_adapter`].
    """
    if Path(name).is_dir():
        is_adapter = any(Path(name, file).is_file() for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
        return read_adapter(Path(name)) if is_adapter else None
    optional = {
        f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")
    }
    try:
        config = cached_file(str(name), ADAPTER_CONFIG, **optional)
    except OSError:  # who loads the model says what is wrong with the name
        return None
    if config is None:
        return None
    commit = Path(config).parent.name
    return read_adapter(Path(snapshot_download(str(name), revision=commit, allow_patterns=_READ_FILES)))


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter, and find its base.

    Args:
        folder (`Path`): with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if the files are damaged, the adapter is of another kind or comes as a pickle, or its base is not
            the one that it was trained on.
        OSError: if a file or the base is missing.
    """
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / file).is_file():
            if file == ADAPTER_WEIGHTS and (folder / "adapter_model.bin").is_file():
                raise ValueError(
                    f"{folder} holds its weights as a pickle (adapter_model.bin), which can run code when it is "
                    "read; save the adapter as safetensors where you trust it"
                )
            raise FileNotFoundError(f"{folder} is no whole adapter: it has no {file}")
    config = _read_config(folder)
    try:
        weights = load_file(folder / ADAPTER_WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / ADAPTER_WEIGHTS} is damaged: {error}") from error
    encoders, modules = _sort_weights(weights)
    adapter = Adapter(folder, _find_base(folder, config), config, encoders, modules)
    if not adapter.layers:
        raise ValueError(f"{folder / ADAPTER_WEIGHTS} adapts no layer of an encoder")
    return adapter


def _read_config(folder: Path) -> Any:
    """peft's configuration, for merging into a [`GADMSModel`]."""
    peft = require_peft()
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / ADAPTER_CONFIG} is no configuration of an adapter: {error}") from error
    if not isinstance(config, peft.LoraConfig):
        raise ValueError(f"{folder} holds an adapter of type {config.peft_type}; only LORA (with DoRA) can be merged")
    defaults = peft.LoraConfig()
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in _KNOWN_FIELDS and value != getattr(defaults, field.name):
            raise ValueError(f"{folder / ADAPTER_CONFIG}: `{field.name}` = {value!r} is not supported")
    if not config.base_model_name_or_path:
        raise ValueError(f"{folder / ADAPTER_CONFIG} names no base_model_name_or_path, the model it belongs to")
    if not isinstance(config.r, int) or config.r < 1:
        raise ValueError(f"{folder / ADAPTER_CONFIG}: the rank `r` = {config.r!r} must be a positive whole number")
    config.modules_to_save = None
    config.inference_mode = True
    return config


def _sort_weights(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, torch.Tensor]]]:
    """Weights of adapted encoder layers, and of whole modules by name."""
    encoders: dict[str, torch.Tensor] = {}
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in weights.items():
        name = key.removeprefix("base_model.model.").removeprefix("gadms.")
        head, _, rest = name.partition(".")
        if head in ("text_model", "vision_model"):
            encoders[name] = value
        else:
            modules.setdefault(head, {})[rest] = value
    return encoders, modules


def _find_base(folder: Path, config: Any) -> BaseModel:
    name, revision = config.base_model_name_or_path, config.revision
    try:
        base = BaseModel.of(name, revision)
    except OSError as error:
        raise FileNotFoundError(
            f"the base of the adapter {folder} is missing: {error}. Put it back, or write its new place into "
            f"{folder / ADAPTER_CONFIG} as base_model_name_or_path"
        ) from error
    trained_on = recorded_base(folder)
    if trained_on is not None and trained_on["weights_sha256"] != base.weights_sha256:
        raise ValueError(
            f"{name} has other weights than when the adapter {folder} was trained on it: restore them, or train again"
        )
    return base


def recorded_base(folder: Path) -> dict[str, Any] | None:
    """What the training of an adapter wrote down of its base, see [`BaseModel`]; `None` where it did not.

    Raises:
        ValueError: if the record is no JSON.
    """
    record = folder / RUN_RECORD
    if not record.is_file():
        return None
    try:
        base: dict[str, Any] | None = json.loads(record.read_text(encoding="utf-8")).get("base_model")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{record} is no record of a training: {error}") from error
    return base
