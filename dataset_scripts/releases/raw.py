"""Benchmarks as their authors release them, a JSON file and a folder of images: what the three builders share.

Every row is an image: `image`, `image_path`, `captions` (all of them), `person_id` and `source_id`. `person_id` counts
the persons of the whole release without gaps, those of training first, as a classifier needs it; `source_id` is the
number in the release.
"""

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import datasets

from modeling_gadms.encoders.atomic_files import file_digest

from .missing_images import check_on_missing_images, report_missing_images


VERSION = "1.0.1"  # raise it whenever a row changes: it is part of the cache's name
SPLITS = ("train", "validation", "test")
IMAGES = "imgs"
"""Folder of the images, in all three releases."""
_SPLIT_NAMES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_ROWS_PER_SHARD = 500


@dataclass(frozen=True)
class SplitCounts:
    """What a split holds."""

    images: int
    captions: int
    identities: int

    def __str__(self) -> str:
        return f"{self.images:,} images, {self.captions:,} captions, {self.identities:,} identities"


@dataclass(frozen=True)
class ReleaseFormat:
    """How a release is laid out.

    Args:
        title (`str`): its name, and that of its folder in a data root.
        annotations (`tuple[str, ...]`): names under which the JSON file is found, in any case of letters.
        path_key (`str`): key of an image's path, relative to the folder `imgs`.
        published (`dict[str, SplitCounts]`): what its authors count, by split.
    """

    title: str
    annotations: tuple[str, ...]
    path_key: str
    published: dict[str, SplitCounts]


@dataclass(frozen=True)
class Entry:
    """One image of a release.

    Args:
        path (`str`): relative to the folder of images, with `/`.
        captions (`tuple[str, ...]`): in the order of the release.
        source_id (`int`): the person's number in the release.
        split (`str`): `train`, `validation` or `test`.
    """

    path: str
    captions: tuple[str, ...]
    source_id: int
    split: str


@dataclass
class RawReleaseConfig(datasets.BuilderConfig):
    """Options of the three builders.

    Args:
        data_dir (`str`): the release's folder, with its JSON file and `imgs`; or the data root that folder is in.
        on_missing_images (`str`, *optional*, defaults to `"error"`):
            What to do where annotated images are not on disk. `"skip"` leaves their rows out, with a warning that
            counts them; once they are there, load with `download_mode="force_redownload"`.
        check_counts (`bool`, *optional*, defaults to `True`): warn where the counts are not the published ones.

    Raises:
        ValueError: for an unknown `on_missing_images`, or without `data_dir`.
        FileNotFoundError: if the folder is not there, or holds no such release.
    """

    version: str = VERSION
    on_missing_images: Literal["error", "skip"] = "error"
    check_counts: bool = True
    annotations_digest: str = ""
    """Filled in: of the JSON file's content. It is part of the cache's name, as every option is but `check_counts`."""

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Returns: a name made of the options that bear on the rows."""
        check_on_missing_images(self.on_missing_images)
        options = {key: value for key, value in config_kwargs.items() if key != "check_counts"}
        name: str = super().create_config_id(options, custom_features)
        return name


class RawRelease(datasets.GeneratorBasedBuilder):
    """What the builders of [`ReleaseFormat`]s share. A subclass names its format in `RELEASE`."""

    BUILDER_CONFIG_CLASS = RawReleaseConfig
    BUILDER_CONFIGS: ClassVar[list[RawReleaseConfig]] = [RawReleaseConfig(name="default")]
    DEFAULT_CONFIG_NAME = "default"
    RELEASE: ClassVar[ReleaseFormat]
    config: RawReleaseConfig

    def _create_builder_config(
        self, config_name: str | None = None, custom_features: datasets.Features | None = None, **options: Any
    ) -> tuple[RawReleaseConfig, str]:
        known = {field.name for field in fields(RawReleaseConfig)}
        for name in options:
            if name not in known and name != "config_id":  # which `datasets` gives itself
                raise ValueError(f"{self.RELEASE.title} has no option {name!r}; it has {', '.join(sorted(known))}")
        data_dir = options.get("data_dir")
        if not data_dir:
            raise ValueError(f'{self.RELEASE.title} is not on the Hub: give data_dir="<your copy of its folder>"')
        file = find_annotations(data_dir, self.RELEASE)
        options["data_dir"] = str(file.parent)
        digest = file_digest(file)[:16]
        return super()._create_builder_config(config_name, custom_features, annotations_digest=digest, **options)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "image_path": datasets.Value("string"),
                    "captions": datasets.List(datasets.Value("string")),
                    "person_id": datasets.Value("int64"),
                    "source_id": datasets.Value("int64"),
                }
            )
        )

    def choose_splits(self, entries: list[Entry]) -> list[Entry]:
        """The entries with the splits of this configuration; by default those of the release."""
        return entries

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        file = find_annotations(str(self.config.data_dir), self.RELEASE)
        entries = read_annotations(file, self.RELEASE)
        if self.config.check_counts:
            _warn_of_other_counts(entries, self.RELEASE, file)
        # Before images are left out: who is held out does not depend on what a copy lacks.
        entries = self.choose_splits(entries)
        entries = _with_images(entries, file, self.config.on_missing_images)
        person_ids = number_persons(entries)
        generators = []
        for split in SPLITS:
            own = [entry for entry in entries if entry.split == split]
            shards = [own[start : start + _ROWS_PER_SHARD] for start in range(0, len(own), _ROWS_PER_SHARD)]
            if own:
                sources = {"shards": shards, "person_ids": person_ids, "folder": str(file.parent / IMAGES)}
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs=sources))
        return generators

    def _generate_examples(
        self, shards: list[list[Entry]], person_ids: dict[int, int], folder: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for entry in (entry for shard in shards for entry in shard):
            yield (
                entry.path,
                {
                    # The file's content, not its place: rows outlive a folder that is moved. With a path, `datasets`
                    # would drop the content wherever the working directory happens to have such a file.
                    "image": {"bytes": Path(folder, entry.path).read_bytes(), "path": None},
                    "image_path": entry.path,
                    "captions": list(entry.captions),
                    "person_id": person_ids[entry.source_id],
                    "source_id": entry.source_id,
                },
            )


def find_annotations(data_dir: str, release: ReleaseFormat) -> Path:
    """The JSON file of a release, in its folder or in the data root around that.

    Raises:
        FileNotFoundError: naming what was looked for.
        ValueError: if two files could be it.
    """
    root = Path(data_dir).expanduser().absolute()
    names = {name.lower() for name in release.annotations}
    for folder in (root, root / release.title):
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        found = [file for file in files if file.name.lower() in names]
        if len(found) > 1:
            raise ValueError(f"{folder} holds both {found[0].name} and {found[1].name}; keep the one to read")
        if not found:
            continue
        file = found[0]
        if not (folder / IMAGES).is_dir():
            raise FileNotFoundError(f"{folder} holds {file.name} but no folder `{IMAGES}` of images beside it")
        return file
    raise FileNotFoundError(
        f"{root} holds no {release.title}: looked for {' or '.join(release.annotations)} there and in its folder "
        f"{release.title}" + ("" if root.is_dir() else f"; {root} is no folder")
    )


def read_annotations(file: Path, release: ReleaseFormat) -> list[Entry]:
    """All images of a release, in the order of their first entries.

    Entries that repeat an earlier one are merged with it, and so are several captions of one image of one person. A
    warning counts them.

    Raises:
        ValueError: naming the entry, if one lacks a key, has an unknown split, no caption or an empty one, a path out
            of the folder of images, an identity that is no whole number, an image with two identities or splits, or a
            person in two splits.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except ValueError as error:
        raise ValueError(f"{file} is no JSON in UTF-8: {error}") from error
    if not isinstance(raw, list) or not raw:
        raise ValueError(f"{file} should hold a list of entries; it holds {str(raw)[:80]}")
    entries: dict[str, Entry] = {}
    repeated = united = 0
    for number, values in enumerate(raw):
        entry = _entry(values, release, f"{file}, entry {number}")
        earlier = entries.setdefault(entry.path, entry)
        if earlier is entry:
            continue
        if (earlier.source_id, earlier.split) != (entry.source_id, entry.split):
            raise ValueError(
                f"{file}, entry {number}: {entry.path} is of person {entry.source_id} in {entry.split}, and in an "
                f"earlier entry of person {earlier.source_id} in {earlier.split}"
            )
        new = tuple(caption for caption in entry.captions if caption not in earlier.captions)
        entries[entry.path] = replace(earlier, captions=earlier.captions + new)
        repeated, united = repeated + (not new), united + bool(new)
    if repeated or united:
        warnings.warn(
            f"{file}: {repeated:,} entries repeat an earlier one and are left out, {united:,} add captions to the "
            "image of an earlier one and are merged with it",
            UserWarning,
            stacklevel=2,
        )
    splits: dict[int, str] = {}
    for entry in entries.values():
        if splits.setdefault(entry.source_id, entry.split) != entry.split:
            raise ValueError(
                f"{file}: person {entry.source_id} is in {splits[entry.source_id]} and, with {entry.path}, in "
                f"{entry.split}; a person belongs to one split"
            )
    return list(entries.values())


def _entry(values: Any, release: ReleaseFormat, place: str) -> Entry:
    keys = ("id", release.path_key, "captions", "split")
    if not isinstance(values, dict) or (lacking := [key for key in keys if key not in values]):
        lacks = f"lacks the key `{lacking[0]}`" if isinstance(values, dict) else "is no entry with keys"
        raise ValueError(f"{place} {lacks}: {str(values)[:200]}; entries have the keys {', '.join(keys)}")
    source_id, path, captions, split = (values[key] for key in keys)
    if isinstance(source_id, bool) or not isinstance(source_id, int):
        raise ValueError(f"{place}: id = {source_id!r} is no whole number")
    name = _SPLIT_NAMES.get(split.strip().lower()) if isinstance(split, str) else None
    if name is None:
        raise ValueError(f"{place}: split = {split!r} is none of {', '.join(_SPLIT_NAMES)}")
    if not isinstance(captions, list) or not captions:
        raise ValueError(f"{place} has no captions, but {captions!r}")
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"{place} has the empty caption {caption!r}; describe the person or take it out")
    if not isinstance(path, str) or not path.strip():
        raise ValueError(f"{place}: {release.path_key} = {path!r} is no path of an image")
    clean = PurePosixPath(path.strip().replace("\\", "/"))
    if clean.is_absolute() or ".." in clean.parts or ":" in clean.parts[0]:
        raise ValueError(f"{place}: the path {path!r} leads out of the folder `{IMAGES}`")
    return Entry(str(clean), tuple(captions), source_id, name)


def count_splits(entries: Iterable[Entry]) -> dict[str, SplitCounts]:
    """Images, captions and identities by split, of the splits that there are."""
    by_split: dict[str, list[Entry]] = {}
    for entry in entries:
        by_split.setdefault(entry.split, []).append(entry)
    return {
        split: SplitCounts(
            images=len(own),
            captions=sum(len(entry.captions) for entry in own),
            identities=len({entry.source_id for entry in own}),
        )
        for split, own in by_split.items()
    }


def _warn_of_other_counts(entries: Sequence[Entry], release: ReleaseFormat, file: Path) -> None:
    found, published = count_splits(entries), release.published
    differing = [
        f"{split}: {found.get(split, 'nothing')}; published: {published.get(split, 'no such split')}"
        for split in SPLITS
        if found.get(split) != published.get(split)
    ]
    if differing:
        warnings.warn(
            f"{file} is not the published {release.title} ({' | '.join(differing)}), so results on it do not compare "
            "with published ones. For a subset of your own, check_counts=False",
            UserWarning,
            stacklevel=2,
        )


def _with_images(entries: list[Entry], file: Path, on_missing_images: str) -> list[Entry]:
    folder = file.parent / IMAGES
    on_disk = {
        Path(place, name).relative_to(folder).as_posix()
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
    }
    missing = [entry.path for entry in entries if entry.path not in on_disk]
    if not missing:
        return entries
    report_missing_images(missing, len(entries), file, folder, on_missing_images)
    return [entry for entry in entries if entry.path in on_disk]


def number_persons(entries: Iterable[Entry]) -> dict[int, int]:
    """Persons by their numbers in the release: counted from 0 without gaps, training first, each split in order."""
    splits = {entry.source_id: entry.split for entry in entries}
    ordered = sorted(splits, key=lambda source_id: (SPLITS.index(splits[source_id]), source_id))
    return {source_id: number for number, source_id in enumerate(ordered)}
