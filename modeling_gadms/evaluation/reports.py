"""What a measurement leaves behind, and several of them together: mean and standard deviation over seeds."""

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

from ..encoders.adapter_folders import find_adapter
from ..encoders.atomic_files import file_digest
from ..modeling_gadms import GADMSModel
from ..training.data import DatasetColumns
from ..training.run_config import RUN_RECORD
from .retrieval import RetrievalReport, metric_label


Record = dict[str, Any]
"""One measurement as it stands in a JSON file: see [`make_record`]."""
_VARYING = ("seed", "data_seed", "output_dir", "logging_dir", "run_name")
_WHERE = ("cache_dir", "num_proc")  # of a data set: where and how it was made ready, not what it is


def make_record(
    report: RetrievalReport,
    model: GADMSModel,
    folder: Path,
    dataset: datasets.Dataset,
    columns: DatasetColumns,
    *,
    name: str,
    arguments: dict[str, Any],
    split: str,
) -> Record:
    """Everything that it takes to repeat a measurement, and what it gave.

    Args:
        report ([`RetrievalReport`]): what was measured.
        model ([`GADMSModel`]), folder (`Path`): on which model, and where that was loaded from.
        dataset (`datasets.Dataset`), columns ([`DatasetColumns`]): on which rows.
        name (`str`), arguments (`dict`), split (`str`): how the data set was opened.

    Returns:
        `dict`: for JSON. Under `model`, if that is an adapter, also the `base_model` it was merged into. Under
        `training` the seed and the settings that the model was trained with, and under its `started_from` those of
        the model it went on from; `None` where a model's folder does not tell.

    Raises:
        ValueError: if the folder's account of its training is no JSON.
    """
    adapter = find_adapter(folder)
    return report.to_dict() | {
        "model": {
            "folder": str(folder),
            "class": type(model).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights_sha256": {file.name: file_digest(file) for file in sorted(folder.glob("*.safetensors"))},
        }
        | ({} if adapter is None else {"base_model": asdict(adapter.base)}),
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


def read_records(path: Path) -> list[Record]:
    """The measurements of a file of `examples/evaluate.py`.

    Raises:
        ValueError: if the file holds something else.
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
    """Of several runs that differ in their seed.

    Attributes:
        mean (`float`), deviation (`float`, *optional*): in percent; the deviation is the sample's (n - 1), and `None`
            for one run.
        runs (`int`): how many.
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
    """The same measurement on several trainings of the same recipe.

    Attributes:
        dataset (`str`), split (`str`): what was measured on.
        seeds (`tuple`): the seeds of the trainings, `None` where a model does not tell its own.
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
    """Mean and sample standard deviation over runs that differ in their seed alone.

    Args:
        records (`Sequence[dict]`): one measurement of each training.

    Returns:
        [`AggregatedReport`]

    Raises:
        ValueError: if there are none, one run is given twice, or they differ in more than the seed: in the data set,
            its counts or the recipe. It names the difference.
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
    """What must be equal for two runs to be the same but for the seed, as text, by a name for people."""
    dataset = record["dataset"]
    parts = {f"dataset.{key}": str(dataset.get(key)) for key in ("name", "config", "version", "split", "rows")}
    parts["dataset.columns"] = str(dataset.get("columns"))
    for key, value in dataset.get("arguments", {}).items():
        if key not in _WHERE:
            parts[f"dataset.arguments.{key}"] = str(value)
    parts |= {f"counts.{key}": str(value) for key, value in record["counts"].items()}
    parts["token_limit"] = str(record.get("token_limit"))
    parts["model.dtype"] = str(record.get("model", {}).get("dtype"))
    return parts | _recipe(record.get("training"))


def _recipe(training: Record | None, prefix: str = "") -> dict[str, str]:
    """The settings of a training, and of those before it, but for what a seed changes."""
    if training is None:
        return {}
    parent = training.get("started_from")
    # Each seed goes on from the model of its own: what counts is how that was made, where it is known.
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
    # A downloaded model's record holds that of the model before it, which is not on this machine.
    return training | {"started_from": before or training.get("started_from")}
