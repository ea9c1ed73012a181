"""Look after a gallery: what it holds, whether it is sound, and its persons as files."""

import csv
import io
from collections import Counter
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

from .filter import BOX_SIDES
from .records import GalleryModel, plain
from .schema import columns_without, indexed_rows, model_of, user_columns


EXPORTS = ("csv", "parquet", "folder")
"""Kinds of files that persons are exported to."""
_BATCH_ROWS = 1024
_UNIT_TOLERANCE = 1e-3
"""Of the length of an embedding: models in half precision give 1 to three digits."""


@dataclass(frozen=True)
class GalleryInfo:
    """What a gallery is.

    Attributes:
        location (`str`)
        persons (`int`)
        tracks (`int`).
        size_bytes (`int`): of its rows, without earlier versions.
        version (`int`): rises with every change.
        changed (`datetime`): when it last did.
        dimension (`int`): of its embeddings.
        model (`GalleryModel`): that made them.
        columns (`dict[str, str]`): the user's, by name the type.
        indexed_persons (`int`): in the index of embeddings; the others are scanned.
        sources, cameras (`dict[str, int]`): persons of each.
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
    """What is wrong with a gallery, counted.

    Attributes:
        persons (`int`): read.
        problems (`dict[str, int]`): persons by what is wrong with them; empty if nothing is.
        examples (`dict[str, str]`): by problem, the id of the first such person.
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
        lines += [f"  {count}: {what} (as {self.examples[what]})" for what, count in sorted(self.problems.items())]
        return "\n".join(lines)


def table_info(location: str, table: Table) -> GalleryInfo:
    """What the gallery of a table is; reads its columns of sources, cameras and tracks."""
    sources: Counter[str] = Counter()
    cameras: Counter[str] = Counter()
    tracks: set[tuple[str, int]] = set()
    for batch in _batches(table, ["source", "camera", "track"]):
        rows = batch.to_pylist()
        sources.update(row["source"] for row in rows)
        cameras.update(row["camera"] for row in rows if row["camera"] is not None)
        tracks.update((row["source"], row["track"]) for row in rows if row["track"] is not None)
    versions = table.list_versions()
    return GalleryInfo(
        location=location,
        persons=table.count_rows(),
        tracks=len(tracks),
        size_bytes=size_of(table),
        version=table.version,
        changed=versions[-1]["timestamp"],
        dimension=table.schema.field("vector").type.list_size,
        model=model_of(table.schema),
        columns=user_columns(table.schema),
        indexed_persons=indexed_rows(table, "vector"),
        sources=dict(sources.most_common()),
        cameras=dict(cameras.most_common()),
    )


def size_of(table: Table) -> int:
    """Bytes of a table's rows, without earlier versions."""
    return int(cast(Any, table.stats())["total_bytes"])


def verify_table(table: Table) -> VerificationReport:
    """Read every row: ids must be there once, thumbnails must decode, embeddings be of length 1."""
    problems: Counter[str] = Counter()
    examples: dict[str, str] = {}
    met: set[str] = set()
    persons = 0

    def note(what: str, person: str) -> None:
        problems[what] += 1
        examples.setdefault(what, person)

    for batch in _batches(table, ["id", "vector", "thumbnail"]):
        persons += len(batch)
        ids = batch["id"].to_pylist()
        vectors = batch["vector"].flatten().to_numpy().reshape(len(batch), -1)
        lengths = np.linalg.norm(vectors, axis=1)
        for row, person in enumerate(ids):
            if person in met:
                note("the id is there more than once", person)
            met.add(person)
            if not abs(lengths[row] - 1) <= _UNIT_TOLERANCE:  # also what is not a number
                note("the embedding is not of length 1", person)
            if not _decodes(batch["thumbnail"][row].as_py()):
                note("the thumbnail does not decode", person)
    return VerificationReport(persons, dict(problems), examples)


def export_table(table: Table, path: Path, kind: str) -> int:
    """Write persons to files.

    Args:
        table (`Table`): of the gallery.
        path (`Path`): must not exist yet.
        kind (`str`): `"csv"`, all columns but embedding and thumbnail, each side of the box in one; `"parquet"`, the
            table's columns; `"folder"`, a JPEG of each person and a CSV as above, `metadata.csv`, which
            `load_dataset("imagefolder")` reads.

    Returns:
        `int`: how many persons were written.

    Raises:
        FileExistsError: if `path` exists.
        ValueError: if the kind is unknown.
    """
    if kind not in EXPORTS:
        raise ValueError(f"{kind!r} is no kind of export: give one of {', '.join(EXPORTS)}")
    if path.exists():
        raise FileExistsError(f"{path} exists: give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    writers = {"csv": _export_csv, "parquet": _export_parquet, "folder": _export_folder}
    return writers[kind](table, path)


def _export_csv(table: Table, path: Path) -> int:
    columns = columns_without(table.schema, "vector", "thumbnail")
    rows = (_with_sides(row) for batch in _batches(table, columns) for row in batch.to_pylist())
    return _write_csv(path, _names_with_sides(columns), rows)


def _export_parquet(table: Table, path: Path) -> int:
    written = 0
    with pq.ParquetWriter(path, table.schema) as writer:
        for batch in _batches(table, table.schema.names):
            writer.write_batch(batch.cast(table.schema))
            written += len(batch)
    return written


def _export_folder(table: Table, path: Path) -> int:
    path.mkdir()
    columns = columns_without(table.schema, "vector", "thumbnail")

    def rows() -> Iterator[dict[str, Any]]:
        for batch in _batches(table, [*columns, "thumbnail"]):
            for row in batch.to_pylist():
                name = f"{row['id']}.jpg"
                (path / name).write_bytes(row.pop("thumbnail"))
                yield {"file_name": name, **_with_sides(row)}

    return _write_csv(path / "metadata.csv", ["file_name", *_names_with_sides(columns)], rows())


def _names_with_sides(columns: list[str]) -> list[str]:
    return [name for column in columns for name in (BOX_SIDES if column == "box" else (column,))]


def _with_sides(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose box is a value for each side."""
    sides = row.pop("box") or [None] * len(BOX_SIDES)
    return {**row, **dict(zip(BOX_SIDES, sides, strict=True))}


def _write_csv(path: Path, columns: list[str], rows: Iterator[dict[str, Any]]) -> int:
    written = 0
    with path.open("x", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: plain(value) for name, value in row.items()})
            written += 1
    return written


def copy_rows(source: Table, target: Table) -> None:
    """Add the rows of a table to another one of the same columns."""
    for batch in _batches(source, source.schema.names):
        target.add(pa.Table.from_batches([batch.cast(target.schema)]))


def _batches(table: Table, columns: list[str]) -> Iterator[pa.RecordBatch]:
    return table.search().select(columns).to_batches(_BATCH_ROWS)


def _decodes(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
            picture.load()
    except Exception:  # decoders raise many kinds
        return False
    return True
