"""Folder of a run, local or in an object store. A shard is finished or absent, so that a killed run can resume.

Files are written atomically: first the files of a shard, last its marker, with a digest of each file and the block
counts. A shard without a marker is processed again and gives the same bytes.

In an object store a marker is put only if there is none, where the store offers this (see `RemotePath.create`).
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from .pipeline_report import BlockCounts
from .storage import Location, RemoteLock, RemotePath, atomic_file, file_digest, write_atomically


ROW_GROUP = 100
"""Rows of a Parquet row group: a few megabytes of crops, for random access and streaming."""
_WRITTEN = ("work", "data")  # subfolders of a run's folder


class RunFolderError(ValueError):
    """The folder contains another run or is in use."""


@dataclass(frozen=True)
class Marker:
    """Marker of a finished shard."""

    fingerprint: str  # digest of the settings and input that its content depends on
    files: dict[str, str]  # SHA-256 of each file, by path relative to the run's folder
    counts: tuple[BlockCounts, ...]
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of each file


@dataclass(frozen=True)
class StageFolder:
    """The finished shards of one stage of a run. Pickles; all workers of the stage use it."""

    root: Location  # the run's folder
    stage: str  # also the name of the folder of markers
    fingerprint: str  # digest of the stage's settings and input

    def marker_path(self, number: int) -> Location:
        return self.root / "work" / "markers" / self.stage / f"{number:05d}.json"

    def read_marker(self, number: int) -> Marker | None:
        """Read the marker of a shard and verify its files; `None` if the shard is not finished.

        Files on disk are compared by digest. Those in an object store are compared by size, because to read them all
        would take as long as to upload them.

        Raises:
            RunFolderError: if the shard was made with other settings, or if a file or the marker is damaged.
        """
        path = self.marker_path(number)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            counts = tuple(BlockCounts(**block) for block in values["counts"])
            marker = Marker(values["fingerprint"], dict(values["files"]), counts, dict(values.get("sizes", {})))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{path} is damaged ({type(error).__name__}: {error}): remove it to process the shard again"
            ) from error
        if marker.fingerprint != self.fingerprint:
            raise RunFolderError(
                f"shard {number} of stage {self.stage} in {self.root} was made with other settings or from another "
                "source: name another output folder, or remove this one to start over"
            )
        for name, digest in marker.files.items():
            file = self.root / name
            if not (
                _has_size(file, marker.sizes.get(name))
                if isinstance(file, RemotePath)
                else file.is_file() and file_digest(file) == digest
            ):
                raise RunFolderError(
                    f"{file} is missing or has changed since it was written: remove {path} to process the shard again"
                )
        return marker

    def finish(self, number: int, tables: Mapping[str, pa.Table], counts: tuple[BlockCounts, ...]) -> None:
        """Write the tables of a shard, by path relative to the run's folder, and its marker last.

        The same tables give the same bytes.

        Raises:
            RunFolderError: if another run has put other rows there in the meantime.
        """
        files, sizes = {}, {}
        for name, table in tables.items():
            # Not for binary columns: their values are unique, and a dictionary costs time and memory.
            texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
            with atomic_file(self.root / name) as part:
                with pq.ParquetWriter(part, table.schema, use_dictionary=texts, compression="zstd") as writer:
                    # `datasets` cannot read an empty row group.
                    if table.num_rows:
                        writer.write_table(table, row_group_size=ROW_GROUP)
                files[name], sizes[name] = file_digest(part), part.stat().st_size
        marker = json.dumps(asdict(Marker(self.fingerprint, files, counts, sizes)), indent=1)
        path = self.marker_path(number)
        if isinstance(path, Path):
            write_atomically(path, marker)
        elif not path.create(marker.encode()):
            raise RunFolderError(
                f"another run has finished shard {number} of stage {self.stage} in {self.root} with other rows, and "
                f"its files are replaced: remove {path} to process the shard again, with one run at a time"
            )


def remove_leftovers(root: Location) -> None:
    """Remove partial files of killed writers, only where a run writes: the folder may contain other files.

    An object store shows no partial files.
    """
    if isinstance(root, RemotePath):
        return
    parts = [*root.glob(".part-*"), *(part for name in _WRITTEN for part in (root / name).rglob(".part-*"))]
    for part in parts:
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)  # it may have been removed with its folder


def lock_folder(root: Location) -> AbstractContextManager[object]:
    """Lock a run's folder, created if missing, for this process until the end of a `with` block.

    The lock of a killed process ends with it; in an object store after a minute, see [`RemoteLock`].

    Raises:
        RunFolderError: if another process holds the lock.
    """
    in_use = f"another run is using {root}: wait for it, or name another output folder"
    if isinstance(root, RemotePath):
        lock = RemoteLock(root / "work" / ".lock")
        if not lock.acquire():
            raise RunFolderError(f"{in_use} ({lock.owner()})")
        return lock
    (root / "work").mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(root / "work" / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise RunFolderError(in_use) from error


def fingerprint(*parts: object) -> str:
    """SHA-256 of values as JSON; values that JSON cannot represent, such as dates, are converted with `str`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _has_size(file: RemotePath, size: int | None) -> bool:
    try:
        return file.stat().st_size == size
    except FileNotFoundError:
        return False
