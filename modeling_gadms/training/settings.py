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
    """Reads `1e-4` as the number and `no` as the word that people mean; YAML 1.1 takes them the other way round.

    A key that is given twice is an error: of two values one would be lost without a word.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key `{key.value}` is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node


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
        ValueError: for a file that is not YAML in UTF-8, or no mapping from names.
        OSError: if the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    settings = _parse(text, str(path))
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold {content}; it holds {settings!r}")
    for values in (settings, *settings.values()):
        for key in values if isinstance(values, dict) else ():
            if not isinstance(key, str):
                raise ValueError(f"{path} has the key {key!r}, which is no name: put quotes around it if it is one")
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
        is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        return is_number and value == value  # not NaN, which no comparison with a limit would stop
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
            raise ValueError(f"`{key}` in {place} is {value!r}, which is no {_name_of(hints[key])}")


def _name_of(hint: Any) -> str:
    """An annotation as the end of a sentence, as `float`, `str | None`, `local | ray`."""
    if get_origin(hint) in (Union, UnionType, Literal):
        choices = get_args(hint)
        return " | ".join(choice if isinstance(choice, str) else _name_of(choice) for choice in choices)
    return str(getattr(hint, "__name__", hint)).replace("NoneType", "None")


def field_names(record: type) -> set[str]:
    """What the constructor of a dataclass takes."""
    return {field.name for field in fields(record) if field.init}
