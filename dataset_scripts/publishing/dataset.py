"""Publish a data set: Parquet files that `load_dataset` loads without code of ours, and a data set card."""

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from modeling_gadms.publishing.hub import check_push_target, check_repo_id
from modeling_gadms.publishing.upload_folder import (
    CARD,
    Excluded,
    PublishReport,
    new_upload_folder,
    publish_upload_folder,
)
from modeling_gadms.training.data import DatasetColumns

from ..construction.storage import Location, location, matching
from ..inspection.splits import Inspection, choose_columns, inspect_splits
from ..loading import BENCHMARKS, load_splits
from .dataset_card import SYNTHETIC, DatasetCardSettings, DatasetFacts, render_dataset_card
from .parquet_shards import SHARD_BYTES, check_shards, write_shards
from .private_traces import refuse_private_traces


REPORT, REPORT_FIGURE = "report.json", "report.png"
"""Files of the pipeline report in the folder of a construction run."""
_RUN_FILES = (CARD, REPORT, REPORT_FIGURE)
_REPLACED = ("data/*", REPORT, REPORT_FIGURE)
"""Files of an earlier version that a push deletes. A reader would load old shards along with the new ones."""
_SYNTHETIC_LICENSE = "apache-2.0"  # the licence of the program that draws the images
_MAX_NAMED = 3  # faults that an error message lists
_SHARD = re.compile(r"(?P<split>[\w.]+)-\d{5,}-of-\d{5,}\.parquet")


def publish_dataset(
    source: str,
    repo_id: str,
    *,
    dataset_args: dict[str, Any] | None = None,
    card: DatasetCardSettings | None = None,
    image: str = "image",
    captions: Sequence[str] = (),
    person_id: str | None = None,
    may_redistribute: bool = False,
    shard_bytes: int = SHARD_BYTES,
    revision: str | None = None,
    tag: str | None = None,
    private: bool = False,
    dry_run: str | Path | None = None,
    progress: bool = True,
) -> PublishReport:
    """Push a data set to the Hub in one commit, or write the folder that would be pushed.

    The folder of a finished construction run (`gadms build-webperson`) is pushed unchanged, with its own card and
    pipeline report. Any other data set that [`load_splits`] loads is inspected row by row and written as Parquet with
    the images inside. Other files in the repository are kept.

    Args:
        source (`str`): the folder of a run or its URL, or a name or folder that `load_splits` takes.
        repo_id (`str`): `namespace/name`.
        dataset_args (`dict`, *optional*): arguments of `load_splits`.
        card ([`DatasetCardSettings`], *optional*): licence and other statements of the publisher. The card of a run
            takes them from section `card` of the run's configuration instead.
        image (`str`), captions (`Sequence[str]`), person_id (`str`), *optional*: columns, as in `gadms inspect`.
        may_redistribute (`bool`, *optional*, defaults to `False`): whether the publisher has the right to redistribute
            a benchmark whose licence forbids it.
        shard_bytes (`int`, *optional*, defaults to 400 MB): size of a Parquet file before compression.
        revision (`str`, *optional*), tag (`str`, *optional*), private (`bool`), dry_run (`str` or `Path`, *optional*):
            as in `publish_model`.
        progress (`bool`, *optional*, defaults to `True`): show progress bars.

    Returns:
        [`~modeling_gadms.publishing.upload_folder.PublishReport`]

    Raises:
        ValueError: if the licence is missing or forbids publishing, rows lack a readable image or a caption, rows
            contain paths on this machine or the GPS position of an image, a split is empty, or a run is not finished.
        OSError: if the source is not found, or the Hub cannot be reached or refuses.
    """
    dry_run = None if dry_run is None else Path(dry_run)
    target: dict[str, Any] = {"repo_type": "dataset", "revision": revision, "tag": tag, "private": private}
    check_repo_id(repo_id)
    if dry_run is None:
        check_push_target(repo_id, **target)
    arguments, card, folder = dataset_args or {}, card or DatasetCardSettings(), location(source)
    is_run = (folder / REPORT).is_file() or (folder / "work" / "markers").is_dir()
    excluded: list[Excluded] = []
    with new_upload_folder(dry_run, beside=folder if is_run and isinstance(folder, Path) else None) as upload:
        if is_run:
            if arguments or captions or person_id or card != DatasetCardSettings():
                raise ValueError(
                    f"{source} is a construction run, which has its own card: change section `card` of its "
                    "configuration and run the pipeline again"
                )
            excluded = _copy_run(folder, repo_id, upload)
        else:
            # Check everything that needs no rows before reading them.
            splits, is_benchmark = _load(source, arguments, may_redistribute)
            columns = choose_columns(next(iter(splits.values())).column_names, image, captions, person_id)
            license = _license(source, card)
            found = _inspect(source, splits, columns, progress)
            written = {
                str(name): write_shards(split, str(name), upload / "data", shard_bytes=shard_bytes, progress=progress)
                for name, split in splits.items()
            }
            facts = DatasetFacts(
                repo_id=repo_id,
                license=license,
                columns=columns,
                features=next(iter(splits.values())).features,
                written=written,
                captions=sum(split.captions for split in found.splits.values()),
                settings=card,
                source=source,
                arguments=arguments,
                by_permission=is_benchmark,
                found=found,
            )
            (upload / CARD).write_text(render_dataset_card(facts), encoding="utf-8", newline="\n")
        _check_loading(upload)
        return publish_upload_folder(
            upload,
            repo_id,
            sources=[folder] if isinstance(folder, Path) and folder.exists() else [],
            excluded=excluded,
            dry_run=dry_run,
            replace=_REPLACED,
            **target,
        )


def _copy_run(root: Location, repo_id: str, upload: Path) -> list[Excluded]:
    """Copy what a construction run publishes. Returns: the entries of its folder that are not published."""
    shards = matching(root / "data", "train-*.parquet")
    missing = [name for name in _RUN_FILES if not (root / name).is_file()] + ([] if shards else ["data"])
    if missing:
        raise ValueError(f"{root} is not a finished run: {missing[0]} is missing. Run the pipeline to its end first")
    (upload / "data").mkdir()
    for shard in shards:
        _link_or_copy(shard, upload / "data" / shard.name)
    for name in _RUN_FILES:
        (upload / name).write_bytes((root / name).read_bytes())
    # The card names the folder of the run, as it was written before the name on the Hub was known.
    text = (upload / CARD).read_text(encoding="utf-8")
    text = re.sub(r'load_dataset\("[^"]*", split="train"', f'load_dataset("{repo_id}", split="train"', text)
    (upload / CARD).write_text(text, encoding="utf-8", newline="\n")
    others = sorted(
        (path for path in root.iterdir() if path.name not in (*_RUN_FILES, "data")), key=lambda path: path.name
    )
    return [Excluded(f"{path.name}/" if path.is_dir() else path.name, "not what a run publishes") for path in others]


def _link_or_copy(file: Location, target: Path) -> None:
    """Hard links save the disk space of a copy, which can be hundreds of gigabytes."""
    if not isinstance(file, Path):
        file.download(target)
        return
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)


def _load(source: str, arguments: dict[str, Any], may_redistribute: bool) -> tuple[datasets.DatasetDict, bool]:
    """Returns: the splits, and whether they are a benchmark with restricted redistribution."""
    by_name = _refuse_benchmarks(source, {source, Path(source).resolve().name}, may_redistribute)
    try:
        splits = load_splits(source, **arguments)
    except TypeError as error:  # an argument that the builder does not have
        raise ValueError(f"arguments of {source}: {error}") from error
    if not isinstance(splits, datasets.DatasetDict) or not splits:
        raise ValueError(f"{source} loads as {type(splits).__name__}, not as splits: remove the argument `split`")
    # A copy written by `save_to_disk` still names its builder.
    builders = {split.info.builder_name or "" for split in splits.values()}
    by_builder = _refuse_benchmarks(source, builders, may_redistribute)
    features = next(iter(splits.values())).features
    for name, split in splits.items():
        if split.features != features:
            raise ValueError(
                f"split `{name}` of {source} has other columns or features than the first split: all splits must have "
                "the same"
            )
    return splits, by_name or by_builder


def _refuse_benchmarks(source: str, names: set[str], may_redistribute: bool) -> bool:
    """Whether one of the names is a benchmark's. Raises ValueError without the publisher's statement."""
    restricted = {name.lower(): title for builder, title in BENCHMARKS.items() for name in (builder, title)}
    known = sorted(restricted[name.lower()] for name in names if name.lower() in restricted)
    if known and not may_redistribute:
        raise ValueError(
            f"{source} is {known[0]}, whose authors do not allow redistribution: link to their release instead. If "
            "you have their permission, state it with --i-may-redistribute"
        )
    return bool(known)


def _license(source: str, card: DatasetCardSettings) -> str:
    license = card.license or (_SYNTHETIC_LICENSE if source == SYNTHETIC else None)
    if not license:
        raise ValueError(
            f"{source} has no licence to be published under: give the Hub's identifier with --license, such as "
            "cc-by-4.0, or `other` with --licence-notes"
        )
    if license == "other" and not card.licence_notes:
        raise ValueError("the licence `other` needs an explanation of what is allowed: give it with --licence-notes")
    return license


def _inspect(source: str, splits: datasets.DatasetDict, columns: DatasetColumns, progress: bool) -> Inspection:
    """Read every row, before any is written, and refuse faulty ones."""
    for name, split in splits.items():
        refuse_private_traces(split, columns.image, f"split `{name}` of {source}")
    found = inspect_splits(splits, columns, progress=progress)
    for name, inspected in found.splits.items():
        faulty = {"unreadable images": inspected.unreadable, "rows without a caption": inspected.without_caption}
        for what, faults in faulty.items():
            if faults:
                few = "; ".join(f"row {row}: {reason}" for row, reason in list(faults.items())[:_MAX_NAMED])
                raise ValueError(f"split `{name}` of {source} has {len(faults):,} {what} ({few}): drop or repair them")
    return found


def _check_loading(folder: Path) -> None:
    """Check the shards, and stream one row of each split as a user of the data set would.

    Raises:
        ValueError: if files are missing or damaged, or a split has no rows.
    """
    shards: dict[str, list[Path]] = {}
    for file in sorted((folder / "data").glob("*.parquet")):
        match = _SHARD.fullmatch(file.name)
        if match is None:
            raise ValueError(f"data/{file.name} is not named like a shard, <split>-00000-of-00001.parquet")
        shards.setdefault(match["split"], []).append(file)
    for split, files in shards.items():
        digits = max(5, len(str(len(files))))
        expected = [f"{split}-{n:0{digits}d}-of-{len(files):0{digits}d}.parquet" for n in range(len(files))]
        names = [file.name for file in files]
        if names != expected:
            raise ValueError(f"shards of split `{split}` are missing: data contains only {', '.join(names)}")
        if check_shards(files) == 0:
            raise ValueError(f"split `{split}` has no rows")
        with tempfile.TemporaryDirectory() as cache:  # `load_dataset` would leave a lock in the user's cache
            stream = datasets.load_dataset(str(folder.absolute()), split=split, streaming=True, cache_dir=cache)
            next(iter(stream))
