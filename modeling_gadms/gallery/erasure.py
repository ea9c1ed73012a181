"""Erase removed persons from the files of a gallery.

Removing a person only marks a row. The bytes stay in the file that the row shares with others, in earlier versions of
the table, in its indexes, and in files that interrupted writes left behind.
"""

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from lancedb.table import Table

from . import storage


_UNFINISHED_KEPT = timedelta(days=7)
"""Age from which LanceDB deletes the files of interrupted writes by itself."""
_MAX_PASSES = 3


@dataclass(frozen=True)
class CleanupReport:
    """What is on the disk after `compact` or `purge`.

    Attributes:
        current_bytes (`int`): size of the current persons' files.
        before_bytes, disk_bytes (`int`, *optional*): size of the gallery's folder before and after; unknown in an
            object store.
        earlier_versions (`int`): earlier versions that are kept for readers. They may contain removed persons.
        versions_until (`datetime`, *optional*): from this time on, `compact` deletes the last of them.
        unfinished_until (`datetime`, *optional*): from this time on, all files of writes that were interrupted so far
            can be deleted. Only where writers cannot be locked out, as in an object store.
    """

    current_bytes: int
    before_bytes: int | None
    disk_bytes: int | None
    earlier_versions: int
    versions_until: datetime | None = None
    unfinished_until: datetime | None = None

    def __str__(self) -> str:
        lines = [f"{_megabytes(self.current_bytes)} of current persons"]
        if self.disk_bytes is not None and self.before_bytes is not None:
            lines = [f"{_megabytes(self.disk_bytes)} on the disk ({_megabytes(self.before_bytes)} before), {lines[0]}"]
        if self.earlier_versions and self.versions_until:
            lines.append(
                f"  {self.earlier_versions} earlier versions, which may contain removed persons, are kept for "
                f"readers: compact deletes them from {_minute(self.versions_until)} on, purge at once"
            )
        if self.unfinished_until:
            lines.append(
                "  files of interrupted writes, which may contain removed persons, cannot be told from those of "
                f"running ones here: a purge deletes all of them from {_minute(self.unfinished_until)} on"
            )
        return "\n".join(lines)


def rewrite_removed(location: str, table: Table) -> bool:
    """Write the remaining rows of files with removed rows to new files, and build the indexes without removed rows.

    LanceDB's own compaction leaves a large file with less than a tenth of removed rows as it is.

    Returns:
        `bool`: whether there was anything to rewrite.
    """
    condition = "TRUE"
    if not storage.is_remote(location):
        # A file of removed rows is named by the number of its fragment: the upper half of the addresses of its rows.
        names = [path.name for path in Path(location).glob("*.lance/_deletions/*")]
        fragments = sorted({int(name.partition("-")[0]) for name in names})
        condition = f"(_rowaddr / {2**32}) IN ({', '.join(map(str, fragments))})" if fragments else "FALSE"
    if condition == "FALSE" or not table.count_rows():
        return False
    return cast(int, table.update(where=condition, values_sql={"camera": "camera"}).rows_updated) > 0


def delete_old_files(table: Table, keep_versions: timedelta, *, unfinished: bool = False) -> None:
    """Join small files, update the indexes, and delete versions of at least an age; with `unfinished` also the files
    that no version names, which a running writer may be about to commit."""
    with warnings.catch_warnings():
        # LanceDB warns about readers of the deleted versions. Ours then read the latest one.
        warnings.simplefilter("ignore", UserWarning)
        table.optimize(cleanup_older_than=keep_versions, delete_unverified=unfinished)


def delete_all_but_current(table: Table, *, unfinished: bool) -> None:
    """Delete all files except those of the latest version; `unfinished` as in `delete_old_files`."""
    for _ in range(_MAX_PASSES):  # a pass may itself make a version
        delete_old_files(table, timedelta(0), unfinished=unfinished)
        if len(table.list_versions()) == 1:
            return


def cleanup_report(
    location: str, table: Table, before_bytes: int | None, *, kept: timedelta = timedelta(0), unfinished: bool = False
) -> CleanupReport:
    """Describe what is left after a cleanup that kept versions of an age up to `kept`, and with `unfinished` the files
    of interrupted writes."""
    versions = table.list_versions()
    youngest = cast(datetime, versions[-2]["timestamp"]).astimezone(UTC) if len(versions) > 1 else None
    return CleanupReport(
        current_bytes=int(cast(Any, table.stats())["total_bytes"]),
        before_bytes=before_bytes,
        disk_bytes=disk_bytes(location),
        earlier_versions=len(versions) - 1,
        versions_until=youngest and youngest + kept,
        unfinished_until=datetime.now(UTC) + _UNFINISHED_KEPT if unfinished else None,
    )


def disk_bytes(location: str) -> int | None:
    """Size of all files in a gallery's folder; None in an object store."""
    if storage.is_remote(location):
        return None
    sizes = []
    for path in Path(location).rglob("*"):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except FileNotFoundError:  # just deleted by another process
            continue
    return sum(sizes)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _minute(time: datetime) -> str:
    return f"{time + timedelta(seconds=59):%Y-%m-%d %H:%M} UTC"  # rounded up: before, it would be too early
