"""The schema of a gallery's table, and the conversion between rows and records."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

import pyarrow as pa
from lancedb.table import Table

from ..media.detection import PersonBox
from ..media.names import content_digest
from .filter import BOX_SIDES, in_utc, parse_time
from .records import GalleryModel, PersonRecord, SearchResult, TrackSummary, content_state, is_nan


COLUMN_TYPES = {
    "string": pa.string(),
    "integer": pa.int64(),
    "float": pa.float64(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("us", "UTC"),
}
"""Types of additional columns."""
UPDATABLE = {"camera": "string", "time": "time", "track": "integer"}
"""Standard columns that may be updated, with their types. The other standard columns identify the person."""
CONTENT = "content"
"""The column that tells whether a person has changed: see [`~modeling_gadms.gallery.records.content_state`]."""
ADDED = "added"
"""Column with the time at which a person was added to the gallery."""
_METADATA_KEY = b"gadms"
_COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_STANDARD_COLUMNS = (
    pa.field("id", pa.string(), nullable=False),
    pa.field("thumbnail", pa.binary(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("frame", pa.int64()),
    pa.field("time_seconds", pa.float64()),
    pa.field("box", pa.list_(pa.float32(), len(BOX_SIDES))),
    pa.field("confidence", pa.float32()),
    pa.field("camera", pa.string()),
    pa.field("time", COLUMN_TYPES["time"]),
    pa.field("track", pa.int64()),
    pa.field(CONTENT, pa.string()),
    pa.field(ADDED, COLUMN_TYPES["time"], nullable=False),
)


def gallery_schema(dimension: int, model: GalleryModel, columns: Mapping[str, str]) -> pa.Schema:
    """The schema of a gallery's table, with the model in its metadata; `columns` maps additional columns to types.

    Raises:
        ValueError: if the name of a column is reserved or malformed, or its type is unknown.
    """
    reserved = {"vector", "track_summary", "rank", "score", *BOX_SIDES, *(field.name for field in _STANDARD_COLUMNS)}
    for name, kind in columns.items():
        if name in reserved:
            raise ValueError(f"The column name {name!r} is reserved: choose another name")
        if not _COLUMN_NAME.fullmatch(name):
            raise ValueError(f"The column name {name!r} is invalid: use lower-case letters, digits and _")
        if kind not in COLUMN_TYPES:
            raise ValueError(f"The column {name!r} has an unknown type, {kind!r}: use {', '.join(COLUMN_TYPES)}")
    vector = pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False)
    additional = [pa.field(name, COLUMN_TYPES[kind]) for name, kind in columns.items()]
    return pa.schema([vector, *_STANDARD_COLUMNS, *additional], metadata={_METADATA_KEY: json.dumps(asdict(model))})


def model_of(schema: pa.Schema) -> GalleryModel:
    """The model stored in a table's metadata."""
    return GalleryModel(**json.loads(schema.metadata[_METADATA_KEY]))


def user_columns(schema: pa.Schema) -> dict[str, str]:
    """The additional columns of a table, from name to type."""
    standard = {"vector", *(field.name for field in _STANDARD_COLUMNS)}
    kinds = {kind: name for name, kind in COLUMN_TYPES.items()}
    return {field.name: kinds[field.type] for field in schema if field.name not in standard}


def columns_without(schema: pa.Schema, *names: str) -> list[str]:
    """The column names of a table, except the given ones."""
    return [name for name in schema.names if name not in names]


def indexed_rows(table: Table, column: str) -> int:
    """Number of rows in the index of a column; 0 without an index."""
    names = [index.name for index in table.list_indices() if index.columns == [column]]  # one or none
    statistics = [table.index_stats(name) for name in names]
    return sum(index.num_indexed_rows for index in statistics if index)


def check_values(values: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Check values against the types of their columns, and convert times to UTC.

    NaN, as pandas writes a missing value, becomes None.

    Raises:
        ValueError: if a column is unknown, or a value has the wrong type.
    """
    checked = {}
    for name, value in values.items():
        if name not in columns:
            known = ", ".join(columns) or "none; declare columns when you create the gallery"
            raise ValueError(f"The gallery has no column {name!r} for the value {value!r}; its columns: {known}")
        checked[name] = _checked(name, value, columns[name])
    return checked


def to_row(record: PersonRecord, columns: Mapping[str, str]) -> dict[str, Any]:
    """Convert a record to a row, without vector, thumbnail and adding time; `columns` are the additional columns.

    Raises:
        ValueError: as [`check_values`].
    """
    box = record.box
    values = check_values(record.columns, columns)
    row = {
        "id": record.id,
        "source": record.source,
        "frame": record.frame,
        "time_seconds": record.time_seconds,
        "box": [getattr(box, side) for side in BOX_SIDES] if box else None,
        "confidence": box.confidence if box else None,
        "camera": record.camera,
        "time": None if record.time is None else in_utc(record.time),
        "track": record.track,
        CONTENT: record.content or content_state(content_digest(record.image), [record.camera, record.time, values]),
        **values,
    }
    return {name: None if is_nan(value) else value for name, value in row.items()}


def to_result(
    rank: int, score: float, row: Mapping[str, Any], columns: Mapping[str, str], track_summary: TrackSummary | None
) -> SearchResult:
    """Convert a row to a search result; `columns` are the additional columns."""
    box = None
    if row["box"] is not None:
        box = PersonBox(**dict(zip(BOX_SIDES, row["box"], strict=True)), confidence=row["confidence"])
    same = ("id", "source", "frame", "time_seconds", "camera", "time", "track", "thumbnail")
    added = row.get(ADDED)  # missing in a gallery of an earlier version until it is written to
    return SearchResult(
        rank=rank,
        score=score,
        box=box,
        columns={name: row[name] for name in columns},
        track_summary=track_summary,
        added=added,
        **{name: row[name] for name in same},
    )


def _checked(name: str, value: Any, kind: str) -> Any:
    if value is None or is_nan(value):
        return None
    if kind == "time":
        if isinstance(value, str):
            return parse_time(value)
        if isinstance(value, datetime):
            return in_utc(value)
    elif kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif type(value) is {"string": str, "integer": int, "float": float, "boolean": bool}[kind]:
        return value
    raise ValueError(f"The value {value!r} of the column {name!r} is a {type(value).__name__}, but its type is {kind}")
