"""Load a data set by name: one of ours, a folder on disk, or anything that `datasets.load_dataset` takes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import yaml

from .registration import BUILDERS, register


Split = TypeVar("Split")

BENCHMARKS = {"cuhk_pedes": "CUHK-PEDES", "icfg_pedes": "ICFG-PEDES", "rstpreid": "RSTPReid"}
"""Names of the benchmarks' builders, and of their folders in a data root."""
WEBPERSON_COLUMNS = ("image", "image_path", "caption1", "caption2")
"""Columns of WebPerson as published."""


def find_benchmarks(root: Path) -> dict[str, Path]:
    """Find the benchmarks in a data root.

    Args:
        root (`Path`): a folder with one or more of the folders `CUHK-PEDES`, `ICFG-PEDES` and `RSTPReid`.

    Returns:
        `dict[str, Path]`: their folders by the names of their builders.

    Raises:
        FileNotFoundError: if there are none.
    """
    found = {name: root / folder for name, folder in BENCHMARKS.items() if (root / folder).is_dir()}
    if not found:
        raise FileNotFoundError(f"{root} holds none of the folders {', '.join(BENCHMARKS.values())}")
    return found


def dataset_arguments(texts: Iterable[str]) -> dict[str, Any]:
    """Parse the values of `--dataset-args` into arguments of [`load_splits`].

    >>> dataset_arguments(["seed=1", "data_dir=data/CUHK-PEDES", "check_counts=false"])
    {'seed': 1, 'data_dir': 'data/CUHK-PEDES', 'check_counts': False}

    Raises:
        ValueError: if a text is not `KEY=VALUE` with a value in YAML.
    """
    arguments = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not (key and separator):
            raise ValueError(f"--dataset-args {text!r} must read KEY=VALUE, such as seed=1")
        try:
            arguments[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--dataset-args {text!r}: the value is not valid YAML: {error}") from error
    return arguments


def load_splits(dataset: str, /, **builder_arguments: Any) -> datasets.DatasetDict:
    """Load all splits of a data set.

    Args:
        dataset (`str`): `synthetic_persons`, a folder written by `save_to_disk`, or anything that `load_dataset` takes
            (`webperson`, `cuhk_pedes`, `icfg_pedes`, `rstpreid`, a Hub id, a folder of Parquet files, ...).
        builder_arguments: fields of the configuration of `synthetic_persons`, or arguments of `load_dataset`.

    Returns:
        [`~datasets.DatasetDict`]

    Raises:
        ValueError: if an argument is unknown or has a wrong value, or the folder takes no arguments.
        FileNotFoundError: if the data set is not found.
        ImportError: for a name of ours, if this version of `datasets` is incompatible.
    """
    if dataset == "synthetic_persons":
        from .synthetic_persons import load_synthetic_persons  # the drawing code is only imported if it is used

        return load_synthetic_persons(**builder_arguments)
    if _is_saved(dataset):
        if builder_arguments:
            raise ValueError(
                f"{dataset} was written by save_to_disk and takes no arguments, such as {builder_arguments}"
            )
        saved = datasets.load_from_disk(dataset)
        return saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict(train=saved)
    _check_registered(dataset)
    return datasets.load_dataset(dataset, **builder_arguments)


def choose_split(dataset: str, splits: Mapping[Any, Split], split: str) -> Split:
    """Return one split of a data set.

    Args:
        dataset (`str`): name of the data set, for the error message.
        splits (`Mapping`): anything that maps names of splits to splits.
        split (`str`): name of the split.

    Raises:
        ValueError: if there is no such split. The message lists the existing ones.
    """
    if split not in splits:
        raise ValueError(f"{dataset} has no split `{split}`; it has {', '.join(map(str, splits))}")
    return splits[split]


def load_split(dataset: str, split: str, /, **builder_arguments: Any) -> datasets.Dataset:
    """Load one split of a data set. Arguments and errors are those of [`load_splits`] and [`choose_split`]."""
    return choose_split(dataset, load_splits(dataset, **builder_arguments), split)


def load_chosen_splits(
    dataset: str, splits: Sequence[str], /, **builder_arguments: Any
) -> dict[str, datasets.Dataset]:
    """Load some splits of a data set at once. Arguments and errors are those of [`load_split`]."""
    loaded = load_splits(dataset, **builder_arguments)
    return {split: choose_split(dataset, loaded, split) for split in splits}


def parquet_files(dataset: str, split: str, /, **builder_arguments: Any) -> list[str]:
    """List the Parquet files of a split, for streaming. Downloads none of them.

    Args:
        dataset (`str`): a data set of Parquet files that `load_dataset` takes.
        split (`str`): name of the split.
        builder_arguments: arguments of `load_dataset_builder`.

    Returns:
        `list[str]`: paths or URLs.

    Raises:
        ValueError: if the data set is not made of Parquet files, or has no such split.
        FileNotFoundError: if the data set is not found.
        ImportError: for a name of ours, if this version of `datasets` is incompatible.
    """
    advice = "load it without streaming, or write it with `Dataset.to_parquet` first"
    if dataset == "synthetic_persons" or _is_saved(dataset):
        raise ValueError(f"{dataset} is not made of Parquet files, which streaming needs: {advice}")
    _check_registered(dataset)
    builder = datasets.load_dataset_builder(dataset, **builder_arguments)
    files = builder.config.data_files or {}
    chosen = [str(file) for file in choose_split(dataset, files, split)] if files else []
    other = next((file for file in chosen if not file.endswith(".parquet")), None)
    if other or not chosen:
        raise ValueError(
            f"{dataset} is not made of Parquet files, which streaming needs ({other or 'none found'}): {advice}"
        )
    return chosen


def load_parquet_splits(
    dataset: str, splits: Sequence[str], /, **builder_arguments: Any
) -> dict[str, datasets.Dataset]:
    """Load some splits of a data set of Parquet files without downloading the others.

    Args, Raises: see [`parquet_files`].
    """
    files = {split: parquet_files(dataset, split, **builder_arguments) for split in splits}
    return {
        split: datasets.load_dataset("parquet", data_files={split: names}, split=split)
        for split, names in files.items()
    }


def _is_saved(dataset: str) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return any((Path(dataset) / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _check_registered(dataset: str) -> None:
    """Raises ImportError: if it is a name of ours that could not be registered. `load_dataset` would not find it."""
    if dataset in BUILDERS:
        register(dataset, BUILDERS[dataset])
