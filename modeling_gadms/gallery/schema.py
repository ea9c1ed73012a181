"""The table of a gallery: its columns, and rows to and from records."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

import pyarrow as pa
from lancedb.table import Table

from ..media.detection import PersonBox
from .filter import BOX_SIDES, in_utc, parse_time
from .records import GalleryModel, PersonRecord, SearchResult, TrackSummary


COLUMN_TYPES = {
    "string": pa.string(),
    "integer": pa.int64(),
    "float": pa.float64(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("us", "UTC"),
}
"""Types that a user's column may have."""
UPDATABLE = {"camera": "string", "time": "time", "track": "integer"}
"""Columns of every gallery that may be changed later, by name the type; the others say which person it is."""
_METADATA_KEY = b"gadms"
_COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_OWN_COLUMNS = (
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
)


def gallery_schema(dimension: int, model: GalleryModel, columns: Mapping[str, str]) -> pa.Schema:
    """The schema of a gallery.

    Args:
        dimension (`int`): of its embeddings.
        model (`GalleryModel`): that makes them.
        columns (`Mapping[str, str]`): the user's, by name the type, one of `COLUMN_TYPES`.

    Raises:
        ValueError: if a column's name is taken or cannot be one, or its type is unknown.
    """
    own = {"vector", "track_summary", "rank", "score", *BOX_SIDES, *(field.name for field in _OWN_COLUMNS)}
    for name, kind in columns.items():
        if name in own:
            raise ValueError(f"The column {name!r} is the gallery's own: give yours another name")
        if not _COLUMN_NAME.fullmatch(name):
            raise ValueError(f"The column {name!r} is not named in small letters, digits and _, as in 'shop_floor'")
        if kind not in COLUMN_TYPES:
            raise ValueError(f"The column {name!r} is of type {kind!r}: types are {', '.join(COLUMN_TYPES)}")
    vector = pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False)
    users = [pa.field(name, COLUMN_TYPES[kind]) for name, kind in columns.items()]
    return pa.schema([vector, *_OWN_COLUMNS, *users], metadata={_METADATA_KEY: json.dumps(asdict(model))})


def model_of(schema: pa.Schema) -> GalleryModel:
    """The model that a table's metadata names."""
    return GalleryModel(**json.loads(schema.metadata[_METADATA_KEY]))


def user_columns(schema: pa.Schema) -> dict[str, str]:
    """By name the type of each column that the user declared."""
    own = {"vector", *(field.name for field in _OWN_COLUMNS)}
    kinds = {kind: name for name, kind in COLUMN_TYPES.items()}
    return {field.name: kinds[field.type] for field in schema if field.name not in own}


def columns_without(schema: pa.Schema, *names: str) -> list[str]:
    """The names of a table's columns but some."""
    return [name for name in schema.names if name not in names]


def indexed_rows(table: Table, column: str) -> int:
    """How many rows are in the index of a column; 0 where there is none."""
    names = [index.name for index in table.list_indices() if index.columns == [column]]  # one or none
    statistics = [table.index_stats(name) for name in names]
    return sum(index.num_indexed_rows for index in statistics if index)


def check_values(values: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Values for columns of these types, times brought to UTC.

    Raises:
        ValueError: if a column is unknown, or a value of another type.
    """
    checked = {}
    for name, value in values.items():
        if name not in columns:
            known = ", ".join(columns) or "none; declare them when the gallery is made"
            raise ValueError(f"The gallery has no column {name!r} for the value {value!r}: its columns are {known}")
        checked[name] = _checked(name, value, columns[name])
    return checked


def to_row(record: PersonRecord, columns: Mapping[str, str]) -> dict[str, Any]:
    """A record as a row without vector and thumbnail.

    Args:
        record (`PersonRecord`)
        columns (`Mapping[str, str]`): the user's, with their types.

    Raises:
        ValueError: as [`check_values`].
    """
    time = None if record.time is None else in_utc(record.time)
    where = {"id": record.id, "source": record.source, "frame": record.frame, "time_seconds": record.time_seconds}
    seen = {"camera": record.camera, "time": time, "track": record.track}
    box = record.box
    sides = [getattr(box, side) for side in BOX_SIDES] if box else None
    found = {"box": sides, "confidence": box.confidence if box else None}
    return {**where, **seen, **found, **check_values(record.columns, columns)}


def to_result(
    rank: int, score: float, row: Mapping[str, Any], columns: Mapping[str, str], track_summary: TrackSummary | None
) -> SearchResult:
    """A row that was found."""
    box = None
    if row["box"] is not None:
        box = PersonBox(**dict(zip(BOX_SIDES, row["box"], strict=True)), confidence=row["confidence"])
    same = ("id", "source", "frame", "time_seconds", "camera", "time", "track", "thumbnail")
    users = {name: row[name] for name in columns}
    return SearchResult(
        rank=rank,
        score=score,
        box=box,
        columns=users,
        track_summary=track_summary,
        **{name: row[name] for name in same},
    )


def _checked(name: str, value: Any, kind: str) -> Any:
    if value is None:
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
    raise ValueError(f"The value {value!r} of the column {name!r} is a {type(value).__name__}, and not of type {kind}")
