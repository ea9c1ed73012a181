"""Training history of a model from the run records in its folder, without names of local folders."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..encoders.adapter_folders import RUN_RECORD


_MACHINE = frozenset(
    "cache_dir data_files deepspeed file_stats hub_model_id hub_revision hub_token local_rank logging_dir num_proc "
    "output_dir project resume_from_checkpoint run_name storage_options token trackio_space_id "
    "trackio_static_space_id".split()
)
"""Settings of a machine or an account, which do not change what is trained."""
_FILE_FORMATS = frozenset("arrow csv imagefolder json parquet text webdataset".split())
"""Names that `load_dataset` takes for local files."""
_FOLDER_MARKS = ("config.json", "adapter_config.json", "dataset_dict.json", "state.json")
"""Files in folders written by `save_pretrained` or `save_to_disk`."""
_WEBPERSON = {"5m": "Kaichengalex/WebPerson-5M", "1m": "Kaichengalex/WebPerson-1M"}


@dataclass(frozen=True)
class DatasetName:
    """Public name of a data set."""

    text: str  # of a folder only the last part
    hub_name: str | None  # on the Hub, or of a builder that is not there; `None` for a folder


@dataclass(frozen=True)
class TrainingStage:
    """One training in the history of a model, such as pre-training or fine-tuning."""

    dataset: DatasetName
    dataset_arguments: dict[str, Any]  # those that select its rows
    seed: int | None
    start: str  # public name of the weights that it started from
    hub_start: str | None  # the same, if it is a Hub id
    model: dict[str, Any]  # settings, as in a run file
    training: dict[str, Any]


@dataclass(frozen=True)
class TrainingHistory:
    """All known trainings of a model, the last one first. There are none if its folder has no run record."""

    stages: tuple[TrainingStage, ...]
    record: dict[str, Any] | None  # the run record to publish

    @property
    def base_model(self) -> str | None:
        """Hub id of the nearest model that a training started from."""
        return next((stage.hub_start for stage in self.stages if stage.hub_start), None)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets of all trainings; local folders are skipped."""
        names = [stage.dataset.hub_name for stage in reversed(self.stages) if stage.dataset.hub_name]
        return tuple(dict.fromkeys(names))


def read_training_history(folder: Path) -> TrainingHistory:
    """Read the run record in a model's folder and those of the models that it was trained from.

    Raises:
        ValueError: if a record is damaged.
    """
    records = list(_chain(folder, set()))
    stages = tuple(_stage(record, place) for place, record in records)
    published: dict[str, Any] | None = None
    for place, record in reversed(records):
        earlier = published
        published = _public({key: value for key, value in record.items() if key != "started_from"}, place)
        sections = published["config"]
        if is_local(str(record["config"].get("model", {}).get("from_pretrained") or ""), place):
            sections["model"]["from_pretrained"] = None  # without its folder, the name would mean one on the Hub
        if is_local(str(record["config"].get("data", {}).get("dataset") or ""), place):
            sections["data"]["dataset"] = f"./{sections['data']['dataset']}"  # for the same reason
        if earlier is not None:
            published["started_from"] = earlier
    return TrainingHistory(stages, published)


def _chain(folder: Path, seen: set[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    file = folder / RUN_RECORD
    if folder.resolve() in seen or not file.is_file():
        return
    seen.add(folder.resolve())
    try:
        record, *earlier = _checked(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is no run record ({type(error).__name__}: {error}); remove it to publish without"
        ) from error
    yield folder, record
    start = record["config"].get("model", {}).get("from_pretrained")
    for place in _candidates(start, folder) if start else ():
        if (place / RUN_RECORD).is_file():
            yield from _chain(place, seen)
            return
    yield from ((folder, inside) for inside in earlier)


def _checked(record: Any) -> Iterator[dict[str, Any]]:
    """Yield a record, and the records of earlier trainings that the record of a published model contains."""
    while True:
        sections = [record["config"].get(name, {}) for name in ("model", "data", "training")]
        if not all(isinstance(section, dict) for section in sections):
            raise TypeError("its sections are not mappings")
        if not isinstance(start := sections[0].get("from_pretrained"), str | None):
            raise TypeError(f"from_pretrained is {start!r}")
        yield record
        if (record := record.get("started_from")) is None:
            return


def _stage(record: dict[str, Any], folder: Path) -> TrainingStage:
    config = record["config"]
    model, data = config.get("model", {}), config.get("data", {})
    start = model.get("from_pretrained") or model.get("from_dual_encoder") or model.get("from_clip")
    arguments = data.get("dataset_args") or {}
    return TrainingStage(
        dataset=dataset_name(str(data.get("dataset")), arguments, folder),
        dataset_arguments=public_arguments(arguments, folder),
        seed=record.get("seed"),
        start=public_name(start, folder) if start else "random weights",
        hub_start=start if start and not is_local(start, folder) else None,
        model=_public(model, folder),
        training=_public(config.get("training", {}), folder),
    )


def dataset_name(name: str, arguments: dict[str, Any], near: Path) -> DatasetName:
    """Return the public name of a data set.

    Args:
        name (`str`), arguments (`dict`): `dataset` and `dataset_args` of a run file.
        near (`Path`): see [`is_local`].
    """
    text = public_name(name, near)
    if is_local(name, near) or name in _FILE_FORMATS:
        return DatasetName(text, None)
    if name == "webperson":
        if arguments.get("data_dir"):
            return DatasetName(text, None)  # a copy, or a data set built by the pipeline
        return DatasetName(text, arguments.get("repo_id") or _WEBPERSON.get(arguments.get("name") or "1m"))
    return DatasetName(text, name)


def public_arguments(arguments: dict[str, Any], near: Path) -> dict[str, Any]:
    """Return the arguments of a data set that select its rows, without those that name its place."""
    left_out = {"data_dir", *_MACHINE}
    return {key: _public(value, near) for key, value in arguments.items() if key not in left_out and value is not None}


def public_name(text: str, near: Path) -> str:
    """Return the public name of a model, data set or file: of a local path only the last part."""
    if not is_local(text, near):
        return text
    return PureWindowsPath(text).name or PurePosixPath(text).name or "local folder"


def is_local(text: str, near: Path) -> bool:
    """Return whether a name is a local path rather than a name on the Hub.

    Args:
        text (`str`): the name.
        near (`Path`):
            A relative path is also looked up from the folders above this one, as the program may have run there.
    """
    if not text or "://" in text:
        return False
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive or text.startswith(("~", ".")):
        return True
    if "/" not in text and "\\" not in text:
        # Another folder may have that name, such as the output of a training on the data set of that name.
        return any((place / mark).is_file() for place in _candidates(text, near) for mark in _FOLDER_MARKS)
    try:
        validate_repo_id(text)
    except HFValidationError:
        return True  # such as three parts or more
    return any(place.exists() for place in _candidates(text, near))


def _candidates(name: str, near: Path) -> Iterator[Path]:
    """Places that a relative path may mean."""
    for base in (Path.cwd(), *near.absolute().parents):
        yield base / name


def _public(value: Any, near: Path) -> Any:
    """Return a copy without settings of the machine and without local folders."""
    if isinstance(value, dict):
        return {key: _public(inside, near) for key, inside in value.items() if key not in _MACHINE}
    if isinstance(value, list):
        return [_public(inside, near) for inside in value]
    return public_name(value, near) if isinstance(value, str) else value
