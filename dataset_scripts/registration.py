"""Register our data sets under bare names: `datasets.load_dataset("webperson")`.

`datasets` no longer runs loading scripts and has no public way to register a builder. It resolves every name through
one private function, `datasets.load.dataset_module_factory`. `register` wraps this function and changes nothing else.
Names that are not registered are passed on unchanged.
"""

import functools
import inspect
import warnings
from dataclasses import fields
from typing import Any

import datasets
import datasets.inspect
import datasets.load


BUILDERS = {
    name: f"{__package__}.{name}"
    for name in ("webperson", "cuhk_pedes", "icfg_pedes", "rstpreid", "synthetic_garments", "synthetic_persons")
}
"""Registered names and the modules of their builders."""
TESTED = "4.7.0 and 5.2.0"
"""Versions of `datasets` that the tests ran with."""


def register_builders() -> None:
    """Register all `BUILDERS`, or warn that this version of `datasets` is incompatible."""
    try:
        for name, module in BUILDERS.items():
            register(name, module)
    except ImportError as error:
        warnings.warn(str(error), stacklevel=2)


def register(name: str, module: str) -> None:
    """Register a builder for `load_dataset`, `load_dataset_builder`, `get_dataset_config_names` and the like.

    The bare name always means the builder, even if the working directory contains a folder of this name. Write
    `./webperson` for the folder. Arguments of `load_dataset`:

    - `data_dir` is passed to the builder.
    - `revision` is passed to the builder if its configuration has this field, and refused otherwise.
    - `data_files` is refused, because these builders find their files themselves.

    Args:
        name (`str`): the bare name. Registering it again for the same module has no effect.
        module (`str`): an importable module with a builder class. It is imported when the name is first loaded.

    Raises:
        ValueError: if the name contains a slash, or is registered for another module.
        ImportError: if this version of `datasets` resolves names in an unknown way.
    """
    if "/" in name:
        raise ValueError(f"{name!r} cannot be registered: names with a slash belong to the Hub and to folders")
    original: Any = getattr(datasets.load, "dataset_module_factory", None)
    modules: dict[str, str] | None = getattr(original, "registered_modules", None)
    if modules is None:
        if not _is_compatible(original):
            raise ImportError(
                f"datasets {datasets.__version__} resolves names in another way than the tested versions ({TESTED}): "
                f"load_dataset({name!r}) does not work. Install a tested version, or use the builder class in {module}"
                ": call its `download_and_prepare()` and `as_dataset()`"
            )
        modules = {}
        datasets.load.dataset_module_factory = datasets.inspect.dataset_module_factory = _wrap(original, modules)
    if modules.setdefault(name, module) != module:
        raise ValueError(f"{name!r} is registered for {modules[name]} and cannot be registered for {module}")


def _is_compatible(factory: Any) -> bool:
    try:
        return (
            {"path", "revision", "data_dir", "data_files"} <= inspect.signature(factory).parameters.keys()
            and datasets.inspect.dataset_module_factory is factory
            and list(inspect.signature(datasets.load.DatasetModule).parameters)[:3]
            == ["module_path", "hash", "builder_kwargs"]
            and callable(datasets.load.import_main_class)
        )
    except (AttributeError, TypeError, ValueError):  # one of them does not exist or is something else
        return False


def _wrap(original: Any, modules: dict[str, str]) -> Any:
    """Wrap `dataset_module_factory` so that it knows `modules`, the modules of builders by name."""

    @functools.wraps(original)
    def find_module(path: str, *args: Any, **kwargs: Any) -> datasets.load.DatasetModule:
        if path not in modules:
            return original(path, *args, **kwargs)
        given = inspect.signature(original).bind(path, *args, **kwargs).arguments
        if (data_files := given.get("data_files")) is not None:
            raise ValueError(f"{path} finds its files itself: use `data_dir` instead of data_files={data_files!r}")
        builder_kwargs: dict[str, Any] = {"dataset_name": path}
        if (revision := given.get("revision")) is not None:
            builder = datasets.load.import_main_class(modules[path])
            if "revision" not in {field.name for field in fields(builder.BUILDER_CONFIG_CLASS)}:
                raise ValueError(f"{path} is read from files on disk and has no revisions, got {revision!r}")
            builder_kwargs["revision"] = str(revision)
        # An empty hash gives the same cache folder as a builder made without `load_dataset`. The version of the
        # configuration is part of the folder's name and changes with the rows.
        return datasets.load.DatasetModule(modules[path], "", builder_kwargs)

    find_module.registered_modules = modules  # type: ignore[attr-defined]
    return find_module
