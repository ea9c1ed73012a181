"""What a model's folder tells of its training, without what concerns this machine alone."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..encoders.adapter_folders import RUN_RECORD


_MACHINE = frozenset(
    "cache_dir data_files deepspeed hub_model_id hub_revision hub_token local_rank logging_dir num_proc output_dir "
    "project resume_from_checkpoint run_name storage_options token trackio_space_id "
    "trackio_static_space_id".split()
)
"""Settings that say where and by whom a run was done, not what it did."""
_FILE_FORMATS = frozenset("arrow csv imagefolder json parquet text webdataset".split())
"""Names that `load_dataset` takes for files of one's own."""
_FOLDER_MARKS = ("config.json", "adapter_config.json", "dataset_dict.json", "state.json")
"""What folders hold that `save_pretrained` or `save_to_disk` wrote."""
_WEBPERSON = {"5m": "Kaichengalex/WebPerson-5M", "1m": "Kaichengalex/WebPerson-1M"}


@dataclass(frozen=True)
class DatasetName:
    """A data set as it can be told to others.

    Attributes:
        text (`str`): its name; of a folder only the last part.
        hub_name (`str`, *optional*): its name on the Hub or, of one that is not there, its own. `None` of a folder.
    """

    text: str
    hub_name: str | None


@dataclass(frozen=True)
class TrainingStage:
    """One training.

    Attributes:
        dataset ([`DatasetName`]): what it was trained on.
        dataset_arguments (`dict[str, Any]`): those that say which rows.
        seed (`int`, *optional*)
        start (`str`): what it went on from, for people.
        hub_start (`str`, *optional*): the same, if it is a Hub id.
        model (`dict`), training (`dict`): settings, as in a run file.
    """

    dataset: DatasetName
    dataset_arguments: dict[str, Any]
    seed: int | None
    start: str
    hub_start: str | None
    model: dict[str, Any]
    training: dict[str, Any]


@dataclass(frozen=True)
class Provenance:
    """Where weights come from.

    Attributes:
        stages (`tuple[TrainingStage, ...]`): the last training first, then the one it went on from, as far as folders
            on this machine tell. Empty if the folder tells nothing.
        record (`dict`, *optional*): the run record, as it can be published.
    """

    stages: tuple[TrainingStage, ...]
    record: dict[str, Any] | None

    @property
    def base_model(self) -> str | None:
        """The nearest forebear on the Hub."""
        return next((stage.hub_start for stage in self.stages if stage.hub_start), None)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets of all trainings, without folders."""
        names = [stage.dataset.hub_name for stage in reversed(self.stages) if stage.dataset.hub_name]
        return tuple(dict.fromkeys(names))


def read_provenance(folder: Path) -> Provenance:
    """Read the run record of a model's folder, and those of the models it went on from.

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
            sections["model"]["from_pretrained"] = None  # a name without its folder would be looked for on the Hub
        if is_local(str(record["config"].get("data", {}).get("dataset") or ""), place):
            sections["data"]["dataset"] = f"./{sections['data']['dataset']}"  # and so would this one
        if earlier is not None:
            published["started_from"] = earlier
    return Provenance(stages, published)


def _chain(folder: Path, seen: set[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    file = folder / RUN_RECORD
    if folder.resolve() in seen or not file.is_file():
        return
    seen.add(folder.resolve())
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        start = _checked(record)["model"].get("from_pretrained")
        earlier = list(_earlier(record))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is no record of a training ({type(error).__name__}: {error}); remove it to publish without"
        ) from error
    yield folder, record
    for place in _candidates(start, folder) if start else ():
        if (place / RUN_RECORD).is_file():
            yield from _chain(place, seen)
            return
    yield from ((folder, inside) for inside in earlier)


def _earlier(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The trainings before, which a model that was published carries with it."""
    while (inside := record.get("started_from")) is not None:
        _checked(inside)
        yield inside
        record = inside


def _checked(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections of a record. Raises: of all kinds, if there is something else in their places."""
    sections = {name: record["config"].get(name, {}) for name in ("model", "data", "training")}
    if not all(isinstance(section, dict) for section in sections.values()):
        raise TypeError("its sections hold no keys")
    if not isinstance(start := sections["model"].get("from_pretrained"), str | None):
        raise TypeError(f"from_pretrained is {start!r}")
    return sections


def _stage(record: dict[str, Any], folder: Path) -> TrainingStage:
    config = record["config"]
    model, data = config.get("model", {}), config.get("data", {})
    start = model.get("from_pretrained") or model.get("from_clip")
    local = bool(start) and is_local(start, folder)
    arguments = data.get("dataset_args") or {}
    return TrainingStage(
        dataset=dataset_name(str(data.get("dataset")), arguments, folder),
        dataset_arguments=public_arguments(arguments, folder),
        seed=record.get("seed"),
        start="random weights" if not start else public_name(start, folder),
        hub_start=start if start and not local else None,
        model=_public(model, folder),
        training=_public(config.get("training", {}), folder),
    )


def dataset_name(name: str, arguments: dict[str, Any], near: Path) -> DatasetName:
    """How to call a data set.

    Args:
        name (`str`), arguments (`dict`): as `load_splits` of the data package takes them.
        near (`Path`): a folder that lies near where `name` was typed, to tell folders from names of the Hub.
    """
    text = public_name(name, near)
    if is_local(name, near) or name in _FILE_FORMATS:
        return DatasetName(text, None)
    if name == "webperson":
        if arguments.get("data_dir"):
            return DatasetName(text, None)  # a copy, or what the pipeline made
        return DatasetName(text, arguments.get("repo_id") or _WEBPERSON.get(arguments.get("name") or "5m"))
    return DatasetName(text, name)


def public_arguments(arguments: dict[str, Any], near: Path) -> dict[str, Any]:
    """The arguments of a data set that say which rows it has; where they are is left out."""
    plain = {key: value for key, value in arguments.items() if key != "data_dir" and value is not None}
    kept: dict[str, Any] = _public(plain, near)
    return kept


def public_name(text: str, near: Path) -> str:
    """The name of a model, data set or file as it is told to others: of one on this machine only the last part."""
    if not is_local(text, near):
        return text
    return PureWindowsPath(text).name or PurePosixPath(text).name or "local folder"


def is_local(text: str, near: Path) -> bool:
    """Whether a name is that of a file or folder, rather than of something on the Hub.

    Args:
        text (`str`): the name.
        near (`Path`): a relative name is also looked for in the folders above this one: programs are started there.
    """
    if not text or "://" in text:
        return False
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive or text.startswith(("~", ".")):
        return True
    if "/" not in text and "\\" not in text:
        # A folder of that name may be anything, such as where a training on the data set of that name was written.
        return any((place / mark).is_file() for place in _candidates(text, near) for mark in _FOLDER_MARKS)
    try:
        validate_repo_id(text)
    except HFValidationError:
        return True  # three parts or more
    return any(place.exists() for place in _candidates(text, near))


def _candidates(name: str, near: Path) -> Iterator[Path]:
    """Where a relative name may lead."""
    for base in (Path.cwd(), *near.absolute().parents):
        yield base / name


def _public(value: Any, near: Path) -> Any:
    """A copy without what concerns this machine alone."""
    if isinstance(value, dict):
        return {key: _public(inside, near) for key, inside in value.items() if key not in _MACHINE}
    if isinstance(value, list):
        return [_public(inside, near) for inside in value]
    return public_name(value, near) if isinstance(value, str) else value
