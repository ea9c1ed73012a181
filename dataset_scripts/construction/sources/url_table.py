"""Read a table of image URLs, and decide for each row whether it is requested."""

import hashlib
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from modeling_gadms.media.guarded_fetch import refusal

from .fetch_settings import FetchProblem
from .opt_out_list import OptOutList, WebAddress


_BATCH_ROWS = 16384
_END_BYTES = 65536


@dataclass(frozen=True)
class UrlRow:
    """One row of the table.

    Attributes:
        row (`int`): number of the row in the whole table, from 0.
        url (`str`): as in the table; empty if missing.
        id (`int`, `str` or `None`): value of the id column.
        request (`str`): the URL to request, in normal form; empty if the row is not requested.
        problem (`FetchProblem`, *optional*), detail (`str`): why the row is not requested.
    """

    row: int
    url: str
    id: int | str | None
    request: str = ""
    problem: FetchProblem | None = None
    detail: str = ""


@dataclass(frozen=True)
class UrlTable:
    """A Parquet file, a folder of Parquet files (read in the order of their names), or a CSV file with a header.

    Attributes:
        rows (`int`): number of rows in all files.
        digest (`str`): digest of the names, sizes and contents of the files and of the column names. Of a Parquet file
            only the footer is read: it contains offsets, sizes and statistics of all columns.
    """

    files: tuple[Path, ...]
    url_column: str
    id_column: str | None
    rows: int
    digest: str

    @classmethod
    def open(cls, path: str | Path, url_column: str, id_column: str | None) -> "UrlTable":
        """Find the files of a table and check their columns, without reading the rows.

        Raises:
            FileNotFoundError: if the file does not exist, or the folder contains no Parquet file.
            ValueError: if a file cannot be read or lacks a column; names the file and its columns.
        """
        path = Path(path)
        files = tuple(sorted(path.glob("*.parquet"))) if path.is_dir() else (path,)
        if not files or not files[0].is_file():
            raise FileNotFoundError(
                f"{path} is not a table of URLs: name a Parquet or CSV file, or a folder of Parquet files"
            )
        digest = hashlib.sha256(f"{url_column}\0{id_column}\0".encode())
        rows = 0
        for file in files:
            try:
                columns, rows_of_file = _columns_and_rows(file)
            except pa.ArrowInvalid as error:
                raise ValueError(f"The table {file} cannot be read: {error}") from error
            for setting, column in (("url_column", url_column), ("id_column", id_column)):
                if column is not None and column not in columns:
                    raise ValueError(
                        f"{file} has no column {column!r} ({setting}); its columns are {', '.join(columns)}. "
                        f"Set {setting} to one of them{', or id_column to null' if setting == 'id_column' else ''}"
                    )
            rows += rows_of_file
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as content:
                if file.suffix == ".parquet":
                    content.seek(max(0, file.stat().st_size - _END_BYTES))
                while block := content.read(_END_BYTES):
                    digest.update(block)
        return cls(files, url_column, id_column, rows, digest.hexdigest())

    def __iter__(self) -> Iterator[tuple[int, str, int | str | None]]:
        """Iterate over row number, URL and id; one batch of rows is in memory at a time."""
        row = 0
        for file in self.files:
            try:
                for batch in self._batches(file):
                    urls = batch.column(self.url_column).to_pylist()
                    ids = batch.column(self.id_column).to_pylist() if self.id_column else [None] * len(urls)
                    for url, identity in zip(urls, ids, strict=True):
                        url = "" if url is None else str(url)
                        yield row, url, identity if isinstance(identity, int | None) else str(identity)
                        row += 1
            except pa.ArrowInvalid as error:
                raise ValueError(f"The table {file} cannot be read after its row {row}: {error}") from error

    def _batches(self, file: Path) -> Iterator[pa.RecordBatch]:
        columns = list(dict.fromkeys(column for column in (self.url_column, self.id_column) if column))
        if file.suffix == ".parquet":
            with pa.parquet.ParquetFile(file) as opened:
                yield from opened.iter_batches(_BATCH_ROWS, columns=columns)
        else:
            # Explicit types: types inferred from the first block may not fit a later one.
            options = pa.csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string()))
            with _open_csv(file, options) as opened:
                yield from opened


def rows_by_tar(
    table: UrlTable, rows_per_tar: int, opt_out: OptOutList | None, allowed_addresses: tuple[str, ...]
) -> Iterator[list[UrlRow]]:
    """Iterate over the table in chunks of `rows_per_tar` checked rows.

    Of rows with the same URL in normal form only the first is requested. URLs are compared by 64-bit hashes, which
    take 8 bytes each and 52 at the peak of a merge: 6 and 39 GB for the 747 million of COYO-700M, where the
    probability of any collision is 1.5 %.
    """
    seen = _SeenHashes()
    judged = (_judged(row, url, identity, opt_out, allowed_addresses) for row, url, identity in table)
    while rows := list(islice(judged, rows_per_tar)):
        yield _without_duplicates(rows, seen)


def _judged(
    row: int, url: str, identity: int | str | None, opt_out: OptOutList | None, allowed: tuple[str, ...]
) -> UrlRow:
    try:
        address = WebAddress.parse(url)
    except ValueError as error:
        detail = str(error) if url.strip() else "it is empty"
        return UrlRow(row, url, identity, problem=FetchProblem.NOT_A_URL, detail=detail)
    entry = opt_out.matches(address) if opt_out is not None else None
    if entry is not None:
        return UrlRow(row, url, identity, problem=FetchProblem.OPTED_OUT, detail=f"by the entry {entry}")
    literal = _numeric(address.host)
    refused = refusal(literal, address.port, allowed) if literal is not None else None
    if refused is not None:
        return UrlRow(row, url, identity, problem=FetchProblem.ADDRESS_REFUSED, detail=refused)
    return UrlRow(row, url, identity, request=str(address))


def _without_duplicates(rows: list[UrlRow], seen: "_SeenHashes") -> list[UrlRow]:
    requested = [index for index, row in enumerate(rows) if row.request]
    hashes = np.fromiter((_hash(rows[index].request) for index in requested), dtype=np.uint64, count=len(requested))
    for index, is_new in zip(requested, seen.add(hashes), strict=True):
        if not is_new:
            detail = "an earlier row of the table has it"
            rows[index] = replace(rows[index], request="", problem=FetchProblem.DUPLICATE, detail=detail)
    return rows


class _SeenHashes:
    """A set of 64-bit numbers in sorted arrays, with a tenth of the memory of a Python set.

    Each array is at least twice as long as the next, so that a number is merged and looked up O(log n) times.
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Add numbers. Returns for each whether it is the first of its value, in this and all earlier calls."""
        distinct, first = np.unique(hashes, return_index=True)
        is_new = np.ones(len(distinct), dtype=bool)
        for array in self._arrays:
            place = np.searchsorted(array, distinct)
            is_new &= array[np.minimum(place, len(array) - 1)] != distinct
        added = distinct[is_new]
        while self._arrays and len(self._arrays[-1]) < 2 * len(added):
            added = np.union1d(self._arrays.pop(), added)
        if len(added):
            self._arrays.append(added)
        result = np.zeros(len(hashes), dtype=bool)
        result[first[is_new]] = True
        return result


def _hash(url: str) -> int:
    return int.from_bytes(hashlib.blake2b(url.encode(), digest_size=8).digest(), "little")


def _numeric(host: str) -> str | None:
    """The numeric address in `host`, including short forms that resolvers accept (127.1, 0x7f000001)."""
    with suppress(ValueError):
        return str(ipaddress.ip_address(host))
    if host.rpartition(".")[2][:1].isdigit():
        with suppress(OSError):
            return socket.inet_ntoa(socket.inet_aton(host))
    return None


def _open_csv(file: Path, options: pa.csv.ConvertOptions | None = None) -> pa.csv.CSVStreamingReader:
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    return pa.csv.open_csv(file, parse_options=parse, convert_options=options)


def _columns_and_rows(file: Path) -> tuple[list[str], int]:
    if file.suffix == ".parquet":
        with pa.parquet.ParquetFile(file) as opened:
            return opened.schema_arrow.names, opened.metadata.num_rows
    with _open_csv(file) as opened:
        columns = opened.schema.names
    # Count rows by the first column, as text: without type inference only malformed CSV can fail here.
    options = pa.csv.ConvertOptions(include_columns=columns[:1], column_types={columns[0]: pa.string()})
    with _open_csv(file, options) as opened:
        return columns, sum(batch.num_rows for batch in opened)
