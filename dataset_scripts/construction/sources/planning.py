"""Split the sources of a run (image folders, WebDataset tars, videos) into shards, and read the images of a shard."""

import errno
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from modeling_gadms.media.folders import list_images, passed_over_kind
from modeling_gadms.media.images import to_jpeg
from modeling_gadms.media.video import count_frames, read_frames

from ..blocks import ROW_SCHEMA, stable_id
from ..storage import Location, RemotePath, local_copies, location, matching
from .items import MAX_FILE_BYTES, SourceItem, SourceProblem, plain_text
from .tars import failures_beside, read_tar


SourceKind = Literal["folder", "tars", "video", "urls"]
FRAME_QUALITY = 95
"""JPEG quality of video frames, with full colour resolution: the loss is negligible beside that of the video."""
_CONCURRENT_READS = 16
"""Image files that are read from an object store at a time, where each takes some tens of milliseconds. Chosen."""
_TAR_ROOM = 1_000_000_000  # positions reserved per tar; positions only order rows

SOURCE_SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        pa.field("image_id", pa.string()),
        pa.field("source", pa.string()),  # relative path of a file, member of a tar, or frame of a video
        pa.field("url", pa.string()),  # URL it was fetched from, if any
        pa.field("frame", pa.int64()),
        pa.field("time_seconds", pa.float64()),
        pa.field("image", pa.large_binary()),  # content of an image file
    ]
)


@dataclass(frozen=True)
class SourceSettings:
    """One source of images. Symbolic links to files are followed in folders, never in tars.

    Args:
        kind (`str`): `"folder"` (image files, recursively, in sorted order), `"tars"` (a WebDataset tar, or a folder
            of them), `"video"`, or `"urls"` (a table of URLs, which is fetched into tars first).
        path (`str`): the folder or file, or its URL, such as `s3://bucket/folder`. Tars, videos and tables at a URL
            are copied into the temporary folder (`TMPDIR`) while they are read.
        name (`str`, *optional*): part of row ids instead of the path, so that ids do not depend on where the source
            is stored; by default the last part of the path.
        every (`int`, *optional*, defaults to 1): for a video, use every n-th frame.

    Raises:
        ValueError: for an unknown kind, an empty path, or an `every` that is below 1 or not for a video.
    """

    kind: SourceKind
    path: str
    name: str = ""
    every: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(SourceKind):
            kinds = ", ".join(get_args(SourceKind))
            raise ValueError(f"`kind` of a source must be one of {kinds}, not {self.kind!r}")
        if not self.path:
            raise ValueError("`path` of a source is empty: name its folder or file")
        if self.every < 1:
            raise ValueError(f"`every` must be 1 or more, not {self.every}: every n-th frame is used")
        if self.every > 1 and self.kind != "video":
            raise ValueError(f"`every` is only for videos; {self.path} is a source of kind {self.kind}")

    @property
    def label(self) -> str:
        return self.name or Path(self.path).name


@dataclass(frozen=True)
class Shard:
    """One unit of work: a range of items of one source.

    Attributes:
        number (`int`): number of the shard over all sources.
        source (`SourceSettings`): the source.
        start, stop (`int`): range of items: files or tars of a folder, or frames of a video.
        position (`int`): position of the first item over all sources.
        expected (`int`, *optional*): number of images; `None` if unknown before reading.
        files (`tuple[str, ...]`): files relative to the source's folder; empty for a video. They are listed once, when
            planning, so that added or removed files do not move others to another shard.
    """

    number: int
    source: SourceSettings
    start: int
    stop: int
    position: int
    expected: int | None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The shards of all sources, with a digest that detects changed sources.

    Attributes:
        shards (`tuple[Shard, ...]`): in the order of the sources.
        digest (`str`): digest of names and sizes of all files and of the settings that affect what is read.
    """

    shards: tuple[Shard, ...]
    digest: str


_Planned = tuple[list[Shard], int, list[Any]]
"""Shards without numbers, the number of positions they occupy, and the content for the digest."""


def plan_shards(sources: Sequence[SourceSettings], images_per_shard: int) -> Plan:
    """Split sources into shards of about equal size.

    Args:
        sources (`Sequence[SourceSettings]`): in the order of the data set.
        images_per_shard (`int`): maximum number of images per shard. A tar is never split: each is one shard.

    Raises:
        FileNotFoundError: if a source does not exist.
        NotADirectoryError: if a source of kind `"folder"` is not a folder.
        ValueError: if a source is empty or a table of URLs, if a video does not open, if the name of a source is
            missing or used twice, or if `images_per_shard` is not positive.
    """
    if images_per_shard < 1:
        raise ValueError(f"images_per_shard must be 1 or more, not {images_per_shard}")
    labels = Counter(source.label for source in sources)
    for label, count in labels.items():
        if label in ("", "..") or count > 1:
            raise ValueError(
                f"{count} of the sources have the name {label!r}, which is part of row ids: give each its own `name`"
            )
    shards: list[Shard] = []
    digest, position = hashlib.sha256(), 0
    for source in sources:
        if not location(source.path).exists():
            raise FileNotFoundError(f"the source {source.path} does not exist")
        if source.kind == "urls":
            raise ValueError(
                f"the source {source.path} is a table of URLs: it must be fetched into tars before planning"
            )
        planned, room, content = _PLANNERS[source.kind](source, images_per_shard, position)
        if not planned:
            raise ValueError(f"the source {source.path} is empty: it contains no {_WHAT[source.kind]}")
        # JSON is unambiguous and encodes any name in ASCII.
        digest.update(json.dumps([source.label, source.kind, source.every, content]).encode())
        shards += planned
        position += room
    numbered = tuple(replace(shard, number=number) for number, shard in enumerate(shards))
    return Plan(numbered, digest.hexdigest())


def read_shard(shard: Shard) -> pa.Table:
    """Read the images of a shard; an unreadable one becomes a rejected row with its reason.

    Returns:
        `pa.Table` with the columns of `SOURCE_SCHEMA`, in the order of the source.
    """
    reader = {"folder": _read_folder, "tars": _read_tars, "video": _read_video}[shard.source.kind]
    label = plain_text(shard.source.label)
    seen: Counter[str] = Counter()
    rows = []
    for number, item in enumerate(reader(shard)):
        name = plain_text(item.name)
        # Not from the URL, which several rows may share. Items of equal names get different ids.
        image_id = stable_id(label, name, str(seen[name])) if seen[name] else stable_id(label, name)
        seen[name] += 1
        rows.append(
            {
                "row_id": image_id,
                "shard": shard.number,
                "position": shard.position + number,
                "trail": _trail(item),
                "rejected_by": item.rejected_by if item.problem else None,
                "reason": item.problem,
                "detail": plain_text(item.detail) if item.detail else None,
                "image_id": image_id,
                "source": f"{label}/{name}",
                "url": item.url,
                "frame": item.frame,
                "time_seconds": item.time_seconds,
                "image": item.image,
            }
        )
    return pa.Table.from_pylist(rows, SOURCE_SCHEMA)


def _plan_folder(source: SourceSettings, images_per_shard: int, position: int) -> _Planned:
    sizes = _image_sizes(location(source.path))
    names = list(sizes)
    shards = []
    for start in range(0, len(names), images_per_shard):
        files = tuple(names[start : start + images_per_shard])
        shards.append(Shard(0, source, start, start + len(files), position + start, len(files), files))
    return shards, len(names), list(sizes.items())


def _image_sizes(root: Location) -> dict[str, int | None]:
    """Sizes of the image files below a folder by name, in the order of `list_images`."""
    if isinstance(root, Path):
        # Special files are rows with a reason, as every file is.
        files = list_images(root, with_special_files=True)[0]
        return {file.relative_to(root).as_posix(): _size(file) for file in files}
    if root.is_file():
        raise NotADirectoryError(f"{root} is not a folder of images: give an existing folder")
    sizes = root.files()
    images = [name for name in sizes if passed_over_kind(name) is None]
    return {name: sizes[name] for name in sorted(images, key=_walking_order)}


def _walking_order(name: str) -> list[tuple[bool, str]]:
    """Key that sorts as `list_images` walks: the files of a folder before its subfolders."""
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


def _plan_tars(source: SourceSettings, images_per_shard: int, position: int) -> _Planned:
    path = location(source.path)
    tars = matching(path, "*.tar") if path.is_dir() else [path]
    shards = [
        Shard(0, source, start, start + 1, position + start * _TAR_ROOM, None, (tar.name,))
        for start, tar in enumerate(tars)
    ]
    with ThreadPoolExecutor(_CONCURRENT_READS) as pool:
        sizes = list(pool.map(_size, (file for tar in tars for file in (tar, failures_beside(tar)))))
    content = [(tar.name, *sizes[2 * number : 2 * number + 2]) for number, tar in enumerate(tars)]
    return shards, len(tars) * _TAR_ROOM, content


def _plan_video(source: SourceSettings, images_per_shard: int, position: int) -> _Planned:
    with local_copies(location(source.path)) as (video,):
        frames, size = count_frames(video), _size(video)
    shards = []
    for start in range(0, frames, images_per_shard * source.every):
        stop = min(start + images_per_shard * source.every, frames)
        expected = len(range(start, stop, source.every))
        shards.append(Shard(0, source, start, stop, position + start // source.every, expected))
    return shards, len(range(0, frames, source.every)), [frames, size]


_PLANNERS = {"folder": _plan_folder, "tars": _plan_tars, "video": _plan_video}
_WHAT = {"folder": "image file", "tars": "*.tar file", "video": "frame"}


def _size(path: Location) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError:  # such as a link in a circle: reading it gives a row with the reason
        if isinstance(path, Path):
            return None
        raise


def _read_folder(shard: Shard) -> Iterator[SourceItem]:
    root = location(shard.source.path)
    if isinstance(root, Path):
        yield from (_read_file(name, root / name) for name in shard.files)
        return
    with ThreadPoolExecutor(_CONCURRENT_READS) as pool:
        yield from pool.map(lambda name: _read_object(name, root / name), shard.files)


def _read_file(name: str, path: Path) -> SourceItem:
    item = SourceItem(name)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may block forever
            item.problem, item.detail = SourceProblem.NOT_A_FILE, "a pipe, a device or a folder"
        elif status.st_size > MAX_FILE_BYTES:
            item.problem, item.detail = SourceProblem.TOO_LARGE, f"{status.st_size:,} bytes"
        else:
            item.image = path.read_bytes()
    except OSError as error:
        item.problem, item.detail = SourceProblem.UNREADABLE, error.strerror
    return item


def _read_object(name: str, path: RemotePath) -> SourceItem:
    """Read an image of an object store. Only a missing one becomes a row: a store that fails ends the run."""
    item = SourceItem(name)
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            item.problem, item.detail = SourceProblem.TOO_LARGE, f"{size:,} bytes"
        else:
            item.image = path.read_bytes()
    except FileNotFoundError:
        item.problem, item.detail = SourceProblem.UNREADABLE, os.strerror(errno.ENOENT)
    return item


def _read_tars(shard: Shard) -> Iterator[SourceItem]:
    root = location(shard.source.path)
    for name in shard.files:
        tar = root if root.name == name and not root.is_dir() else root / name
        with local_copies(tar, failures_beside(tar), missing_ok=True) as copies:
            if copies[0].name != name:
                raise FileNotFoundError(f"{tar} is no longer there")
            yield from read_tar(copies[0])


def _read_video(shard: Shard) -> Iterator[SourceItem]:
    source = shard.source
    with local_copies(location(source.path)) as (video,):
        for frame in read_frames(video, source.every, shard.start, shard.stop):
            item = SourceItem(f"frame {frame.index}", frame=frame.index, time_seconds=frame.time_seconds)
            if frame.image is None:
                item.problem = SourceProblem.UNDECODABLE_FRAME
            else:
                item.image = to_jpeg(frame.image, FRAME_QUALITY, full_colour=True)
            yield item


def _trail(item: SourceItem) -> list[dict[str, str | None]]:
    entered = ["fetch"] if item.fetched else []
    if item.rejected_by == "read":
        entered.append("read")
    return [{"block": block, "note": item.note if block == "read" else None} for block in entered]
