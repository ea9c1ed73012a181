"""Folder of a run. A shard is either finished or absent, so that a killed run can resume.

Files are written atomically: first the files of a shard, last its marker, with a digest of each file and the block
counts. A shard without a marker is processed again and gives the same bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import AcquireReturnProxy, FileLock, Timeout

from modeling_gadms.encoders.atomic_files import atomic_file, file_digest, write_atomically

from .pipeline_report import BlockCounts


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


@dataclass(frozen=True)
class StageFolder:
    """The finished shards of one stage of a run. Pickles; all workers of the stage use it."""

    root: Path  # the run's folder
    stage: str  # also the name of the folder of markers
    fingerprint: str  # digest of the stage's settings and input

    def marker_path(self, number: int) -> Path:
        return self.root / "work" / "markers" / self.stage / f"{number:05d}.json"

    def read_marker(self, number: int) -> Marker | None:
        """Read the marker of a shard and verify its files; `None` if the shard is not finished.

        Raises:
            RunFolderError: if the shard was made with other settings, or if a file or the marker is damaged.
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
                f"{path} is damaged ({type(error).__name__}: {error}): remove it to process the shard again"
            ) from error
        if marker.fingerprint != self.fingerprint:
            raise RunFolderError(
                f"shard {number} of stage {self.stage} in {self.root} was made with other settings or from another "
                "source: name another output folder, or remove this one to start over"
            )
        for name, digest in marker.files.items():
            file = self.root / name
            if not file.is_file() or file_digest(file) != digest:
                raise RunFolderError(
                    f"{file} is missing or has changed since it was written: remove {path} to process the shard again"
                )
        return marker

    def finish(self, number: int, tables: Mapping[str, pa.Table], counts: tuple[BlockCounts, ...]) -> None:
        """Write the tables of a shard, by path relative to the run's folder, and its marker last.

        The same tables give the same bytes.
        """
        files = {}
        for name, table in tables.items():
            # Not for binary columns: their values are unique, and a dictionary costs time and memory.
            texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
            with atomic_file(self.root / name) as part:
                with pq.ParquetWriter(part, table.schema, use_dictionary=texts, compression="zstd") as writer:
                    # `datasets` cannot read an empty row group.
                    if table.num_rows:
                        writer.write_table(table, row_group_size=ROW_GROUP)
                files[name] = file_digest(part)
        marker = Marker(self.fingerprint, files, counts)
        write_atomically(self.marker_path(number), json.dumps(asdict(marker), indent=1))


def remove_leftovers(root: Path) -> None:
    """Remove partial files of killed writers, only where a run writes: the folder may contain other files."""
    parts = [*root.glob(".part-*"), *(part for name in _WRITTEN for part in (root / name).rglob(".part-*"))]
    for part in parts:
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)  # it may have been removed with its folder


def lock_folder(root: Path) -> AcquireReturnProxy:
    """Lock a run's folder, created if missing, for this process until the end of a `with` block.

    Raises:
        RunFolderError: if another process holds the lock.
    """
    (root / "work").mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(root / "work" / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise RunFolderError(f"another run is using {root}: wait for it, or name another output folder") from error


def fingerprint(*parts: object) -> str:
    """SHA-256 of values as JSON; values that JSON cannot represent, such as dates, are converted with `str`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
