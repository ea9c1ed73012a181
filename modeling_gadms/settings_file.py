"""Settings that people write: YAML files with sections, overrides from the command line, checks with clear errors."""

import re
from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml


class _Loader(yaml.SafeLoader):
    """Reads `1e-4` as the number and `no` as the word that people mean; YAML 1.1 takes them the other way round."""


_BOOLEAN, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def read_settings(path: str | Path, content: str) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Args:
        path (`str` or `Path`): the file.
        content (`str`): what it must hold, for the error.

    Raises:
        ValueError: for a file that is not YAML or no mapping.
        OSError: if the file cannot be read.
    """
    settings = _parse(Path(path).read_text(encoding="utf-8"), str(path))
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold {content}; it holds {settings!r}")
    return settings


def _parse(text: str, place: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{place} is not valid YAML: {' '.join(str(error).split())}") from error


def apply_overrides(settings: dict[str, Any], overrides: Sequence[str], example: str) -> None:
    """Set values in sections, from `section.key=value` with the value in YAML.

    Raises:
        ValueError: for an override of another form, naming it.
    """
    for override in overrides:
        path, separator, value = override.partition("=")
        keys = path.split(".")
        if not separator or len(keys) < 2 or not all(keys):
            raise ValueError(f"override `{override}` must read section.key=value, as {example}")
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


def check_types(values: dict[str, Any], record: type, place: str) -> None:
    """Refuse values that cannot be what the fields of a dataclass ask for.

    Raises:
        ValueError: naming the field, its value and the place.
    """
    hints = {field.name: field.type for field in fields(record)}
    for key, value in values.items():
        if key in hints and not _fits(value, hints[key]):
            wanted = str(getattr(hints[key], "__name__", hints[key])).replace("NoneType", "None")
            raise ValueError(f"`{key}` in {place} is {value!r}, which is no {wanted}")


def field_names(record: type) -> set[str]:
    """What the constructor of a dataclass takes."""
    return {field.name for field in fields(record) if field.init}
