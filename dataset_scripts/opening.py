"""Open a data set by name: one of ours, a folder on disk, or whatever `load_dataset` knows."""

from pathlib import Path
from typing import Any

import datasets


def open_dataset(name: str, **builder_arguments: Any) -> datasets.DatasetDict:
    """All splits of a data set of persons.

    Args:
        name (`str`): `synthetic_persons`, a folder written by `save_to_disk`, or anything `load_dataset` takes
            (a Hub id, a folder of Parquet files, `imagefolder`, ...).
        builder_arguments: fields of the synthetic set, or arguments of `load_dataset`.

    Returns:
        [`~datasets.DatasetDict`]

    Raises:
        ValueError: for an argument that is unknown or of the wrong type, or given for a folder that takes none.
        FileNotFoundError: if nothing of that name is found.
    """
    if name == "synthetic_persons":
        from .synthetic_persons import load_synthetic_persons  # drawing is not loaded for anybody else's data

        try:
            return load_synthetic_persons(**builder_arguments)
        except TypeError as error:  # from here on the arguments are values that a person wrote
            raise ValueError(str(error)) from error
    if (Path(name) / "dataset_dict.json").is_file() or (Path(name) / "state.json").is_file():
        if builder_arguments:
            raise ValueError(f"{name} was written by save_to_disk and takes no arguments, such as {builder_arguments}")
        saved = datasets.load_from_disk(name)
        return saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict(train=saved)
    return datasets.load_dataset(name, **builder_arguments)
