"""The LanceDB table behind a gallery: connect, create, open, index it and join its files."""

import logging
import shutil
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lancedb
import pyarrow as pa
from lancedb.index import BTree, IvfRq
from lancedb.table import Table

from .records import GalleryModel, counted
from .schema import indexed_rows, model_of


INDEX_FROM_ROWS = 10_000
"""Number of unindexed rows from which an index is built. An exact scan of this many rows takes about as long as an
index lookup among a million; a scan of 100,000 takes ten times as long as the lookup (`benchmarks/gallery`)."""
KEEP_VERSIONS = timedelta(hours=1)
"""Default age from which earlier versions of the table are deleted. A running reader may still need a younger one."""
_TABLE = "persons"
_UNFINISHED = "unfinished-"
"""Prefix of the folder, in that of a gallery, where its replacement is built."""
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


def gallery_location(location: str | Path) -> str:
    """The folder or URI of a gallery as a string, with `~` for the home directory.

    Raises:
        ValueError: if it is empty.
    """
    text = str(location)
    if not text.strip():
        raise ValueError("The path of the gallery is empty: give a folder or a URI")
    return text if "://" in text else str(Path(text).expanduser())


def create_table(location: str, schema: pa.Schema, storage_options: dict[str, str] | None = None) -> Table:
    """Create the table of an empty gallery; an existing empty one is replaced.

    Raises:
        FileExistsError: if there is a gallery with persons.
    """
    database = _connect(location, storage_options)
    exists = _TABLE in database.list_tables().tables
    if exists and (persons := database.open_table(_TABLE).count_rows()):
        raise FileExistsError(
            f"There is already a gallery of {counted(persons, 'person')} in {location}: add to it with `gadms gallery "
            "add`, replace it with --overwrite (in Python PersonGallery.rebuild), or give another location"
        )
    table = database.create_table(_TABLE, schema=schema, mode="overwrite" if exists else "create")
    # When two processes add the same person at once, the key lets the second one notice.
    cast(Any, table).set_unenforced_primary_key(["id"])
    return table


def write_table(
    location: str, rows: Iterable[pa.RecordBatch], schema: pa.Schema, storage_options: dict[str, str] | None = None
) -> Table:
    """Write the rows of a whole gallery in one commit, in place of the table that is there. Until the commit, and if
    it fails, the old table is unchanged; open readers see either the old or the new one.

    Raises:
        OSError: if the table cannot be written.
    """
    whole = pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in rows))
    database = _connect(location, storage_options)
    mode = "overwrite" if _TABLE in database.list_tables().tables else "create"
    try:
        return database.create_table(_TABLE, data=whole, schema=schema, mode=mode)
    except RuntimeError as error:  # any error of the storage
        raise OSError(f"The gallery in {location} could not be written, and is as it was: {error}") from error


def unfinished_location(location: str, key: str) -> str:
    """Where the gallery that is to replace the one in `location` is built: inside it, so on the same disk or store."""
    return f"{location.rstrip('/')}/{_UNFINISHED}{key}"


def open_or_create_table(location: str, schema: pa.Schema, storage_options: dict[str, str] | None = None) -> Table:
    """Open the table that an interrupted run left, or create an empty one."""
    database = _connect(location, storage_options)
    if _TABLE in database.list_tables().tables:
        return database.open_table(_TABLE)
    return create_table(location, schema, storage_options)


def remove_gallery(location: str, storage_options: dict[str, str] | None = None) -> None:
    """Delete the table of a gallery with all its versions, and its folder."""
    _connect(location, storage_options).drop_all_tables()
    if "://" not in location:
        shutil.rmtree(location, ignore_errors=True)


def remove_unfinished(location: str, *, unchanged_for: timedelta = timedelta(0)) -> None:
    """Delete what interrupted runs left in the folder of a gallery, if nothing was written to it for a time."""
    if "://" in location:
        return  # folders of a store cannot be listed here
    for left in Path(location).glob(f"{_UNFINISHED}*"):
        if time.time() - (left / f"{_TABLE}.lance" / "_versions").stat().st_mtime >= unchanged_for.total_seconds():
            remove_gallery(str(left))


def open_table(location: str, storage_options: dict[str, str] | None = None) -> Table:
    """Open the table of a gallery.

    Raises:
        FileNotFoundError: if there is no gallery.
        ValueError: if an earlier version of this package made it.
    """
    location = gallery_location(location)
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
        if "://" not in location and any(Path(location).glob(f"{_UNFINISHED}*")):
            raise FileNotFoundError(
                f"The gallery in {location} is not finished: repeat the `gadms index --overwrite` that was interrupted"
            )
    raise FileNotFoundError(f"There is no gallery in {location}: {how_to_index(location)}")


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
