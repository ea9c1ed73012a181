"""Our data sets by bare name: `datasets.load_dataset("webperson")`.

`datasets` runs no loading scripts and has no public way to add a name. What it loads by name goes through one function
of its own, `datasets.load.dataset_module_factory`, which `register` wraps. Nothing else of it is touched, and every
name that was not registered goes the way it always went.
"""

import functools
import inspect
from dataclasses import fields
from typing import Any

import datasets
import datasets.inspect
import datasets.load


TESTED = "4.7.0 and 5.2.0"
"""The versions of `datasets` that the tests were run with."""


def register(name: str, module: str) -> None:
    """Let `load_dataset`, `load_dataset_builder` and `get_dataset_config_names` know a builder by name.

    The bare name always means the builder, even where the working directory has a folder of that name: `./webperson`
    is that folder. Nothing is looked for in the working directory. Of what `load_dataset` takes, `data_dir` reaches
    the builder as it is; `revision` does where the builder's configuration has such a field, and is refused
    otherwise; `data_files` is refused, as these builders find their files themselves.

    Args:
        name (`str`): the bare name. To register it again for the same module changes nothing.
        module (`str`): an importable module with a builder class. It is imported when the name is first loaded.

    Raises:
        ValueError: if the name holds a slash, or is taken by another module.
        RuntimeError: if this version of `datasets` has no such function, or another than the one known.
    """
    if "/" in name:
        raise ValueError(f"{name!r} cannot be registered: names with a slash are those of the Hub and of folders")
    original: Any = getattr(datasets.load, "dataset_module_factory", None)
    modules: dict[str, str] | None = getattr(original, "registered_modules", None)
    if modules is None:
        try:
            fits = (
                {"path", "revision", "data_dir", "data_files"} <= inspect.signature(original).parameters.keys()
                and datasets.inspect.dataset_module_factory is original
                and list(inspect.signature(datasets.load.DatasetModule).parameters)[:3]
                == ["module_path", "hash", "builder_kwargs"]
                and callable(datasets.load.import_main_class)
            )
        except (AttributeError, TypeError, ValueError):  # one of them does not exist, or is something else
            fits = False
        if not fits:
            raise RuntimeError(
                f"datasets {datasets.__version__} finds data sets in another way than the versions this was tested "
                f"with ({TESTED}), so {name!r} cannot be loaded by its bare name. Install one of those, or use the "
                f"builder in {module}: make it, `.download_and_prepare()`, `.as_dataset()`"
            )
        modules = {}

        @functools.wraps(original)
        def find_module(path: str, *args: Any, **kwargs: Any) -> datasets.load.DatasetModule:
            if path not in modules:
                return original(path, *args, **kwargs)
            given = inspect.signature(original).bind(path, *args, **kwargs).arguments
            if (data_files := given.get("data_files")) is not None:
                raise ValueError(f"{path} finds its files itself: give `data_dir`, not data_files={data_files!r}")
            builder_kwargs: dict[str, Any] = {"dataset_name": path}
            if (revision := given.get("revision")) is not None:
                builder = datasets.load.import_main_class(modules[path])
                if "revision" not in {field.name for field in fields(builder.BUILDER_CONFIG_CLASS)}:
                    raise ValueError(f"{path} is read from files on disk and has no revisions; got {revision!r}")
                builder_kwargs["revision"] = str(revision)
            # Without a hash the cache is the one that the builder uses when it is made by hand; the configuration's
            # version, which is part of its name, tells changed rows apart.
            return datasets.load.DatasetModule(modules[path], "", builder_kwargs)

        find_module.registered_modules = modules  # type: ignore[attr-defined]
        datasets.load.dataset_module_factory = datasets.inspect.dataset_module_factory = find_module
    if modules.setdefault(name, module) != module:
        raise ValueError(f"{name!r} is registered for {modules[name]} and cannot be registered for {module}")
