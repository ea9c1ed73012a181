"""The LanceDB table behind a gallery: connect, create, open, index it and join its files."""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lancedb
import pyarrow as pa
from lancedb.index import BTree, IvfRq
from lancedb.table import Table

from .records import GalleryModel
from .schema import CONTENT, indexed_rows, model_of


INDEX_FROM_ROWS = 10_000
"""Number of unindexed rows from which an index is built. An exact scan of this many rows takes about as long as an
index lookup among a million; a scan of 100,000 takes ten times as long as the lookup (`benchmarks/gallery`)."""
KEEP_VERSIONS = timedelta(hours=1)
"""Default age from which earlier versions of the table are deleted. A running reader may still need a younger one."""
_TABLE = "persons"
_REFRESH_INTERVAL = timedelta(seconds=1)
"""Interval after which an open table checks for changes by other processes."""
_UNINDEXED_IDS = 16
"""The id index is rebuilt when more than 1 / `_UNINDEXED_IDS` of the ids are outside it. Every lookup scans the
unindexed ids, and every rebuild reads all of them; this keeps both cheap."""
_MAX_SMALL_FILES = 100
"""Number of small files that a table may have, since each one slows a search. Joining them rewrites the whole table,
so a large table may have one for each `_PERSONS_PER_SMALL_FILE` persons."""
_PERSONS_PER_SMALL_FILE = 1000
_METADATA_CACHE_BYTES = 64 * 2**20
"""Limit of LanceDB's metadata cache. The default is a gigabyte, and every change of the table fills more of it."""
_INDEX_BITS = 4
"""Bits for each dimension in the vector index. With 1 bit, even five times as many exactly compared candidates give a
lower recall: 0.997 in 100,000 rows, against 1.000."""

logger = logging.getLogger(__name__)


def create_table(
    location: str, schema: pa.Schema, *, overwrite: bool = False, storage_options: dict[str, str] | None = None
) -> Table:
    """Create the table of an empty gallery; an existing empty one is replaced.

    Raises:
        FileExistsError: if there is a gallery with persons and `overwrite` is false.
    """
    database = _connect(location, storage_options)
    exists = _TABLE in database.list_tables().tables
    if exists and not overwrite and (persons := database.open_table(_TABLE).count_rows()):
        raise FileExistsError(
            f"There is already a gallery of {persons} persons in {location}: give another location, or --overwrite "
            "(in Python overwrite=True) to replace it"
        )
    table = database.create_table(_TABLE, schema=schema, mode="overwrite" if exists else "create")
    # When two processes add the same person at once, the key lets the second one notice.
    cast(Any, table).set_unenforced_primary_key(["id"])
    return table


def open_table(location: str, storage_options: dict[str, str] | None = None) -> Table:
    """Open the table of a gallery.

    Raises:
        FileNotFoundError: if there is no gallery.
        ValueError: if an earlier version of this package made it.
    """
    # The folder is checked first because connecting would create it.
    if "://" in location or Path(location).is_dir():
        database = _connect(location, storage_options)
        if _TABLE in database.list_tables().tables:
            table = database.open_table(_TABLE)
            if "box" not in table.schema.names:
                raise ValueError(
                    f"The gallery in {location} was made by an earlier version, with other columns: "
                    f"{how_to_index(location)} --overwrite"
                )
            return table
    raise FileNotFoundError(f"There is no gallery in {location}: {how_to_index(location)}")


def add_missing_columns(table: Table) -> None:
    """Add the columns that a gallery of an earlier version lacks; of its persons they are empty."""
    if CONTENT not in table.schema.names:
        try:
            table.add_columns({CONTENT: "CAST(NULL AS STRING)"})
        except (RuntimeError, ValueError):  # another process has added it
            table.checkout_latest()
            if CONTENT not in table.schema.names:
                raise


def gallery_model(location: str | Path, *, storage_options: dict[str, str] | None = None) -> GalleryModel:
    """Read which model built a gallery, in order to load it.

    Raises:
        FileNotFoundError: if there is no gallery.
    """
    return model_of(open_table(str(location), storage_options).schema)


def how_to_index(location: str) -> str:
    """The end of an error message about a missing or empty gallery."""
    return f"index persons first with `gadms index --source PERSONS --gallery {location} --model MODEL`"


def join_small_files(location: str, table: Table, rows_per_file: int) -> None:
    """Join the files of a table if many are smaller than a full commit of `rows_per_file` rows."""
    statistics = cast(Any, table.stats())
    rows = statistics["num_rows"]
    small = statistics["fragment_stats"]["num_fragments"] - rows // rows_per_file
    if small > max(_MAX_SMALL_FILES, rows // _PERSONS_PER_SMALL_FILE):
        try:
            table.optimize(cleanup_older_than=KEEP_VERSIONS)
        except RuntimeError as error:  # another process changes the table, or the disk is full; no data is lost
            logger.warning("The files of the gallery in %s could not be joined now: %s", location, error)


def index_ids(table: Table) -> None:
    """Build the index of ids if many ids are not in it; without the index, adding to a large gallery is slow."""
    persons = table.count_rows()
    if persons - indexed_rows(table, "id") >= max(INDEX_FROM_ROWS, persons // _UNINDEXED_IDS):
        table.create_index("id", config=BTree(), replace=True)


def index_vectors(table: Table) -> None:
    """Build the index of embeddings if `INDEX_FROM_ROWS` rows are not in it. A search scans unindexed rows."""
    if table.schema.field("vector").type.list_size % 8:
        return  # RaBitQ packs dimensions in groups of eight; other galleries are scanned at any size
    if table.count_rows() - indexed_rows(table, "vector") >= INDEX_FROM_ROWS:
        # RaBitQ has the recall of a graph index (HNSW), which takes fifteen times as long to build.
        config = IvfRq(distance_type="cosine", num_bits=_INDEX_BITS)
        table.create_index("vector", config=config, replace=True)


def _connect(location: str, storage_options: dict[str, str] | None) -> lancedb.DBConnection:
    return lancedb.connect(
        location,
        storage_options=storage_options,
        read_consistency_interval=_REFRESH_INTERVAL,
        session=lancedb.Session(metadata_cache_size_bytes=_METADATA_CACHE_BYTES),
    )
