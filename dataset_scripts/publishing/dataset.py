"""Publish a data set: Parquet that `load_dataset` opens with no import of ours, and a card of what it holds."""

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.utils import validate_repo_id

from modeling_gadms.publishing.hub import check_push_target, push_folder
from modeling_gadms.publishing.upload_folder import (
    CARD,
    LeftOut,
    Publication,
    list_files,
    refuse_own_places,
    staging_folder,
)
from modeling_gadms.training.data import DatasetColumns

from ..inspection.splits import Inspection, choose_columns, inspect_splits
from ..loading import BENCHMARKS, open_dataset
from .construction import PUBLISHED
from .dataset_card import DRAWN, DatasetCardSettings, DatasetFacts, render_dataset_card
from .parquet_shards import SHARD_BYTES, check_shards, write_shards
from .private_traces import find_trace


_DRAWN_LICENSE = "apache-2.0"  # of the program that draws them
_NAMED = 3  # of many faults, as many are named
_SHARD = re.compile(r"(?P<split>[\w.]+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.parquet")


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
) -> Publication:
    """Push a data set to the Hub in one commit, or make the folder that would be pushed.

    A finished folder of `gadms build-webperson` goes as it is, with the card and the account that it has. Anything
    else that [`open_dataset`] opens is looked through, row by row, and written as Parquet with the images inside.

    Args:
        source (`str`): such a folder, or a name or folder that `open_dataset` takes.
        repo_id (`str`): `namespace/name`.
        dataset_args (`dict`, *optional*): of `open_dataset`.
        card ([`DatasetCardSettings`], *optional*): licence and what else only the publisher knows.
        image (`str`), captions (`Sequence[str]`), person_id (`str`), *optional*: columns, as `gadms inspect` takes
            them.
        may_redistribute (`bool`, *optional*, defaults to `False`): that the publisher has the right to pass on a
            benchmark whose licence forbids that.
        shard_bytes (`int`, *optional*, defaults to 400 MB): of each file, before compression.
        revision (`str`, *optional*), tag (`str`, *optional*), private (`bool`), dry_run (`str` or `Path`, *optional*):
            as of `publish_model`.
        progress (`bool`, *optional*, defaults to `True`): show progress bars.

    Returns:
        [`~modeling_gadms.publishing.upload_folder.Publication`]

    Raises:
        ValueError: if the licence is missing or forbids it, rows lack a readable image or a caption, rows tell
            of places on this machine or of where a picture was taken, a split is empty, or a run is not finished.
        OSError: if nothing is found under the name, or the Hub cannot be reached or refuses.
    """
    dry_run = None if dry_run is None else Path(dry_run)
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"{repo_id!r} must be a name on the Hub, namespace/name")
    if dry_run is None:
        check_push_target(repo_id, repo_type="dataset", revision=revision, tag=tag, private=private)
    arguments, card, run = dataset_args or {}, card or DatasetCardSettings(), Path(source)
    is_run = (run / "report.json").is_file() or (run / "work" / "markers").is_dir()
    left_out: list[LeftOut] = []
    with staging_folder(dry_run, beside=run if is_run else None) as staging:
        if is_run:
            if arguments or captions or person_id or card != DatasetCardSettings():
                raise ValueError(
                    f"{source} is a run of the pipeline, which has written its card: what it is to say goes into "
                    "section `card` of the run's file"
                )
            left_out = _stage_run(run, repo_id, staging)
        else:
            # What can be refused is, before rows are read.
            splits, is_benchmark = _open(source, arguments, may_redistribute)
            columns = choose_columns(next(iter(splits.values())).column_names, image, captions, person_id)
            facts = DatasetFacts(
                repo_id=repo_id,
                source=source,
                arguments=arguments,
                license=_license(source, card),
                by_permission=is_benchmark,
                columns=columns,
                features=next(iter(splits.values())).features,
                found=_look_through(source, splits, columns, progress),
                written={
                    str(name): write_shards(
                        split, str(name), staging / "data", shard_bytes=shard_bytes, progress=progress
                    )
                    for name, split in splits.items()
                },
                settings=card,
            )
            (staging / CARD).write_text(render_dataset_card(facts), encoding="utf-8", newline="\n")
        _check_that_it_opens(staging)
        refuse_own_places(staging, *([run] if run.exists() else []))
        pushed = None
        if dry_run is None:
            message = f"Publish {repo_id.partition('/')[2]}"
            pushed = push_folder(
                staging, repo_id, repo_type="dataset", message=message, revision=revision, tag=tag, private=private
            )
        return Publication(repo_id, list_files(staging), tuple(left_out), dry_run, pushed)


# ---------------------------------------------------------------------------------------------------------------------
# A run of the construction pipeline.
# ---------------------------------------------------------------------------------------------------------------------
def _stage_run(root: Path, repo_id: str, staging: Path) -> list[LeftOut]:
    missing = [name for name in PUBLISHED[:3] if not (root / name).is_file()]
    if missing or not list((root / "data").glob("train-*.parquet")):
        raise ValueError(
            f"{root} holds no finished run, as it has no {missing[0] if missing else 'data'}: run the pipeline to its "
            "end first"
        )
    published = {file for pattern in PUBLISHED for file in root.glob(pattern)}
    for file in sorted(published):
        place = staging / file.relative_to(root)
        place.parent.mkdir(exist_ok=True)
        if file.suffix == ".parquet":
            _link_or_copy(file, place)
        else:
            shutil.copyfile(file, place)
    # The card was written before anybody knew where it would go.
    text = (staging / CARD).read_text(encoding="utf-8")
    text = re.sub(r'load_dataset\("[^"]*", split="train"\)', f'load_dataset("{repo_id}", split="train")', text)
    (staging / CARD).write_text(text, encoding="utf-8", newline="\n")
    others = [path for path in sorted(root.iterdir()) if path not in published and path.name != "data"]
    return [LeftOut(f"{path.name}/" if path.is_dir() else path.name, "not what a run publishes") for path in others]


def _link_or_copy(file: Path, place: Path) -> None:
    """Five million pictures need not be there twice where they lie on one disk."""
    try:
        os.link(file.resolve(), place)
    except OSError:
        shutil.copyfile(file, place)


# ---------------------------------------------------------------------------------------------------------------------
# Any other data set.
# ---------------------------------------------------------------------------------------------------------------------
def _open(source: str, arguments: dict[str, Any], may_redistribute: bool) -> tuple[datasets.DatasetDict, bool]:
    """Returns: the splits, and whether they are a benchmark that is not everybody's to pass on."""
    by_name = _refuse_benchmarks(source, {source, Path(source).resolve().name}, may_redistribute)
    try:
        splits = open_dataset(source, **arguments)
    except TypeError as error:  # an argument that the builder does not have
        raise ValueError(f"arguments of {source}: {error}") from error
    if not isinstance(splits, datasets.DatasetDict) or not splits:
        raise ValueError(f"{source} opens as {type(splits).__name__}, not as splits: leave out the argument `split`")
    # A copy by `save_to_disk` still tells what it was read with.
    builders = {split.info.builder_name or "" for split in splits.values()}
    by_builder = _refuse_benchmarks(source, builders, may_redistribute)
    features = next(iter(splits.values())).features
    for name, split in splits.items():
        if split.features != features:
            raise ValueError(
                f"split `{name}` of {source} has other columns or features than the first; one configuration of a "
                "data set has the same in all"
            )
    return splits, by_name or by_builder


def _refuse_benchmarks(source: str, names: set[str], may_redistribute: bool) -> bool:
    """Whether one of the names is a benchmark's, which needs the publisher's word."""
    restricted = {name.lower(): title for builder, title in BENCHMARKS.items() for name in (builder, title)}
    known = sorted(restricted[name.lower()] for name in names if name.lower() in restricted)
    if known and not may_redistribute:
        raise ValueError(
            f"{source} is {known[0]}, whose authors do not let those who were given a copy pass it on: point to them "
            "instead. If you have their permission, say so with --i-may-redistribute"
        )
    return bool(known)


def _license(source: str, card: DatasetCardSettings) -> str:
    license = card.license or (_DRAWN_LICENSE if source == DRAWN else None)
    if not license:
        raise ValueError(
            f"under which licence is {source} to be published? Name it as the Hub does, with --license: cc-by-4.0, or "
            "`other` with --licence-notes"
        )
    if license == "other" and not card.licence_notes:
        raise ValueError("the licence `other` says nothing by itself: tell what is allowed with --licence-notes")
    return license


def _look_through(source: str, splits: datasets.DatasetDict, columns: DatasetColumns, progress: bool) -> Inspection:
    """Every row is read before one is published."""
    for name, split in splits.items():
        if trace := find_trace(split, columns.image):
            raise ValueError(
                f"row {trace.row} of split `{name}` of {source}: `{trace.column}` is {trace.what}: take that out of "
                "all rows before they are published"
            )
    found = inspect_splits(splits, columns, progress=progress)
    for name, inspected in found.splits.items():
        faulty = {"unreadable images": inspected.unreadable, "rows without a caption": inspected.without_caption}
        for what, faults in faulty.items():
            if faults:
                few = "; ".join(f"row {row}: {reason}" for row, reason in list(faults.items())[:_NAMED])
                raise ValueError(f"split `{name}` of {source} has {len(faults):,} {what} ({few}): drop or mend them")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Both.
# ---------------------------------------------------------------------------------------------------------------------
def _check_that_it_opens(folder: Path) -> None:
    """As whoever downloads it will, from its card and its files alone.

    Raises:
        ValueError: if files are missing or damaged, or `load_dataset` finds something else.
    """
    shards: dict[str, list[Path]] = {}
    for file in sorted((folder / "data").glob("*.parquet")):
        match = _SHARD.fullmatch(file.name)
        if match is None:
            raise ValueError(f"data/{file.name} is not named as a shard, <split>-00000-of-00001.parquet")
        shards.setdefault(match["split"], []).append(file)
    for split, files in shards.items():
        expected = [f"{split}-{number:05d}-of-{len(files):05d}.parquet" for number in range(len(files))]
        if [file.name for file in files] != expected:
            raise ValueError(
                f"shards of split `{split}` are missing: there are {', '.join(file.name for file in files)}"
            )
        if check_shards(files) == 0:
            raise ValueError(f"split `{split}` has no rows")
        with tempfile.TemporaryDirectory() as cache:  # a lock for this folder is of use to nobody later
            stream = datasets.load_dataset(str(folder.absolute()), split=split, streaming=True, cache_dir=cache)
            next(iter(stream))
