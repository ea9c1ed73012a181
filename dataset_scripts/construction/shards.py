"""The folder of a run: shards that are either finished or not there, so that a run killed anywhere can go on.

A shard's files are written beside their place and moved there; its marker, with a digest of each file and the account
of its rows, is moved there last. What has no marker is done again, and gives the same bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from modeling_gadms.encoders.atomic_files import file_digest, replacing, write_atomically

from .pipeline_report import BlockCounts


ROW_GROUP = 100
"""Rows of a Parquet row group: a few megabytes of crops, so that readers can pick and stream."""
_WRITTEN = ("work", "data")  # the folders of a run's folder


class RunFolderError(ValueError):
    """A folder that holds another run, or is in use by one."""


@dataclass(frozen=True)
class Marker:
    """That a shard is finished, and how.

    Attributes:
        fingerprint (`str`): of everything its content depends on.
        files (`dict[str, str]`): SHA-256 of each file, by its path below the folder.
        counts (`tuple[BlockCounts, ...]`): the account of its rows, block by block.
    """

    fingerprint: str
    files: dict[str, str]
    counts: tuple[BlockCounts, ...]


@dataclass(frozen=True)
class StageFolder:
    """Where one stage of a run keeps its shards. Pickles, and is used by every worker of the stage.

    Args:
        root (`Path`): the run's folder.
        stage (`str`): name of the stage, and of its folder of markers.
        fingerprint (`str`): of the stage's settings and input.
    """

    root: Path
    stage: str
    fingerprint: str

    def marker_path(self, number: int) -> Path:
        return self.root / "work" / "markers" / self.stage / f"{number:05d}.json"

    def read_marker(self, number: int) -> Marker | None:
        """The marker of a finished shard, or none.

        Raises:
            RunFolderError: if the shard was made with other settings, one of its files is not what it was, or the
                marker is damaged.
        """
        path = self.marker_path(number)
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            counts = tuple(BlockCounts(**block) for block in values["counts"])
            marker = Marker(values["fingerprint"], dict(values["files"]), counts)
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{path} is damaged ({type(error).__name__}: {error}): remove it to have the shard made again"
            ) from error
        if marker.fingerprint != self.fingerprint:
            raise RunFolderError(
                f"shard {number} of stage {self.stage} in {self.root} was made with other settings or from another "
                "source: name another output folder, or remove this one to begin again"
            )
        for name, digest in marker.files.items():
            file = self.root / name
            if not file.is_file() or file_digest(file) != digest:
                raise RunFolderError(
                    f"{file} is missing or not what was written: remove {path} to have the shard made again"
                )
        return marker

    def finish(self, number: int, tables: Mapping[str, pa.Table], counts: tuple[BlockCounts, ...]) -> None:
        """Write a shard, its marker last. The same tables give the same bytes.

        Args:
            number (`int`): of the shard.
            tables (`Mapping[str, pa.Table]`): by their path below the run's folder.
            counts (`tuple[BlockCounts, ...]`): the account of its rows.
        """
        files = {}
        for name, table in tables.items():
            # Not for bytes: they are all different, and a dictionary of them costs time and memory.
            texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
            with replacing(self.root / name) as part:
                with pq.ParquetWriter(part, table.schema, use_dictionary=texts, compression="zstd") as writer:
                    # Without rows there is no row group either: `datasets` does not read one of none.
                    if table.num_rows:
                        writer.write_table(table, row_group_size=ROW_GROUP)
                files[name] = file_digest(part)
        marker = Marker(self.fingerprint, files, counts)
        write_atomically(self.marker_path(number), json.dumps(asdict(marker), indent=1))


def remove_leftovers(root: Path) -> None:
    """Remove what killed writers left beside the files they meant to write.

    Only where a run writes: the folder may hold other things of the user's.
    """
    parts = [*root.glob(".part-*"), *(part for name in _WRITTEN for part in (root / name).rglob(".part-*"))]
    for part in parts:
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)  # it may have gone with its folder


class _HeldLock(FileLock):
    """A lock that was taken before `with` is reached, which must not take it again: it gives it back only once."""

    def __enter__(self) -> Self:
        return self


def lock_folder(root: Path) -> FileLock:
    """Take a run's folder for this process: until the end of a `with`, a call of `release`, or its own end.

    Args:
        root (`Path`): made, with its folder `work`, where there is none.

    Returns:
        `FileLock`: held.

    Raises:
        RunFolderError: if another process has it.
    """
    (root / "work").mkdir(parents=True, exist_ok=True)
    lock = _HeldLock(root / "work" / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunFolderError(f"another run works in {root}: wait for it, or name another output folder") from error
    return lock


def fingerprint(*parts: object) -> str:
    """A digest of settings: whatever JSON can hold; of other values, such as a date, what they look like as text."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
