"""Measurements for a model card: read from the files of `examples/evaluate.py`, and of these very weights."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ..evaluation.reports import Record, read_records
from ..evaluation.retrieval import metric_label
from ..metrics.person_retrieval.ranking import METRIC_NAMES
from ..training.history import dataset_name, public_arguments


DIRECTIONS = {"text_to_image": "text-to-image", "image_to_text": "image-to-text"}
_COUNTS = ("images", "captions", "identities", "truncated_captions")


@dataclass(frozen=True)
class Measurement:
    """One measurement, as it can be told to others.

    Attributes:
        file (`Path`): where it was read from.
        dataset (`str`), hub_dataset (`str`, *optional*): its name; the same, if it is not a folder's.
        config (`str`): the data set's configuration, with the arguments that say which rows.
        arguments (`dict[str, Any]`): those arguments.
        has_data_dir (`bool`): whether the data set was read from a folder that the arguments named.
        version (`str`, *optional*), split (`str`): of the data set.
        captions (`tuple[str, ...]`), person_id (`str`, *optional*): columns.
        counts (`dict[str, int]`): images, captions, identities, truncated captions.
        token_limit (`int`): where captions were cut.
        precision (`str`), device (`str`): what the model ran in, and on.
        versions (`dict[str, str]`): of the libraries.
        values (`dict[str, dict[str, float]]`): by direction and metric, in percent, as the file has them.
    """

    file: Path
    dataset: str
    hub_dataset: str | None
    config: str
    arguments: dict[str, Any]
    has_data_dir: bool
    version: str | None
    split: str
    captions: tuple[str, ...]
    person_id: str | None
    counts: dict[str, int]
    token_limit: int
    precision: str
    device: str
    versions: dict[str, str]
    values: dict[str, dict[str, float]]

    @property
    def subject(self) -> tuple[str, str, str | None, str]:
        """What was measured on: two results on the same would stand for one another in a card."""
        return self.hub_dataset or self.dataset, self.config, self.version, self.split


@dataclass(frozen=True)
class Measurements:
    """Those that belong to the weights.

    Attributes:
        all (`tuple[Measurement, ...]`): in the order of the files; none twice.
        foreign (`dict[Path, int]`): how many a file with several models has of other weights.
        repeated (`int`): how many were given more than once.
    """

    all: tuple[Measurement, ...]
    foreign: dict[Path, int]
    repeated: int


def read_measurements(files: Sequence[Path], weights: Mapping[str, str], folder: Path) -> Measurements:
    """Read what was measured of a model, and refuse what was not.

    Args:
        files (`Sequence[Path]`): of `examples/evaluate.py`.
        weights (`Mapping[str, str]`): SHA-256 of each file of the model's weights, by its name; of an adapter also of
            its base, see [`base_weights`].
        folder (`Path`): the model's; names in the files are read as seen from there.

    Returns:
        [`Measurements`]

    Raises:
        ValueError: if a file holds no measurement, one of other weights alone, one that does not tell of which
            weights it is, or values that are none; or if two measurements on the same data set disagree.
        OSError: if a file cannot be read.
    """
    kept: dict[tuple[str, str, str | None, str], Measurement] = {}
    foreign: dict[Path, int] = {}
    repeated = 0
    for file in files:
        records = read_records(file)
        if not records:
            raise ValueError(f"{file} holds no measurement: measure the model with examples/evaluate.py first")
        own = [record for record in records if _weights_of(record, file) == weights]
        if not own:
            raise ValueError(_other_weights(file, _weights_of(records[0], file), weights, folder))
        if len(own) < len(records):
            foreign[file] = len(records) - len(own)
        for record in own:
            measurement = _measurement(record, file, folder)
            earlier = kept.setdefault(measurement.subject, measurement)
            if earlier is measurement:
                continue
            _refuse_disagreement(earlier, measurement)
            repeated += 1
    return Measurements(tuple(kept.values()), foreign, repeated)


def base_weights(digests: Mapping[str, str]) -> dict[str, str]:
    """The weights of an adapter's base, under names that are not those of its own files."""
    return {f"{name} of the base": digest for name, digest in digests.items()}


def eval_results(measurements: Sequence[Measurement]) -> list[EvalResult]:
    """The same for `model-index`: each value exactly as it was measured."""
    return [
        EvalResult(
            task_type=f"{name}-retrieval",
            task_name=f"Text-based person retrieval, {name.replace('-to-', ' to ')}",
            dataset_type=measurement.hub_dataset or measurement.dataset,
            dataset_name=measurement.dataset,
            dataset_config=measurement.config,
            dataset_split=measurement.split,
            dataset_revision=measurement.version,
            dataset_args=measurement.arguments or None,
            metric_type=metric,
            metric_name=f"{metric_label(metric)} ({name}, percent)",
            metric_value=measurement.values[direction][metric],
        )
        for measurement in measurements
        for direction, name in DIRECTIONS.items()
        for metric in METRIC_NAMES
    ]


def _weights_of(record: Record, file: Path) -> dict[str, str]:
    model: Record = record["model"] if isinstance(record.get("model"), dict) else {}
    digests = model.get("weights_sha256")
    if not isinstance(digests, dict) or not digests:
        raise ValueError(
            f"{file} does not tell which weights it measured (`model.weights_sha256`): measure them again with "
            "examples/evaluate.py"
        )
    base = model.get("base_model")
    return digests | (base_weights(base.get("weights_sha256") or {}) if isinstance(base, dict) else {})


def _other_weights(file: Path, measured: dict[str, str], weights: Mapping[str, str], folder: Path) -> str:
    """Names the first file of weights that differs, with both digests."""
    names = sorted(name for name in measured.keys() | weights.keys() if measured.get(name) != weights.get(name))
    name = names[0]
    return (
        f"{file} was measured on other weights than those in {folder}: {name} has SHA-256 "
        f"{weights.get(name, 'none, as it is not there')}, and had {measured.get(name, 'none, as it was not there')} "
        "when it was measured. Measure this model with examples/evaluate.py, or publish the one that was measured"
    )


def _measurement(record: Record, file: Path, folder: Path) -> Measurement:
    dataset, model = record["dataset"], record["model"]
    arguments = dataset.get("arguments") or {}
    columns = dataset.get("columns") or {}
    name = dataset_name(str(dataset["name"]), arguments, folder)
    public = public_arguments(arguments, folder)
    config = str(dataset.get("config") or "default")
    if public:
        # `model-index` tells results apart by configuration, not by arguments.
        told = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(public.items()))
        config = f"{config} ({told})"
    counts = {key: _count(record["counts"], key, file) for key in _COUNTS}
    return Measurement(
        file=file,
        dataset=name.text,
        hub_dataset=name.hub_name,
        config=config,
        arguments=public,
        has_data_dir=bool(arguments.get("data_dir")),
        version=dataset.get("version"),
        split=str(dataset["split"]),
        captions=tuple(columns.get("captions") or ()),
        person_id=columns.get("person_id"),
        counts=counts,
        token_limit=_count(record, "token_limit", file),
        precision=str(model.get("dtype", "unknown")),
        device=str(record.get("device", "unknown")),
        versions={key: str(value) for key, value in (record.get("versions") or {}).items()},
        values={direction: _values(record[direction], direction, file) for direction in DIRECTIONS},
    )


def _count(values: Any, key: str, file: Path) -> int:
    value = values.get(key) if isinstance(values, dict) else None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{file}: `{key}` is {value!r}, which is no count: measure again with examples/evaluate.py")
    return value


def _values(values: Any, direction: str, file: Path) -> dict[str, float]:
    found = {}
    for metric in METRIC_NAMES:
        value = values.get(metric) if isinstance(values, dict) else None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or not is_number or not 0 <= value <= 100:  # which NaN is not
            raise ValueError(
                f"{file}: {metric_label(metric)} {direction.replace('_', '-')} is {value!r}, which is no percentage: "
                "nothing was measured, or the file was changed"
            )
        found[metric] = value
    return found


def _refuse_disagreement(first: Measurement, second: Measurement) -> None:
    place = f"{first.dataset}, {first.config}, split {first.split}"
    both = f"{first.file} and {second.file}"
    for what in ("captions", "person_id", "counts", "token_limit", "precision", "values"):
        one, other = getattr(first, what), getattr(second, what)
        if one != other:
            raise ValueError(
                f"{both} disagree on {place}: {what} are {one} and {other}. A card has one result on a data set: "
                "leave one of them out"
            )
