"""Open a data set by name: one of ours, a folder on disk, or whatever `load_dataset` knows."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import datasets
import yaml


Split = TypeVar("Split")

BENCHMARKS = {"cuhk_pedes": "CUHK-PEDES", "icfg_pedes": "ICFG-PEDES", "rstpreid": "RSTPReid"}
"""The benchmarks by the name of their builder, with that of their folder in a data root."""


def find_benchmarks(root: Path) -> dict[str, Path]:
    """The benchmarks that a data root holds, as those who train on them lay it out.

    Args:
        root (`Path`): a folder with `CUHK-PEDES`, `ICFG-PEDES` and `RSTPReid`, or some of them.

    Returns:
        `dict[str, Path]`: their folders by the names of their builders.

    Raises:
        FileNotFoundError: if it holds none.
    """
    found = {name: root / folder for name, folder in BENCHMARKS.items() if (root / folder).is_dir()}
    if not found:
        raise FileNotFoundError(f"{root} holds none of the folders {', '.join(BENCHMARKS.values())}")
    return found


def dataset_arguments(texts: Iterable[str]) -> dict[str, Any]:
    """Arguments of a data set as people type them, for [`open_dataset`].

    >>> dataset_arguments(["seed=1", "data_dir=data/CUHK-PEDES", "check_counts=false"])
    {'seed': 1, 'data_dir': 'data/CUHK-PEDES', 'check_counts': False}

    Raises:
        ValueError: for one that is no key and value, the value in YAML.
    """
    arguments = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not (key and separator):
            raise ValueError(f"--dataset-args {text!r} must read KEY=VALUE, as seed=1")
        try:
            arguments[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--dataset-args {text!r}: the value is not valid YAML: {error}") from error
    return arguments


def open_dataset(dataset: str, /, **builder_arguments: Any) -> datasets.DatasetDict:
    """All splits of a data set of persons.

    Args:
        dataset (`str`): `synthetic_persons`, a folder written by `save_to_disk`, or anything `load_dataset` takes
            (`webperson`, `cuhk_pedes`, `icfg_pedes`, `rstpreid`, a Hub id, a folder of Parquet files, ...).
        builder_arguments: fields of the synthetic set, or arguments of `load_dataset`.

    Returns:
        [`~datasets.DatasetDict`]

    Raises:
        ValueError: for an argument that is unknown or of the wrong type, or given for a folder that takes none.
        FileNotFoundError: if nothing of that name is found.
    """
    if dataset == "synthetic_persons":
        from .synthetic_persons import load_synthetic_persons  # drawing is not loaded for anybody else's data

        try:
            return load_synthetic_persons(**builder_arguments)
        except TypeError as error:  # from here on the arguments are values that a person wrote
            raise ValueError(str(error)) from error
    if _is_saved(dataset):
        if builder_arguments:
            raise ValueError(
                f"{dataset} was written by save_to_disk and takes no arguments, such as {builder_arguments}"
            )
        saved = datasets.load_from_disk(dataset)
        return saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict(train=saved)
    return datasets.load_dataset(dataset, **builder_arguments)


def _is_saved(dataset: str) -> bool:
    """Whether it is a folder that `save_to_disk` wrote."""
    return any((Path(dataset) / name).is_file() for name in ("dataset_dict.json", "state.json"))


def choose_split(dataset: str, splits: Mapping[Any, Split], split: str) -> Split:
    """One of the splits of a data set, whatever stands for them.

    Args:
        dataset (`str`): its name, for the error.
        splits (`Mapping`): by name.
        split (`str`): the name.

    Raises:
        ValueError: if there is no such split, naming those that there are.
    """
    if split not in splits:
        raise ValueError(f"{dataset} has no split `{split}`; it has {', '.join(map(str, splits))}")
    return splits[split]


def load_split(dataset: str, split: str, /, **builder_arguments: Any) -> datasets.Dataset:
    """Load one split of a data set. Arguments and errors are those of [`open_dataset`] and [`choose_split`]."""
    return choose_split(dataset, open_dataset(dataset, **builder_arguments), split)


def parquet_files(dataset: str, split: str, /, **builder_arguments: Any) -> list[str]:
    """The Parquet files of a split, to be streamed from; nothing of them is downloaded.

    Args:
        dataset (`str`): a data set that `load_dataset` takes and that is made of Parquet files.
        split (`str`): name of the split.
        builder_arguments: arguments of `load_dataset_builder`.

    Returns:
        `list[str]`: paths or URLs.

    Raises:
        ValueError: if the data set is not made of Parquet files or has no such split.
        FileNotFoundError: if nothing of that name is found.
    """
    advice = "load it without streaming, or write it with `Dataset.to_parquet` first"
    if dataset == "synthetic_persons" or _is_saved(dataset):
        raise ValueError(f"{dataset} is not made of Parquet files, which streaming reads; {advice}")
    builder = datasets.load_dataset_builder(dataset, **builder_arguments)
    files = builder.config.data_files or {}
    chosen = [str(file) for file in choose_split(dataset, files, split)] if files else []
    other = next((file for file in chosen if not file.endswith(".parquet")), None)
    if other or not chosen:
        raise ValueError(
            f"{dataset} is not made of Parquet files, which streaming reads ({other or 'none found'}); {advice}"
        )
    return chosen


def open_parquet_split(dataset: str, split: str, /, **builder_arguments: Any) -> datasets.Dataset:
    """One split of a data set that is made of Parquet files, without fetching the others.

    Args, Raises: as of [`parquet_files`].
    """
    files = parquet_files(dataset, split, **builder_arguments)
    return datasets.load_dataset("parquet", data_files={split: files}, split=split)
