"""The LanceDB table behind a gallery: connect, create, open, index it and join its files."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import lancedb
import pyarrow as pa
from lancedb.index import BTree, IvfRq
from lancedb.table import Table

from .errors import GalleryBusyError, GalleryFilesMissingError, clear_errors
from .records import GalleryModel, counted
from .schema import ADDED, CONTENT, indexed_rows, model_of


try:
    import fcntl
except ImportError:  # Windows: a purge keeps the files of interrupted writes
    fcntl = None  # type: ignore[assignment]

INDEX_FROM_ROWS = 10_000
"""Number of unindexed rows from which an index is built. An exact scan of this many rows takes about as long as an
index lookup among a million; a scan of 100,000 takes ten times as long as the lookup (`benchmarks/gallery`)."""
KEEP_VERSIONS = timedelta(hours=1)
"""Default age from which earlier versions of the table are deleted. A running reader may still need a younger one."""
_TABLE = "persons"
_BUILDING = ".building"
"""File in an unfinished gallery that is locked while a process works on it."""
_UNFINISHED = "unfinished-"
"""Prefix of the folder, in that of a gallery, where its replacement is built."""
_REFRESH_INTERVAL = timedelta(seconds=1)
"""Interval after which an open table checks for changes by other processes."""
_UNINDEXED_IDS = 16
"""An index of ids or adding times is rebuilt when more than 1 / `_UNINDEXED_IDS` of the rows are outside it. Every
lookup scans the unindexed rows, and every rebuild reads all of them; this keeps both cheap."""
_MAX_SMALL_FILES = 100
"""Number of small files that a table may have, since each one slows a search. Joining them rewrites the whole table,
so a large table may have one for each `_PERSONS_PER_SMALL_FILE` persons."""
_PERSONS_PER_SMALL_FILE = 1000
_METADATA_CACHE_BYTES = 64 * 2**20
"""Limit of LanceDB's metadata cache. The default is a gigabyte, and every change of the table fills more of it."""
_INDEX_BITS = 4
"""Bits for each dimension in the vector index. With 1 bit, even five times as many exactly compared candidates give a
lower recall: 0.997 in 100,000 rows, against 1.000."""
_LOCK = ".writers"
"""File that writers of a gallery in a folder lock together, and a purge alone."""
_ATTEMPTS = 5

logger = logging.getLogger(__name__)

T = TypeVar("T")


def gallery_location(location: str | Path) -> str:
    """The absolute path of a gallery's folder, valid from any directory; the URI of an object store stays as it is.

    Raises:
        ValueError: if the path is empty.
    """
    text = str(location)
    if not text.strip():
        raise ValueError("The path of the gallery is empty: give a folder, or a URI such as s3://bucket/gallery")
    return text if is_remote(text) else os.path.abspath(os.path.expanduser(text))


def is_remote(location: str) -> bool:
    """Whether a gallery is in an object store."""
    return "://" in location


def create_table(location: str, schema: pa.Schema, storage_options: dict[str, str] | None = None) -> Table:
    """Create the table of an empty gallery; an existing empty one is replaced.

    Raises:
        FileExistsError: if there is a gallery with persons.
    """
    database = _connect(location, storage_options, "written")
    exists = _has_table(database, location)
    if exists and (persons := database.open_table(_TABLE).count_rows()):
        raise FileExistsError(
            f"There is already a gallery of {counted(persons, 'person')} in {location}: add to it with `gadms gallery "
            "add`, replace it with --overwrite (in Python PersonGallery.rebuild), or give another location"
        )
    with clear_errors(location, "written"):
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
    database = _connect(location, storage_options, "written")
    mode = "overwrite" if _has_table(database, location) else "create"
    with writing(location), clear_errors(location, "written"):
        return database.create_table(_TABLE, data=whole, schema=schema, mode=mode)


def unfinished_location(location: str, key: str) -> str:
    """Where the gallery that is to replace the one in `location` is built: inside it, so on the same disk or store."""
    return f"{location.rstrip('/')}/{_UNFINISHED}{key}"


def open_or_create_table(location: str, schema: pa.Schema, storage_options: dict[str, str] | None = None) -> Table:
    """Open the table that an interrupted run left, or create an empty one."""
    database = _connect(location, storage_options, "written")
    if _has_table(database, location):
        return database.open_table(_TABLE)
    return create_table(location, schema, storage_options)


def remove_gallery(location: str, storage_options: dict[str, str] | None = None) -> None:
    """Delete the table of a gallery with all its versions, and its folder."""
    _connect(location, storage_options, "written").drop_all_tables()
    if not is_remote(location):
        shutil.rmtree(location, ignore_errors=True)


def remove_unfinished(location: str, *, unchanged_for: timedelta = timedelta(0)) -> None:
    """Delete what interrupted runs left in the folder of a gallery, if nothing was written to it for a time. What
    another process is building stays."""
    if is_remote(location):
        return  # folders of a store cannot be listed here
    for left in Path(location).glob(f"{_UNFINISHED}*"):
        with building(str(left), alone=True) as abandoned:
            versions = left / f"{_TABLE}.lance" / "_versions"  # changed by each commit
            age = time.time() - (versions if versions.is_dir() else left).stat().st_mtime
            if abandoned and age >= unchanged_for.total_seconds():
                remove_gallery(str(left))


@contextmanager
def building(location: str, *, alone: bool = False) -> Iterator[bool]:
    """Mark an unfinished gallery as one that this process works on.

    Yields:
        `bool`: with `alone`, whether no other process does. Without locks, nobody is known to.
    """
    if is_remote(location) or fcntl is None:
        yield True
        return
    with Path(location, _BUILDING).open("a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:  # a network disk without locks
            yield True
        else:
            yield True


def open_table(location: str, storage_options: dict[str, str] | None = None) -> Table:
    """Open the table of a gallery.

    Raises:
        FileNotFoundError: if there is no gallery.
        ValueError: if an earlier version of this package made it.
    """
    # The folder is checked first because connecting would create it.
    if is_remote(location) or Path(location).is_dir():
        database = _connect(location, storage_options, "read")
        if _has_table(database, location):
            with clear_errors(location, "read"):
                table = database.open_table(_TABLE)
            if "box" not in table.schema.names:
                raise ValueError(
                    f"The gallery in {location} was made by an earlier version, with other columns: "
                    f"{how_to_index(location)} --overwrite"
                )
            return table
        if not is_remote(location) and any(Path(location).glob(f"{_UNFINISHED}*")):
            raise FileNotFoundError(
                f"The gallery in {location} is not finished: repeat the `gadms index --overwrite` that was interrupted"
            )
    raise FileNotFoundError(f"There is no gallery in {location}: {how_to_index(location)}")


def gallery_model(location: str | Path, *, storage_options: dict[str, str] | None = None) -> GalleryModel:
    """Read which model built a gallery, in order to load it.

    Raises:
        FileNotFoundError: if there is no gallery.
    """
    return model_of(open_table(gallery_location(location), storage_options).schema)


def how_to_index(location: str) -> str:
    """The end of an error message about a missing or empty gallery."""
    return f"index persons first with `gadms index --source PERSONS --gallery {location} --model MODEL`"


@contextmanager
def writing(location: str, *, alone: bool = False) -> Iterator[bool]:
    """Lock a gallery for one commit. Any number of processes may write at once, but none beside one that is `alone`.

    Yields:
        `bool`: whether the lock is held. In object stores, on Windows and on some network disks there is no lock.
    """
    if is_remote(location) or fcntl is None or not Path(location).is_dir():
        yield False
        return
    with Path(location, _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        except OSError:
            locked = False
        else:
            locked = True
        yield locked


def attempt(location: str, table: Table, action: str, call: Callable[[], T]) -> T:
    """Call a function that uses a table. It is repeated with the latest version of the table if a purge has deleted
    the files of an earlier one, or another process has written at the same time.

    Raises:
        GalleryStorageError: if the function fails in LanceDB.
    """
    for remaining in reversed(range(_ATTEMPTS)):
        try:
            with clear_errors(location, action):
                return call()
        except (GalleryFilesMissingError, GalleryBusyError):
            if not remaining:
                raise
            with clear_errors(location, action):
                table.checkout_latest()
    raise AssertionError("unreachable")


def migrate(location: str, table: Table) -> None:
    """Add the columns of adding times and of contents to the table of an earlier version.

    Its persons get the time of the table's last change, since all of them were added by then, and an unknown content.
    """
    missing = {ADDED, CONTENT} - set(table.schema.names)
    if not missing:
        return
    # As a cast of an integer, because a quoted time would have no zone.
    microseconds = int(last_change(table).timestamp() * 1_000_000)
    columns = {
        ADDED: f"arrow_cast({microseconds}, 'Timestamp(Microsecond, Some(\"UTC\"))')",
        CONTENT: "CAST(NULL AS STRING)",
    }
    try:
        with clear_errors(location, "written"):
            table.add_columns({name: columns[name] for name in missing})
    except OSError:
        table.checkout_latest()
        if missing - set(table.schema.names):  # otherwise another process has just added it
            raise


def last_change(table: Table) -> datetime:
    """The time of a table's latest version, in UTC."""
    return cast(datetime, table.list_versions()[-1]["timestamp"]).astimezone(UTC)  # LanceDB gives local times


def join_small_files(location: str, table: Table, rows_per_file: int) -> None:
    """Join the files of a table if many are smaller than a full commit of `rows_per_file` rows."""
    statistics = cast(Any, table.stats())
    rows = statistics["num_rows"]
    small = statistics["fragment_stats"]["num_fragments"] - rows // rows_per_file
    if small > max(_MAX_SMALL_FILES, rows // _PERSONS_PER_SMALL_FILE):
        try:
            attempt(location, table, "written", lambda: table.optimize(cleanup_older_than=KEEP_VERSIONS))
        except OSError as error:  # another process changes the table, or the disk is full; no data is lost
            logger.warning("The files of the gallery could not be joined now. %s", error)


def index_lookups(table: Table) -> None:
    """Build the indexes of ids and of adding times if many rows are not in them; without the index of ids, adding to a
    large gallery is slow."""
    persons = table.count_rows()
    for column in ("id", ADDED):
        if persons - indexed_rows(table, column) >= max(INDEX_FROM_ROWS, persons // _UNINDEXED_IDS):
            _build_index(table, column)


def index_vectors(table: Table) -> None:
    """Build the index of embeddings if `INDEX_FROM_ROWS` rows are not in it. A search scans unindexed rows."""
    if table.schema.field("vector").type.list_size % 8:
        return  # RaBitQ packs dimensions in groups of eight; other galleries are scanned at any size
    if table.count_rows() - indexed_rows(table, "vector") >= INDEX_FROM_ROWS:
        _build_index(table, "vector")


def rebuild_indexes(table: Table) -> None:
    """Build the existing indexes anew, so that they contain only current rows; drop them if few rows are left."""
    persons = table.count_rows()
    for index in table.list_indices():
        if persons < INDEX_FROM_ROWS:
            table.drop_index(index.name)
        else:
            _build_index(table, index.columns[0])


def _build_index(table: Table, column: str) -> None:
    # RaBitQ has the recall of a graph index (HNSW), which takes fifteen times as long to build.
    config = IvfRq(distance_type="cosine", num_bits=_INDEX_BITS) if column == "vector" else BTree()
    table.create_index(column, config=config, replace=True)


def _has_table(database: lancedb.DBConnection, location: str) -> bool:
    with clear_errors(location, "read"):
        return _TABLE in database.list_tables().tables


def _connect(location: str, storage_options: dict[str, str] | None, action: str) -> lancedb.DBConnection:
    with clear_errors(location, action):
        return lancedb.connect(
            location,
            storage_options=storage_options,
            read_consistency_interval=_REFRESH_INTERVAL,
            session=lancedb.Session(metadata_cache_size_bytes=_METADATA_CACHE_BYTES),
        )
