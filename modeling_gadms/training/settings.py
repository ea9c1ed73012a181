"""Read settings from YAML files with command-line overrides, and check them with clear errors."""

import re
from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml


class _Loader(yaml.SafeLoader):
    """YAML loader that reads `1e-4` as a number and `no` as a string, unlike YAML 1.1, and refuses duplicate keys."""

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
        content (`str`): description of the expected keys, for the error message.

    Raises:
        ValueError: if the file is not YAML in UTF-8, or not a mapping from names.
        OSError: if the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error
    settings = _parse(text, str(path))
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must contain {content}; it contains {settings!r}")
    for values in (settings, *settings.values()):
        for key in values if isinstance(values, dict) else ():
            if not isinstance(key, str):
                raise ValueError(f"{path} has the key {key!r}, which is not a string: put quotes around it")
    return settings


def _parse(text: str, place: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{place} is not valid YAML: {' '.join(str(error).split())}") from error


def apply_overrides(settings: dict[str, Any], overrides: Sequence[str], example: str) -> None:
    """Apply overrides of the form `section.key=value`, with the value in YAML, in place.

    Raises:
        ValueError: for an override of another form.
    """
    for override in overrides:
        path, separator, value = override.partition("=")
        keys = path.split(".")
        if not separator or len(keys) < 2 or not all(keys):
            raise ValueError(f"override `{override}` must have the form section.key=value, such as {example}")
        section = settings
        for key in keys[:-1]:
            if section.get(key) is None:
                section[key] = {}
            section = section[key]
            if not isinstance(section, dict):
                raise ValueError(f"override `{override}`: `{key}` is {section!r}, which has no keys")
        section[keys[-1]] = _parse(value, f"the value of override `{override}`")


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value from YAML fits a type annotation. A list also fits a tuple."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in _choices(hint))
    kind = origin or hint
    if kind is Any:
        return True
    if kind is Literal:
        return value in choices
    if kind in (bool, type(None), str, dict):
        return isinstance(value, kind)
    if kind in (int, float):
        is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        return is_number and value == value  # refuses NaN, which passes every comparison with a limit
    if kind in (list, tuple):
        if not isinstance(value, list):
            return False
        if kind is tuple and choices and choices[-1] is not Ellipsis:
            return len(value) == len(choices) and all(map(_fits, value, choices))
        return all(_fits(item, choices[0]) for item in value) if choices else True
    if _is_enumeration(kind):
        return isinstance(value, str) and value in [member.value for member in kind]
    return not isinstance(kind, type)  # YAML has no objects of other classes


def _is_enumeration(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union. Beside an enumeration, `str` stands for the names of its members."""
    choices = get_args(hint)
    return tuple(choice for choice in choices if choice is not str or not any(map(_is_enumeration, choices)))


def check_types(values: dict[str, Any], record: type, place: str) -> None:
    """Check values against the type annotations of a dataclass.

    Raises:
        ValueError: naming the field, its value and the place.
    """
    hints = {field.name: field.type for field in fields(record)}
    for key, value in values.items():
        if key in hints and not _fits(value, hints[key]):
            raise ValueError(f"`{key}` in {place} is {value!r}; it must be {_name_of(hints[key])}")


def _name_of(hint: Any) -> str:
    """Return an annotation as text, such as `float`, `str | None`, `local | ray` or `list of int`."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " | ".join(map(_name_of, _choices(hint)))
    if origin is Literal:
        return " | ".join(map(str, choices))
    if _is_enumeration(hint):
        return " | ".join(str(member.value) for member in hint)
    if origin is tuple and choices[-1] is not Ellipsis:
        return f"list of {len(choices)} values ({', '.join(map(_name_of, choices))})"
    if origin in (list, tuple):
        return f"list of {_name_of(choices[0])}"
    return str(getattr(hint, "__name__", hint)).replace("NoneType", "None")


def field_names(record: type) -> set[str]:
    """Return the arguments of a dataclass's constructor."""
    return {field.name for field in fields(record) if field.init}
