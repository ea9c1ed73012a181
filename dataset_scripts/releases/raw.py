"""Base class of the three benchmark builders, which read the authors' JSON file and folder of images.

Each row is one image with `image`, `image_path`, `captions` (all of them), `person_id` and `source_id`. `person_id` is
contiguous over the whole release, training persons first, as a classifier needs it. `source_id` is the number of the
person in the release.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import datasets

from modeling_gadms.encoders.atomic_files import file_digest

from .missing_images import check_on_missing_images, missing_images


VERSION = "1.0.1"  # raise it if any row changes: it is part of the cache's name
SPLITS = ("train", "validation", "test")
IMAGES = "imgs"
"""Folder of images in all three releases."""
_SPLIT_NAMES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_ROWS_PER_SHARD = 500


@dataclass(frozen=True)
class SplitCounts:
    """Size of a split."""

    images: int
    captions: int
    identities: int

    def __str__(self) -> str:
        return f"{self.images:,} images, {self.captions:,} captions, {self.identities:,} identities"


@dataclass(frozen=True)
class ReleaseFormat:
    """File names and keys of a release.

    Args:
        title (`str`): name of the benchmark and of its folder in a data root.
        annotations (`tuple[str, ...]`): possible names of the JSON file, case-insensitive.
        path_key (`str`): key of the image path, relative to the folder `imgs`.
        published (`dict[str, SplitCounts]`): sizes of the splits as published.
    """

    title: str
    annotations: tuple[str, ...]
    path_key: str
    published: dict[str, SplitCounts]


@dataclass(frozen=True)
class Entry:
    """One image of a release.

    Args:
        path (`str`): path relative to the folder of images, with `/`.
        captions (`tuple[str, ...]`): captions in the order of the release.
        source_id (`int`): number of the person in the release.
        split (`str`): `train`, `validation` or `test`.
    """

    path: str
    captions: tuple[str, ...]
    source_id: int
    split: str


@dataclass
class RawReleaseConfig(datasets.BuilderConfig):
    """Configuration of the three builders.

    Args:
        data_dir (`str`): folder of the release, with its JSON file and `imgs`, or the data root that contains it.
        on_missing_images (`str`, *optional*, defaults to `"error"`): what to do if annotated images are missing on
            disk. `"skip"` skips their rows with a warning. After adding the images, load with
            `download_mode="force_redownload"`.
        check_counts (`bool`, *optional*, defaults to `True`): warn if the sizes differ from the published ones.

    Raises:
        ValueError: if `on_missing_images` is unknown or `data_dir` is missing.
        FileNotFoundError: if the folder does not exist or does not contain the release.
    """

    version: str = VERSION
    on_missing_images: Literal["error", "skip"] = "error"
    check_counts: bool = True
    annotations_digest: str = ""
    """Set by the builder: digest of the JSON file. All options except `check_counts` are part of the cache's name."""

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Returns: a name made of the options that affect rows."""
        check_on_missing_images(self.on_missing_images)
        options = {key: value for key, value in config_kwargs.items() if key != "check_counts"}
        name: str = super().create_config_id(options, custom_features)
        return name


class RawRelease(datasets.GeneratorBasedBuilder):
    """Base class of the benchmark builders. A subclass sets `RELEASE`."""

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
        text, number = datasets.Value("string"), datasets.Value("int64")
        columns = {"image": datasets.Image(), "image_path": text, "captions": datasets.List(text)}
        return datasets.DatasetInfo(features=datasets.Features({**columns, "person_id": number, "source_id": number}))

    def choose_splits(self, entries: list[Entry]) -> list[Entry]:
        """Return the entries with the splits of this configuration, by default those of the release."""
        return entries

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        file = find_annotations(str(self.config.data_dir), self.RELEASE)
        entries = read_annotations(file, self.RELEASE)
        if self.config.check_counts:
            _warn_of_other_counts(entries, self.RELEASE, file)
        # Before skipping missing images, so that the held-out persons do not depend on them.
        entries = self.choose_splits(entries)
        folder = file.parent / IMAGES
        missing = missing_images((entry.path for entry in entries), folder, file, self.config.on_missing_images)
        entries = [entry for entry in entries if entry.path not in missing]
        person_ids = number_persons(entries)
        generators = []
        for split in SPLITS:
            own = [entry for entry in entries if entry.split == split]
            shards = [own[start : start + _ROWS_PER_SHARD] for start in range(0, len(own), _ROWS_PER_SHARD)]
            if own:
                sources = {"shards": shards, "person_ids": person_ids, "folder": str(folder)}
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs=sources))
        return generators

    def _generate_examples(
        self, shards: list[list[Entry]], person_ids: dict[int, int], folder: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for entry in (entry for shard in shards for entry in shard):
            yield (
                entry.path,
                {
                    # Store the content, so that rows stay valid if the folder is moved. With a path, `datasets` would
                    # drop the content if the working directory happened to contain such a file.
                    "image": {"bytes": Path(folder, entry.path).read_bytes(), "path": None},
                    "image_path": entry.path,
                    "captions": list(entry.captions),
                    "person_id": person_ids[entry.source_id],
                    "source_id": entry.source_id,
                },
            )


def find_annotations(data_dir: str, release: ReleaseFormat) -> Path:
    """Find the JSON file of a release in its folder or in the data root.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are two.
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
    """Read all images of a release, in the order of their first entries.

    Entries of the same image are merged, with a warning.

    Raises:
        ValueError: naming the entry, if it lacks a key or a caption, its split is unknown, its path leaves the folder
            of images, its id is not an integer, its image has two ids or splits, or its person is in two splits.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except ValueError as error:
        raise ValueError(f"{file} is not JSON in UTF-8: {error}") from error
    if not isinstance(raw, list) or not raw:
        raise ValueError(f"{file} must contain a list of entries, not {str(raw)[:80]}")
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
            f"{file}: {repeated:,} entries repeat an earlier one and are skipped, {united:,} add captions to the "
            "image of an earlier one and are merged with it",
            UserWarning,
            stacklevel=2,
        )
    splits: dict[int, str] = {}
    for entry in entries.values():
        if splits.setdefault(entry.source_id, entry.split) != entry.split:
            raise ValueError(
                f"{file}: person {entry.source_id} is in {splits[entry.source_id]} and, with {entry.path}, in "
                f"{entry.split}: a person must be in one split"
            )
    return list(entries.values())


def _entry(values: Any, release: ReleaseFormat, place: str) -> Entry:
    keys = ("id", release.path_key, "captions", "split")
    if not isinstance(values, dict) or (lacking := [key for key in keys if key not in values]):
        lacks = f"lacks the key `{lacking[0]}`" if isinstance(values, dict) else "is not an object"
        raise ValueError(f"{place} {lacks}: {str(values)[:200]}; entries have the keys {', '.join(keys)}")
    source_id, path, captions, split = (values[key] for key in keys)
    if isinstance(source_id, bool) or not isinstance(source_id, int):
        raise ValueError(f"{place}: id = {source_id!r} is not a whole number")
    name = _SPLIT_NAMES.get(split.strip().lower()) if isinstance(split, str) else None
    if name is None:
        raise ValueError(f"{place}: split = {split!r} is none of {', '.join(_SPLIT_NAMES)}")
    if not isinstance(captions, list) or not captions:
        raise ValueError(f"{place} has no captions, but {captions!r}")
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"{place} has the empty caption {caption!r}: fill it in or remove it")
    if not isinstance(path, str) or not path.strip():
        raise ValueError(f"{place}: {release.path_key} = {path!r} is not an image path")
    clean = PurePosixPath(path.strip().replace("\\", "/"))
    if clean.is_absolute() or ".." in clean.parts or ":" in clean.parts[0]:
        raise ValueError(f"{place}: the path {path!r} leaves the folder `{IMAGES}`")
    return Entry(str(clean), tuple(captions), source_id, name)


def count_splits(entries: Iterable[Entry]) -> dict[str, SplitCounts]:
    """Count images, captions and identities of each existing split."""
    by_split: dict[str, list[Entry]] = {}
    for entry in entries:
        by_split.setdefault(entry.split, []).append(entry)
    return {
        split: SplitCounts(
            len(own), sum(len(entry.captions) for entry in own), len({entry.source_id for entry in own})
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
            f"{file} is not the published {release.title} ({' | '.join(differing)}), so results on it cannot be "
            "compared with published ones. For your own subset, use check_counts=False",
            UserWarning,
            stacklevel=2,
        )


def number_persons(entries: Iterable[Entry]) -> dict[int, int]:
    """Map the ids of a release to contiguous ids from 0: training first, each split in order."""
    splits = {entry.source_id: entry.split for entry in entries}
    ordered = sorted(splits, key=lambda source_id: (SPLITS.index(splits[source_id]), source_id))
    return {source_id: number for number, source_id in enumerate(ordered)}
