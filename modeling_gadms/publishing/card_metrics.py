"""Metrics on a model card, bound to the weights that were measured.

1. `examples/evaluate.py` writes a metrics file. Each of its records contains the SHA-256 of every weight file, under
   `model.weights_sha256`, and for an adapter those of its base, under `model.base_model.weights_sha256`.
2. `publish_model` computes the digests of the weights that it publishes: [`weight_digests`].
3. [`read_measurements`] keeps the records with the same digests and refuses a file without one.
4. [`model_index`] writes the kept metrics into the card's `model-index`, unrounded.
5. [`eval_results`] writes R@1 on data sets of the Hub into `.eval_results/`, with the digests.
6. The card also lists the digests, so that a reader can compare them with the downloaded files.

Both forms stay. An entry of `.eval_results/` is one number of a task of a data set on the Hub, and counts on the
leaderboard of that data set. `model-index`, its predecessor, also takes the other metrics, and the data sets that are
no repository: the benchmarks of this field are not, since their images must not be redistributed.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from ..encoders.adapter_folders import BaseModel
from ..encoders.atomic_files import file_digest
from ..evaluation.reports import Record, read_records
from ..evaluation.retrieval import metric_label
from ..metrics.person_retrieval.ranking import METRIC_NAMES
from ..training.history import dataset_name, public_arguments
from .hub import EVAL_RESULTS
from .upload_folder import Excluded


DIRECTIONS = {"text_to_image": "text-to-image", "image_to_text": "image-to-text"}
_COUNTS = ("images", "captions", "identities", "truncated_captions")
_MEASURE_AGAIN = "measure again with examples/evaluate.py"


@dataclass(frozen=True)
class Measurement:
    """A record of a metrics file, without local paths.

    Attributes:
        file (`Path`): the metrics file.
        dataset (`str`): name of the data set; of a local one only the folder's name.
        hub_dataset (`str`, *optional*): name on the Hub, or of one of our data sets. `None` for a folder.
        config (`str`), arguments (`dict[str, Any]`): configuration and arguments that select the rows.
        has_data_dir (`bool`): whether the data set was read from a folder given as `data_dir`.
        version (`str`, *optional*), split (`str`): version and split of the data set.
        captions (`tuple[str, ...]`), person_id (`str`, *optional*): column names.
        counts (`dict[str, int]`): numbers of images, captions, identities and truncated captions.
        token_limit (`int`): maximum length of a caption.
        precision (`str`), device (`str`), versions (`dict[str, str]`): of the model and the libraries.
        values (`dict[str, dict[str, float]]`): metrics in percent by direction and name, unrounded.
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


def weight_digests(files: Iterable[Path], base: BaseModel | None = None) -> dict[str, str]:
    """Compute the SHA-256 of weight files, by file name.

    Args:
        files (`Iterable[Path]`): weight files of a model or an adapter.
        base ([`~modeling_gadms.encoders.adapter_folders.BaseModel`], *optional*): base of the adapter, whose digests
            are included.
    """
    return {file.name: file_digest(file) for file in files} | _base_digests(base.weights_sha256 if base else {})


def _measured_digests(record: Record, file: Path) -> dict[str, str]:
    """Return the digests of the weights that a record was measured on, in the form of [`weight_digests`]."""
    model: Record = record["model"] if isinstance(record.get("model"), dict) else {}
    digests = model.get("weights_sha256")
    if not isinstance(digests, dict) or not digests:
        raise ValueError(f"{file} does not name the measured weights (`model.weights_sha256`): {_MEASURE_AGAIN}")
    base = model.get("base_model")
    return digests | _base_digests((base.get("weights_sha256") or {}) if isinstance(base, dict) else {})


def read_measurements(
    files: Sequence[Path], digests: Mapping[str, str], folder: Path
) -> tuple[list[Measurement], list[Excluded]]:
    """Read the measurements of the weights with these digests.

    Args:
        files (`Sequence[Path]`): metrics files of `examples/evaluate.py`.
        digests (`Mapping[str, str]`): digests of the weights, see [`weight_digests`].
        folder (`Path`): folder of the model. Relative paths in the files are resolved from here.

    Returns:
        The measurements in the order of the files, without duplicates; and the number of excluded records by reason.

    Raises:
        ValueError: if a file has no record of these weights, a record has no digests or an invalid value, or two
            records of the same data set disagree.
        OSError: if a file cannot be read.
    """
    kept: dict[tuple[str, str, str | None, str], Measurement] = {}
    excluded: list[Excluded] = []
    duplicates = 0
    for file in files:
        records = read_records(file)
        if not records:
            raise ValueError(f"{file} contains no measurement: measure the model with examples/evaluate.py first")
        own = [record for record in records if _measured_digests(record, file) == digests]
        if not own:
            raise ValueError(_other_weights(file, _measured_digests(records[0], file), digests, folder))
        if others := len(records) - len(own):
            excluded.append(Excluded(f"records of {file}", f"measured on other weights: {others}"))
        for record in own:
            measurement = _measurement(record, file, folder)
            # In `model-index`, results with the same key would replace each other.
            key = (
                measurement.hub_dataset or measurement.dataset,
                measurement.config,
                measurement.version,
                measurement.split,
            )
            first = kept.setdefault(key, measurement)
            if first is not measurement:
                _check_agreement(first, measurement)
                duplicates += 1
    if duplicates:
        excluded.append(Excluded("records", f"given more than once: {duplicates}"))
    return list(kept.values()), excluded


def model_index(measurements: Sequence[Measurement]) -> list[EvalResult]:
    """Return the entries of the card's `model-index`: one for each metric of each measurement, unrounded."""
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


def eval_results(measurements: Sequence[Measurement], digests: Mapping[str, str]) -> dict[str, str]:
    """Return the files of `.eval_results/`: R@1 in both directions on each data set that is on the Hub.

    Args:
        measurements (`Sequence[Measurement]`): of [`read_measurements`].
        digests (`Mapping[str, str]`): digests of the measured weights, see [`weight_digests`].

    Returns:
        `dict[str, str]`: YAML by path in the repository, one file for each data set.
    """
    entries: dict[str, list[EvalResultEntry]] = {}
    weights = ", ".join(f"{name} has SHA-256 {digest}" for name, digest in sorted(digests.items()))
    for measurement in measurements:
        dataset = measurement.hub_dataset or ""
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset):  # such as the name of one of our builders
            continue
        revision = str(measurement.arguments.get("revision", ""))
        for direction, name in DIRECTIONS.items():
            task = f"{measurement.split} {measurement.config}".removesuffix(" default") + f" {name} r1"
            entries.setdefault(dataset, []).append(
                EvalResultEntry(
                    dataset_id=dataset,
                    task_id=re.sub(r"[^a-z0-9]+", "_", task.lower()),
                    value=measurement.values[direction]["r1"],
                    dataset_revision=revision if re.fullmatch("[0-9a-f]{40}", revision) else None,
                    notes=f"R@1 {name} in percent; split {measurement.split}, {measurement.config}; {weights}",
                )
            )
    return {
        f"{EVAL_RESULTS}/{dataset.replace('/', '_')}.yaml": yaml.safe_dump(
            eval_result_entries_to_yaml(results), sort_keys=False
        )
        for dataset, results in entries.items()
    }


def _base_digests(digests: Mapping[str, str]) -> dict[str, str]:
    """Rename the files of a base, which may be called like those of its adapter."""
    return {f"{name} of the base": digest for name, digest in digests.items()}


def _other_weights(file: Path, measured: Mapping[str, str], digests: Mapping[str, str], folder: Path) -> str:
    names = measured.keys() | digests.keys()
    name = min(name for name in names if measured.get(name) != digests.get(name))
    return (
        f"{file} was measured on other weights than those in {folder}: {name} has SHA-256 "
        f"{digests.get(name, 'none (missing)')} now and had {measured.get(name, 'none (missing)')} when it was "
        "measured. Measure this model with examples/evaluate.py, or publish the one that was measured"
    )


def _measurement(record: Record, file: Path, folder: Path) -> Measurement:
    dataset, model = record["dataset"], record["model"]
    arguments = dataset.get("arguments") or {}
    columns = dataset.get("columns") or {}
    name = dataset_name(str(dataset["name"]), arguments, folder)
    public = public_arguments(arguments, folder)
    config = str(dataset.get("config") or "default")
    if public:
        # `model-index` distinguishes results by configuration, not by arguments.
        config += f" ({', '.join(f'{key}={json.dumps(value)}' for key, value in sorted(public.items()))})"
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
        counts={key: _count(record["counts"], key, file) for key in _COUNTS},
        token_limit=_count(record, "token_limit", file),
        precision=str(model.get("dtype", "unknown")),
        device=str(record.get("device", "unknown")),
        versions={key: str(value) for key, value in (record.get("versions") or {}).items()},
        values={direction: _percentages(record[direction], direction, file) for direction in DIRECTIONS},
    )


def _count(values: Any, key: str, file: Path) -> int:
    value = values.get(key) if isinstance(values, dict) else None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{file}: `{key}` is {value!r}, not a count: {_MEASURE_AGAIN}")
    return value


def _percentages(values: Any, direction: str, file: Path) -> dict[str, float]:
    found = {}
    for metric in METRIC_NAMES:
        value = values.get(metric) if isinstance(values, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:  # refuses NaN too
            raise ValueError(
                f"{file}: {metric_label(metric)} {direction.replace('_', '-')} is {value!r}, not a percentage: "
                "nothing was measured, or the file was edited"
            )
        found[metric] = value
    return found


def _check_agreement(first: Measurement, second: Measurement) -> None:
    for name in ("captions", "person_id", "counts", "token_limit", "precision", "values"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            raise ValueError(
                f"{first.file} and {second.file} disagree on {first.dataset}, {first.config}, split {first.split}: "
                f"{name} are {one} and {other}. A card has one result for each data set: give only one of them"
            )
