"""Records of measurements as JSON, and their mean and standard deviation over several training seeds."""

import json
import platform
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
from transformers.utils import CONFIG_NAME, cached_file

from ..encoders.adapter_folders import ADAPTER_CONFIG, find_adapter
from ..encoders.atomic_files import file_digest
from ..encoders.onnx_model import RetrievalModel
from ..training.data import DatasetColumns
from ..training.run_config import RUN_RECORD
from .retrieval import RetrievalReport, metric_label


Record = dict[str, Any]
"""One measurement as JSON: see [`make_record`]."""
# Training settings that differ between runs of the same recipe.
_VARYING = ("seed", "data_seed", "output_dir", "logging_dir", "run_name")
# The first of these files that a Hub repository has shows where its files are cached.
_MODEL_CONFIGS = (ADAPTER_CONFIG, CONFIG_NAME)
# Arguments of a data set that do not change its rows.
_PREPARATION = ("cache_dir", "num_proc")


def make_record(
    report: RetrievalReport,
    model: RetrievalModel,
    loaded_from: str | Path,
    dataset: datasets.Dataset,
    columns: DatasetColumns,
    *,
    name: str,
    arguments: dict[str, Any],
    split: str,
) -> Record:
    """Make a record of a measurement with everything needed to repeat it.

    Args:
        report ([`RetrievalReport`]): the metrics.
        model ([`GADMSModel`] or another dual encoder): the model.
        loaded_from (`str` or `Path`): the folder or Hub name that it was loaded from.
        dataset (`datasets.Dataset`), columns ([`DatasetColumns`]): the rows that were measured on.
        name (`str`), arguments (`dict`), split (`str`): how the data set was loaded.

    Returns:
        `dict`: for JSON. For an adapter, `model` contains its `base_model`. `training` is the model's run record, and
        `started_from` in it that of the model it was trained from; `None` where a folder has no run record.

    Raises:
        ValueError: if a run record is not JSON.
    """
    folder, adapter = _folder_of(loaded_from), find_adapter(loaded_from)
    return report.to_dict() | {
        "model": {
            "folder": str(loaded_from),
            "class": type(model).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights_sha256": {file.name: file_digest(file) for file in sorted(folder.glob("*.safetensors"))},
        }
        | ({} if adapter is None else {"base_model": adapter.base.to_record()}),
        "training": _training(folder),
        "dataset": {
            "name": name,
            "arguments": arguments,
            "config": dataset.info.config_name,
            "version": str(dataset.info.version) if dataset.info.version else None,
            "split": split,
            "rows": len(dataset),
            "columns": asdict(columns),
        },
        "device": model.device.type,
        "versions": {"python": platform.python_version()}
        | {library: metadata.version(library) for library in ("torch", "transformers", "datasets", "numpy")},
        "command": shlex.join(["python", *sys.argv]),
    }


def _folder_of(name: str | Path) -> Path:
    """The folder of a loaded model; for a Hub name, that in the cache."""
    if Path(name).is_dir():
        return Path(name)
    files = (cached_file(str(name), file, _raise_exceptions_for_missing_entries=False) for file in _MODEL_CONFIGS)
    return Path(next(file for file in files if file)).parent


def read_records(path: Path) -> list[Record]:
    """Read the measurements in a file of `examples/evaluate.py`.

    Raises:
        ValueError: if the file contains something else.
        OSError: if it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    records = content["cells"] if isinstance(content, dict) and "cells" in content else [content]
    needed = {"text_to_image", "image_to_text", "counts", "dataset"}
    for record in records if isinstance(records, list) else [records]:
        is_record = isinstance(record, dict) and needed <= set(record)
        if not is_record or not {"name", "split"} <= set(record["dataset"]):
            raise ValueError(f"{path} holds no measurement of examples/evaluate.py")
    return records


@dataclass(frozen=True)
class MeanAndDeviation:
    """Mean and sample standard deviation of a metric over runs with different seeds.

    Attributes:
        mean (`float`), deviation (`float`, *optional*): in percent; the deviation (n - 1) is `None` for one run.
        runs (`int`): number of runs.
    """

    mean: float
    deviation: float | None
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "MeanAndDeviation":
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")


@dataclass(frozen=True)
class AggregatedReport:
    """The same measurement of several trainings of the same recipe.

    Attributes:
        dataset (`str`), split (`str`): the data that was measured on.
        seeds (`tuple`): seeds of the trainings; `None` for a model without a run record.
        text_to_image (`dict[str, MeanAndDeviation]`), image_to_text (`dict[str, MeanAndDeviation]`): by metric.
    """

    dataset: str
    split: str
    seeds: tuple[int | None, ...]
    text_to_image: dict[str, MeanAndDeviation]
    image_to_text: dict[str, MeanAndDeviation]

    def to_table(self) -> str:
        """Return the aggregate for people."""
        seeds = ", ".join("unknown" if seed is None else str(seed) for seed in self.seeds)
        lines = [
            f"{self.dataset}, split {self.split}: {len(self.seeds)} runs, seeds {seeds} (percent)",
            " " * 13 + "".join(f"{metric_label(name):>16}" for name in self.text_to_image),
        ]
        for direction in ("text_to_image", "image_to_text"):
            values = getattr(self, direction).values()
            lines.append(direction.replace("_", "-") + "".join(f"{value!s:>16}" for value in values))
        return "\n".join(lines)


def aggregate_records(records: Sequence[Record]) -> AggregatedReport:
    """Mean and sample standard deviation over runs that differ only in their seed.

    Args:
        records (`Sequence[dict]`): one measurement for each training.

    Returns:
        [`AggregatedReport`]

    Raises:
        ValueError: if there are no records, two records measure the same weights, or they differ in the data set, its
            counts or the training settings.
    """
    if not records:
        raise ValueError("there are no measurements to aggregate")
    first = _comparable(records[0])
    for number, record in enumerate(records[1:], start=2):
        other = _comparable(record)
        for key in [*first, *other]:
            if first.get(key) != other.get(key):
                raise ValueError(
                    f"measurement {number} does not compare with the first: {key} is {other.get(key)}, and "
                    f"{first.get(key)} in the first"
                )
    weights = [json.dumps(record.get("model", {}).get("weights_sha256"), sort_keys=True) for record in records]
    for number, own in enumerate(weights):
        if own not in ("null", "{}") and own in weights[:number]:
            raise ValueError(
                f"measurement {number + 1} is of the same weights as measurement {weights.index(own) + 1}"
            )
    seeds = tuple((record.get("training") or {}).get("seed") for record in records)
    directions = {
        direction: {
            name: MeanAndDeviation.of([record[direction][name] for record in records])
            for name in records[0][direction]
        }
        for direction in ("text_to_image", "image_to_text")
    }
    return AggregatedReport(records[0]["dataset"]["name"], records[0]["dataset"]["split"], seeds, **directions)


def _comparable(record: Record) -> dict[str, str]:
    """Return what must be equal in two runs that differ only in their seed: text by name."""
    dataset = record["dataset"]
    parts = {f"dataset.{key}": str(dataset.get(key)) for key in ("name", "config", "version", "split", "rows")}
    parts["dataset.columns"] = str(dataset.get("columns"))
    for key, value in dataset.get("arguments", {}).items():
        if key not in _PREPARATION:
            parts[f"dataset.arguments.{key}"] = str(value)
    parts |= {f"counts.{key}": str(value) for key, value in record["counts"].items()}
    parts["token_limit"] = str(record.get("token_limit"))
    parts["model.dtype"] = str(record.get("model", {}).get("dtype"))
    return parts | _recipe(record.get("training"))


def _recipe(training: Record | None, prefix: str = "") -> dict[str, str]:
    """Return the settings of a training and of those before it, without those that a seed changes."""
    if training is None:
        return {}
    parent = training.get("started_from")
    # Each seed starts from its own pre-trained model: compare how that was trained, if it is known.
    varying = (*_VARYING, "from_pretrained") if parent else _VARYING
    parts = {
        f"{prefix}{section}.{key}": str(value)
        for section, values in training.get("config", {}).items()
        for key, value in values.items()
        if key not in varying
    }
    return parts | _recipe(parent, f"{prefix}started_from.")


def _training(folder: Path) -> Record | None:
    run = folder / RUN_RECORD
    if not run.is_file():
        return None
    try:
        training: Record = json.loads(run.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{run} is no JSON: {error}") from error
    start = training.get("config", {}).get("model", {}).get("from_pretrained")
    before = _training(Path(start)) if start else None
    # The record of a downloaded model contains that of the model before it, whose folder is not on this machine.
    return training | {"started_from": before or training.get("started_from")}
