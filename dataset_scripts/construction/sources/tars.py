"""Read untrusted WebDataset tars.

Nothing is extracted to disk: members are read into memory one at a time, within limits. A refused member becomes an
item with its reason.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from modeling_gadms.media.images import IMAGE_SUFFIXES

from ..storage import Location, RemotePath
from .items import MAX_FILE_BYTES, SourceItem, SourceNote, SourceProblem


MAX_METADATA_BYTES = 2**20
MAX_HEADER_BYTES = 16 * 2**10
"""Limit for all headers of one member: four times the longest path on Linux. A header can declare any length, a member
can have many of them, and the time of `tarfile` can be quadratic in the length."""
FAILED_SUFFIX = ".failed.parquet"
"""Suffix of the file beside a fetched tar that lists the failed rows of the URL table, with their reasons."""
_FAILED_SCHEMA = pa.schema([pa.field(name, pa.string()) for name in ("key", "url", "reason", "detail")])
_CHUNK = 2**20
Place = TypeVar("Place", Path, RemotePath, Location)


def read_tar(path: Path) -> list[SourceItem]:
    """Read one item per sample of a WebDataset tar, and one per refused member.

    A sample consists of the members with the same key. Its first image is used, with the URL from the key `url` of its
    JSON.

    Args:
        path (`Path`): an uncompressed tar. If a file of the same name with `FAILED_SUFFIX` exists, its images were
            fetched, and the items include the failed rows of that file.

    Returns:
        `list[SourceItem]`: sorted by name, because the order within a tar is arbitrary.
    """
    failed = failures_beside(path)
    fetched = failed.is_file()
    contents = _Contents(path.name)
    try:
        with _TarBytes(io.FileIO(path)) as file:
            for member in _members(file):
                if not member.isdir():
                    _read_member(file, member, contents)
    except tarfile.ReadError as error:
        contents.refuse("end", SourceProblem.DAMAGED_ARCHIVE, f"after {len(contents.samples)} samples: {error}")
    except OSError as error:
        contents.refuse("read", SourceProblem.UNREADABLE, error.strerror or str(error))
    items = [*contents.samples.values(), *contents.refused]
    for item in items:
        item.fetched = fetched
    if fetched:
        items += _failures(path.name, failed)
    return sorted(items, key=lambda item: item.name)


def failures_beside(tar: Place) -> Place:
    """The file of failed rows beside a fetched tar."""
    return tar.with_name(tar.stem + FAILED_SUFFIX)


@dataclass
class _Contents:
    """Samples of a tar by key, and refused members."""

    tar: str
    samples: dict[str, SourceItem] = field(default_factory=dict)
    refused: list[SourceItem] = field(default_factory=list)

    def refuse(self, name: str, problem: SourceProblem, detail: str) -> None:
        # Numbered, because several members can have the same name.
        name = f"{self.tar}/{name} (refused {len(self.refused)})"
        self.refused.append(SourceItem(name, problem=problem, detail=detail))


class _TarBytes(io.BufferedReader):
    """The file of a tar. `tarfile` can read at most `MAX_HEADER_BYTES` for the headers of a member."""

    budget = MAX_HEADER_BYTES

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= self.budget:
            raise tarfile.ReadError(f"a header declares {size} bytes, the limit per member is {MAX_HEADER_BYTES:,}")
        self.budget -= size
        return super().read(size)

    def content(self, member: tarfile.TarInfo) -> bytes:
        self.seek(member.offset_data)
        content = super().read(member.size)
        if len(content) < member.size:
            raise tarfile.ReadError(f"{member.name} is truncated")
        return content

    def check_end(self, offset: int) -> None:
        # tarfile treats a damaged header after the first member as the end, and ignores data after the end.
        self.seek(offset)
        length = 0
        while chunk := super().read(_CHUNK):
            if chunk.count(0) < len(chunk):
                raise tarfile.ReadError(f"damaged header at byte {offset}, or data after the end of the archive")
            length += len(chunk)
        if length < tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"the end of the archive is missing at byte {offset}")


def _members(file: _TarBytes) -> Iterator[tarfile.TarInfo]:
    """Iterate over the members, in order.

    Raises:
        tarfile.ReadError: if the archive is damaged, after the intact members.
    """
    end = 0
    try:
        # The default encoding depends on the system, and row ids depend on names.
        archive = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
        while (member := archive.next()) is not None:
            if archive.offset <= end or member.size < 0:
                raise tarfile.ReadError(f"a header with a negative size at byte {member.offset}")
            end = archive.offset
            yield member
            file.budget = MAX_HEADER_BYTES
        file.check_end(archive.offset)
    except tarfile.ReadError:
        raise
    except Exception as error:  # tarfile raises many types: invalid numbers, offsets beyond 64 bits, ...
        raise tarfile.ReadError(f"{type(error).__name__}: {error}") from error


def _read_member(file: _TarBytes, member: tarfile.TarInfo, contents: _Contents) -> None:
    samples, tar = contents.samples, contents.tar
    key, suffix = _key_and_suffix(member.name)
    if problem := _unsafe(member):
        contents.refuse(member.name, *problem)
    elif suffix not in IMAGE_SUFFIXES:
        # A sample without an image counts too.
        sample = samples.setdefault(key, SourceItem(f"{tar}/{key}", problem=SourceProblem.NO_IMAGE))
        if suffix == ".json":
            url, note = _url(file, member)
            sample.url, sample.note = sample.url or url, sample.note or note
    else:
        known = samples.get(key)
        if known and known.problem is not SourceProblem.NO_IMAGE:
            contents.refuse(member.name, SourceProblem.DUPLICATE_KEY, f"{tar} has another image of key {key}")
            return
        item = SourceItem(f"{tar}/{member.name}")
        if known:
            item.url, item.note = known.url, known.note
        if member.size > MAX_FILE_BYTES:
            item.problem, item.detail = SourceProblem.TOO_LARGE, f"{member.size:,} bytes"
        else:
            item.image = file.content(member)
        samples[key] = item


def _key_and_suffix(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the file name; the suffix starts at the last."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0], PurePosixPath(file).suffix.lower()


def _unsafe(member: tarfile.TarInfo) -> tuple[SourceProblem, str] | None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        return SourceProblem.CLIMBS_OUT, member.name
    if member.issym() or member.islnk():
        return SourceProblem.LINK, f"{member.name} -> {member.linkname}"
    # A sparse file can expand to any size.
    if not member.isreg() or member.issparse():
        kind = "sparse" if member.issparse() else f"of tar type {member.type!r}"
        return SourceProblem.NOT_A_FILE, f"{member.name} is {kind}"
    return None


def _url(file: _TarBytes, member: tarfile.TarInfo) -> tuple[str | None, SourceNote | None]:
    """The URL in the JSON of a sample, if any, and a note if the JSON is unreadable."""
    if member.size > MAX_METADATA_BYTES:
        return None, SourceNote.UNREADABLE_METADATA
    content = file.content(member)
    try:
        url = json.loads(content).get("url")
        if url is not None:
            url.encode()  # fails for an unpaired surrogate, which is valid JSON
    except (ValueError, AttributeError, RecursionError):  # not JSON; not an object or not a string; nested too deeply
        return None, SourceNote.UNREADABLE_METADATA
    return url, None


def _failures(tar: str, failed: Path) -> Iterator[SourceItem]:
    columns = _FAILED_SCHEMA.names
    try:
        table = pq.read_table(failed, columns=columns).select(columns).cast(_FAILED_SCHEMA)
        if table["key"].null_count or table["reason"].null_count:
            raise ValueError("a row lacks a key or reason")
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        detail = f"{failed.name}: {type(error).__name__}"
        yield SourceItem(f"{tar}/failed", problem=SourceProblem.UNREADABLE, detail=detail)
        return
    for row in table.to_pylist():
        yield SourceItem(
            f"{tar}/{row['key']}",
            problem=row["reason"],
            detail=row["detail"],
            rejected_by="fetch",
            fetched=True,
            url=row["url"],
        )
