"""Configuration of a construction run: a YAML file with sources, models, thresholds and captioners, plus overrides."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from modeling_gadms.configuration_gadms import check_keys
from modeling_gadms.training.settings import apply_overrides, check_types, field_names, read_settings

from ...publishing.dataset_card import DatasetCardSettings
from ..captions.caption import CaptionSettings
from ..captions.chat.types import ChatSettings
from ..captions.judge import JudgeSettings
from ..captions.match import MatchSettings
from ..captions.rules import CaptionRules
from ..persons.criteria import CriteriaSettings
from ..persons.crop import CropSettings
from ..persons.detectors import DetectorSettings
from ..persons.duplicates import DuplicateSettings
from ..persons.pose import PoseSettings
from ..persons.quality import QualitySettings
from ..sources.fetch_settings import FetchSettings
from ..sources.planning import SourceSettings
from ..storage import Location, location
from .engines import Resources


Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class RunSettings:
    """Section `run`.

    Args:
        output (`str`): output folder of the run, or a URL such as `s3://bucket/folder`.
        engine (`str`, *optional*, defaults to `"local"`): `"local"` (`datasets`) or `"ray"` (Ray Data).
        workers (`int`, *optional*, defaults to 1): processes of the local engine; each takes whole shards.
        images_per_shard (`int`, *optional*, defaults to 500): images that are held in memory and finished together.
        opt_out (`str`, *optional*): file, or its URL, of URLs and domains that must not be used.
        thumbnail_height (`int`, *optional*, defaults to 128): height in pixels of the thumbnails of rejected persons,
            for review; 0 for none.
        max_failed_shards (`int`, *optional*, defaults to 10): shards of a stage that may be set aside, after three
            failed attempts each, before the run stops. A run without them ends with exit code 3.

    Raises:
        ValueError: for a value out of its range.
    """

    output: str
    engine: Engine = "local"
    workers: int = 1
    images_per_shard: int = 500
    opt_out: str | None = None
    thumbnail_height: int = 128
    max_failed_shards: int = 10

    def __post_init__(self) -> None:
        if not self.output.strip():
            raise ValueError("`output` is empty: name the folder of the run")
        if self.engine not in get_args(Engine):
            raise ValueError(f"`engine` must be one of {', '.join(get_args(Engine))}, not {self.engine!r}")
        for name, least in (
            ("workers", 1),
            ("images_per_shard", 1),
            ("thumbnail_height", 0),
            ("max_failed_shards", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be {least} or more, not {getattr(self, name)}")


@dataclass(frozen=True)
class BuildConfig:
    """Configuration of a run. The fields are the sections of the file.

    Attributes:
        sources (`Mapping[str, SourceSettings]`): by name, in order.
        captioners (`Mapping[str, ChatSettings]`): by the caption column they fill, `caption1`, `caption2`, ... Without
            captioners the run ends after the stage `persons`; it resumes when captioners are added.
        resources (`Mapping[str, Resources]`): by name of a block, or of a caption column for all its blocks.
    """

    run: RunSettings
    sources: Mapping[str, SourceSettings]
    captioners: Mapping[str, ChatSettings] = field(default_factory=dict)
    fetch: FetchSettings = field(default_factory=FetchSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    pose: PoseSettings = field(default_factory=PoseSettings)
    criteria: CriteriaSettings = field(default_factory=CriteriaSettings)
    crop: CropSettings = field(default_factory=CropSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)
    duplicates: DuplicateSettings = field(default_factory=DuplicateSettings)
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    rules: CaptionRules = field(default_factory=CaptionRules)
    match: MatchSettings = field(default_factory=MatchSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    card: DatasetCardSettings = field(default_factory=DatasetCardSettings)
    resources: Mapping[str, Resources] = field(default_factory=dict)

    @property
    def root(self) -> Location:
        return location(self.run.output)


_SECTIONS: dict[str, Any] = {field.name: field.type for field in fields(BuildConfig) if not get_args(field.type)}
_NAMED_SECTIONS = {field.name: get_args(field.type)[1] for field in fields(BuildConfig) if get_args(field.type)}
_REQUIRED = {"run": "an output folder", "sources": "a name, with kind and path, for each"}


def load_build_config(path: str | Path, overrides: Sequence[str] = ()) -> BuildConfig:
    """Read the configuration of a construction run from YAML.

    Args:
        path (`str` or `Path`): the file.
        overrides (`Sequence[str]`, *optional*): `section.key=value` with the value in YAML, such as `run.engine=ray`
            or `sources.crawl.path=/data/crawl`.

    Raises:
        ValueError: for an unknown or missing section or key, an invalid value, captioners with other names, or a
            malformed override; names it.
        OSError: if the file cannot be read.
    """
    settings = read_settings(path, f"the sections {', '.join([*_SECTIONS, *_NAMED_SECTIONS])}")
    apply_overrides(settings, overrides, "run.engine=ray")
    check_keys(settings, {*_SECTIONS, *_NAMED_SECTIONS}, str(path))
    for name, content in _REQUIRED.items():
        if not settings.get(name):
            raise ValueError(f"{path} has no section `{name}`: it needs {content}")
    values: dict[str, Any] = {}
    for name, record in _SECTIONS.items():
        if settings.get(name) is not None:
            values[name] = _record(record, settings[name], f"section `{name}` of {path}")
    for name, record in _NAMED_SECTIONS.items():
        entries = settings.get(name) or {}
        if not isinstance(entries, dict):
            raise ValueError(f"section `{name}` of {path} must map names to settings, not {entries!r}")
        values[name] = {
            key: _record(record, entry, f"`{key}` in section `{name}` of {path}") for key, entry in entries.items()
        }
    for key, source in values["sources"].items():
        if source.name:
            raise ValueError(f"`{key}` in section `sources` of {path} already has this name: remove `name`")
        values["sources"][key] = replace(source, name=key)
    expected = [f"caption{number}" for number in range(1, len(values["captioners"]) + 1)]
    if list(values["captioners"]) != expected:
        raise ValueError(
            f"the names of the captioners of {path} are the caption columns: they must be {', '.join(expected)}, "
            f"not {', '.join(values['captioners'])}"
        )
    config = BuildConfig(**values)
    if config.captions.max_words > config.rules.max_words:
        raise ValueError(
            f"{path}: captions.max_words ({config.captions.max_words}, for the prompt) must not exceed "
            f"rules.max_words ({config.rules.max_words}, above which captions are rejected)"
        )
    return config


def _record(record: type, values: Any, place: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{place} must be a mapping of keys to values, not {values!r}")
    check_keys([str(key) for key in values], field_names(record), place)
    check_types(values, record, place)
    for key in fields(record):
        if key.default is MISSING and key.default_factory is MISSING and key.name not in values:
            raise ValueError(f"{place} lacks the key `{key.name}`")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return record(**values)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
