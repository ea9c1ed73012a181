"""A training run as one YAML file: sections `model`, `data` and `training`, with overrides from the command line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from .configuration_gadms import GADMSConfig, check_keys
from .data import DatasetColumns
from .trainer import GADMSTrainingArguments


@dataclass(frozen=True)
class ModelArguments:
    """Section `model`. Every key that is not listed here is a field of [`GADMSConfig`].

    Args:
        from_pretrained (`str`, *optional*): GA-DMS folder or Hub id to go on from.
        from_clip (`str`, *optional*): CLIP folder or Hub id to start from. Neither: random weights.
        image_size (`list[int]`, *optional*): (height, width) with `from_clip`; else it is in `vision_config`.
        vocab_size (`int`, *optional*, defaults to 2048):
            From random weights, the size of the byte-pair vocabulary learned from the training captions.
        config (`dict`, *optional*): fields of [`GADMSConfig`].
    """

    from_pretrained: str | None = None
    from_clip: str | None = None
    image_size: tuple[int, int] | None = None
    vocab_size: int = 2048
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataArguments:
    """Section `data`.

    Args:
        dataset (`str`): `synthetic_persons`, a folder written by `save_to_disk`, or anything `load_dataset` takes.
        dataset_args (`dict`, *optional*): passed to the builder (`data_dir`, `name`, fields of the synthetic set).
        train_split, validation_split (`str`, *optional*): names of the splits.
        image_column, caption_columns, person_id_column (*optional*): see [`DatasetColumns`].
        captions_per_image (`str`, *optional*, defaults to `"one"`): see [`ImageCaptionPairs`].
        augmentation (`bool`, *optional*, defaults to `True`): flip, crop and erase training images.
        crop_padding (`int`, *optional*, defaults to 10): pixels of padding before the random crop.
        cache_images (`bool`, *optional*, defaults to `False`): keep all resized images in memory.
    """

    dataset: str
    dataset_args: dict[str, Any] = field(default_factory=dict)
    train_split: str = "train"
    validation_split: str | None = "validation"
    image_column: str = "image"
    caption_columns: tuple[str, ...] = ("caption1", "caption2")
    person_id_column: str | None = None
    captions_per_image: str = "one"
    augmentation: bool = True
    crop_padding: int = 10
    cache_images: bool = False

    @property
    def columns(self) -> DatasetColumns:
        """The same as a [`DatasetColumns`]."""
        return DatasetColumns(self.image_column, self.caption_columns, self.person_id_column)


@dataclass(frozen=True)
class RunConfig:
    """A whole run."""

    model: ModelArguments
    data: DataArguments
    training: GADMSTrainingArguments


class _Loader(yaml.SafeLoader):
    """Reads `1e-4` as the number and `no` as the word that people mean; YAML 1.1 takes them the other way round."""


_BOOLEAN, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def _parse(text: str, place: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{place} is not valid YAML: {' '.join(str(error).split())}") from error


def _apply_overrides(settings: dict[str, Any], overrides: Sequence[str]) -> None:
    for override in overrides:
        path, separator, value = override.partition("=")
        keys = path.split(".")
        if not separator or len(keys) < 2 or not all(keys):
            raise ValueError(f"override `{override}` must read section.key=value, as training.learning_rate=1e-4")
        section = settings
        for key in keys[:-1]:
            if section.get(key) is None:
                section[key] = {}
            section = section[key]
            if not isinstance(section, dict):
                raise ValueError(f"override `{override}`: `{key}` holds {section!r}, which has no keys")
        section[keys[-1]] = _parse(value, f"the value of override `{override}`")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML can be what an annotation asks for; lists and tuples are not told apart."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in choices)
    kind = origin or hint
    if kind is Literal:
        return value in choices
    if kind in (bool, type(None), str, dict):
        return isinstance(value, kind)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind in (list, tuple):
        return isinstance(value, list)
    # Enumerations check their names themselves; objects of another class cannot come from YAML.
    return not isinstance(kind, type) or issubclass(kind, Enum)


def _check_types(values: dict[str, Any], record: type, place: str) -> None:
    hints = {field.name: field.type for field in fields(record)}
    for key, value in values.items():
        if key in hints and not _fits(value, hints[key]):
            wanted = str(getattr(hints[key], "__name__", hints[key])).replace("NoneType", "None")
            raise ValueError(f"`{key}` in {place} is {value!r}, which is no {wanted}")


def _field_names(record: type) -> set[str]:
    return {field.name for field in fields(record) if field.init}


def load_run_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run from YAML.

    Args:
        path (`str` or `Path`): file with the sections `model`, `data` and `training`.
        overrides (`Sequence[str]`, *optional*):
            `section.key=value`, the value in YAML; as `model.token_score=random` or `data.dataset_args.seed=1`.

    Returns:
        [`RunConfig`]

    Raises:
        ValueError: for a file that is no mapping, an unknown key, a value of the wrong type or a malformed override,
            naming it.
        OSError: if the file cannot be read.
    """
    settings = _parse(Path(path).read_text(encoding="utf-8"), str(path))
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold the sections model, data and training; it holds {settings!r}")
    _apply_overrides(settings, overrides)
    check_keys(settings, ("model", "data", "training"), str(path))
    sections = {name: settings.get(name) or {} for name in ("model", "data", "training")}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ValueError(f"section `{name}` of {path} must hold keys and values; it holds {section!r}")

    own_keys = _field_names(ModelArguments) - {"config"}
    config_keys = _field_names(GADMSConfig)
    check_keys(sections["model"], own_keys | config_keys, f"section `model` of {path}")
    check_keys(sections["data"], _field_names(DataArguments), f"section `data` of {path}")
    check_keys(sections["training"], _field_names(GADMSTrainingArguments), f"section `training` of {path}")
    for name, record in (
        ("model", ModelArguments),
        ("model", GADMSConfig),
        ("data", DataArguments),
        ("training", GADMSTrainingArguments),
    ):
        _check_types(sections[name], record, f"section `{name}` of {path}")
    if "dataset" not in sections["data"]:
        raise ValueError(f"section `data` of {path} names no `dataset`")
    return RunConfig(
        model=ModelArguments(
            **{key: value for key, value in sections["model"].items() if key in own_keys},
            config={key: value for key, value in sections["model"].items() if key not in own_keys},
        ),
        data=DataArguments(**sections["data"]),
        training=GADMSTrainingArguments(**sections["training"]),
    )
