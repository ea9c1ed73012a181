"""Describe, verify, export and copy the table of a gallery."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lancedb.table import Table
from PIL import Image

from ..encoders.atomic_files import atomic_file, atomic_folder
from .filter import BOX_SIDES
from .records import GalleryModel, plain
from .schema import ADDED, CONTENT, columns_without, indexed_rows, model_of, user_columns
from .storage import last_change


EXPORTS = ("csv", "parquet", "folder")
"""Formats of `export_table`."""
_BATCH_ROWS = 1024
_UNIT_TOLERANCE = 1e-3
"""Allowed deviation of an embedding's norm from 1. Models in half precision reach three digits."""


@dataclass(frozen=True)
class GalleryInfo:
    """Description of a gallery.

    Attributes:
        location (`str`): folder or URI.
        persons, tracks (`int`): number of persons (rows) and of tracks.
        size_bytes (`int`): size of the current rows, without earlier versions.
        version (`int`): version of the table; increases with every change.
        changed (`datetime`): time of the last change, in UTC.
        dimension (`int`): number of values in an embedding.
        model (`GalleryModel`): the model that built it.
        columns (`dict[str, str]`): additional columns, from name to type.
        indexed_persons (`int`): persons in the index of embeddings; a search scans the others.
        sources, cameras (`dict[str, int]`): number of persons for each source and camera.
    """

    location: str
    persons: int
    tracks: int
    size_bytes: int
    version: int
    changed: datetime
    dimension: int
    model: GalleryModel
    columns: dict[str, str]
    indexed_persons: int
    sources: dict[str, int]
    cameras: dict[str, int]


@dataclass(frozen=True)
class VerificationReport:
    """Result of the verification of a gallery.

    Attributes:
        persons (`int`): number of persons read.
        problems (`dict[str, int]`): number of persons with each problem; empty for a sound gallery.
        examples (`dict[str, str]`): for each problem, the id of the first person with it.
    """

    persons: int
    problems: dict[str, int]
    examples: dict[str, str]

    @property
    def sound(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        if self.sound:
            return f"{self.persons} persons, all sound"
        lines = [f"{self.persons} persons, {sum(self.problems.values())} problems"]
        lines += [f"  {count}: {what} (e.g. {self.examples[what]})" for what, count in sorted(self.problems.items())]
        return "\n".join(lines)


def table_info(location: str, table: Table) -> GalleryInfo:
    """Describe a gallery. Reads the columns with sources, cameras and tracks."""
    sources: Counter[str] = Counter()
    cameras: Counter[str] = Counter()
    tracks: set[tuple[str, int]] = set()
    for batch in _batches(table, ["source", "camera", "track"]):
        rows = batch.to_pylist()
        sources.update(row["source"] for row in rows)
        cameras.update(row["camera"] for row in rows if row["camera"] is not None)
        tracks.update((row["source"], row["track"]) for row in rows if row["track"] is not None)
    return GalleryInfo(
        location=location,
        persons=table.count_rows(),
        tracks=len(tracks),
        size_bytes=int(cast(Any, table.stats())["total_bytes"]),
        version=table.version,
        changed=last_change(table),
        dimension=table.schema.field("vector").type.list_size,
        model=model_of(table.schema),
        columns=user_columns(table.schema),
        indexed_persons=indexed_rows(table, "vector"),
        sources=dict(sources.most_common()),
        cameras=dict(cameras.most_common()),
    )


def verify_table(table: Table) -> VerificationReport:
    """Read every row: ids must be unique, thumbnails must decode, and embeddings must have norm 1."""
    found: dict[str, list[str]] = defaultdict(list)  # ids by problem
    seen: set[str] = set()
    persons = 0
    for batch in _batches(table, ["id", "vector", "thumbnail"]):
        persons += len(batch)
        ids = batch["id"].to_pylist()
        vectors = batch["vector"].flatten().to_numpy().reshape(len(batch), -1)
        lengths = np.linalg.norm(vectors, axis=1)
        for row, person in enumerate(ids):
            if person in seen:
                found["duplicate id"].append(person)
            seen.add(person)
            if not abs(lengths[row] - 1) <= _UNIT_TOLERANCE:  # also NaN
                found["the norm of the embedding is not 1"].append(person)
            if not _decodes(batch["thumbnail"][row].as_py()):
                found["the thumbnail does not decode"].append(person)
    problems = {what: len(ids) for what, ids in found.items()}
    return VerificationReport(persons, problems, {what: ids[0] for what, ids in found.items()})


def export_table(table: Table, path: Path, kind: str) -> int:
    """Write the persons of a gallery to files.

    Args:
        table (`Table`)
        path (`Path`): file or folder to write; must not exist. It is there when it is complete.
        kind (`str`): `"csv"` writes all columns except embedding and thumbnail, with one column for each side of the
            box. `"parquet"` writes all columns of the table. `"folder"` writes a JPEG for each person and a
            `metadata.csv` with the columns of `"csv"`, readable by `load_dataset("imagefolder")`.

    Returns:
        `int`: number of persons written.

    Raises:
        FileExistsError: if `path` exists.
        ValueError: if `kind` is unknown.
    """
    if kind not in EXPORTS:
        raise ValueError(f"Unknown export format {kind!r}: give one of {', '.join(EXPORTS)}")
    if path.exists():
        raise FileExistsError(f"{path} already exists: give another name")
    with (atomic_folder if kind == "folder" else atomic_file)(path) as part:
        if kind == "parquet":
            return _export_parquet(table, part)
        if kind == "csv":
            return _export_csv(table, part)
        return _export_csv(table, part / "metadata.csv", images=part)


def _export_parquet(table: Table, path: Path) -> int:
    written = 0
    with pq.ParquetWriter(path, table.schema) as writer:
        for batch in all_rows(table, table.schema):
            writer.write_batch(batch)
            written += len(batch)
    return written


def _export_csv(table: Table, path: Path, images: Path | None = None) -> int:
    """Write a CSV file and, into the folder `images`, a JPEG for each person."""
    columns = columns_without(table.schema, "vector", "thumbnail", CONTENT)
    names = [name for column in columns for name in (BOX_SIDES if column == "box" else (column,))]
    written = 0
    with path.open("x", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", *names] if images else names)
        writer.writeheader()
        for batch in _batches(table, [*columns, "thumbnail"] if images else columns):
            for row in batch.to_pylist():
                row |= dict(zip(BOX_SIDES, row.pop("box") or [None] * len(BOX_SIDES), strict=True))
                if images:
                    row["file_name"] = f"{row['id']}.jpg"
                    (images / row["file_name"]).write_bytes(row.pop("thumbnail"))
                writer.writerow({name: plain(value) for name, value in row.items()})
                written += 1
    return written


def all_rows(table: Table, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """All rows of one version of a table, as rows of another one with the same additional columns. Those of an earlier
    version have no time of adding and get the time of the table's last change."""
    changed = last_change(table)
    for batch in _batches(table, table.schema.names):
        missing = {ADDED: changed, CONTENT: None}
        columns = [
            batch[field.name].cast(field.type)
            if field.name in batch.schema.names
            else pa.array([missing[field.name]] * len(batch), field.type)
            for field in schema
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _batches(table: Table, columns: list[str]) -> Iterator[pa.RecordBatch]:
    return table.search().select(columns).to_batches(_BATCH_ROWS)


def _decodes(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            image.load()
    except Exception:  # decoders raise many types
        return False
    return True
