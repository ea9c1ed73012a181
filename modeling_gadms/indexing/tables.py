"""Read the rows of tables (CSV, Parquet, JSON lines) one after another, with a reason for each that cannot be read."""

import codecs
import csv
import json
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..media.names import escape_name


TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
_DELIMITERS = (",", ";", "\t", "|")
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_MAX_CELL = 2**31 - 1
"""Maximum number of characters of a cell. The default of the csv module, 131,072, is less than an image in a cell."""
_BATCH_ROWS = 256


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, with the reason to count it by and what is wrong."""

    reason: str
    detail: str


Row = dict[str, Any] | BadRow


class Table:
    """The rows of a file; supports repeated iteration. Cells of a CSV file are texts.

    Args:
        path (`Path`): a file whose suffix is one of `TABLE_SUFFIXES`.
        image_columns (`Sequence[str]`): the table must have one of these columns.
        encoding (`str`, *optional*): of a text file; by default as its byte order mark says, or else UTF-8. Bytes that
            are not UTF-8 are kept as surrogates, as in the names of files.

    Attributes:
        columns (`list[str]`): names of the columns; of JSON lines, those of the first row.
        length (`int`): number of rows, including those that cannot be read.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file cannot be read, or has none of the image columns.
    """

    def __init__(self, path: Path, image_columns: Sequence[str], encoding: str | None = None):
        if not path.is_file():
            raise FileNotFoundError(f"The table {path} does not exist")
        self.path, self._encoding = path, encoding
        self._image_columns = image_columns
        suffix = path.suffix.lower()
        self._read = {".parquet": self._parquet, ".csv": self._csv, ".tsv": self._csv}.get(suffix, self._json_lines)
        self.columns: list[str] = []
        if suffix == ".parquet":
            if encoding is not None:
                raise ValueError(f"encoding ({encoding}) is for CSV and JSON lines, and {path} is neither")
            self.length = self._parquet_rows()
        else:
            self.length = sum(1 for _ in self)
        if not set(image_columns) & set(self.columns):
            *others, last = map(repr, image_columns)
            wanted = f"{', '.join(others)} or {last}"
            names = ", ".join(map(escape_name, self.columns)) or "(none)"
            hint = "" if names.isprintable() else ". Is its text in another encoding? Then give it, as in utf-16-le"
            raise ValueError(f"The table {path} has no column {wanted}; its columns are {names}{hint}")

    def __iter__(self) -> Iterator[Row]:
        try:
            with closing(self._read()) as rows:
                yield from rows
        except (pa.ArrowException, OSError, UnicodeError, csv.Error) as error:
            raise ValueError(f"The table {self.path} cannot be read: {error}") from error

    def _csv(self) -> Generator[Row, None, None]:
        csv.field_size_limit(_MAX_CELL)
        with self._open(newline="") as file:
            lines = _Lines(file)
            delimiter = self._delimiter(lines)
            rows = csv.reader(lines, delimiter=delimiter, strict=True)
            self.columns = self._checked_columns([name.strip() for name in next(rows, [])])
            while True:
                lines.taken.clear()
                try:
                    cells = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    # A quote that is never closed takes all lines that follow, which are rows of their own.
                    lines.put_back(lines.taken[1:])
                    rows = csv.reader(lines, delimiter=delimiter, strict=True)
                    yield BadRow("its quotes are wrong", str(error))
                    continue
                if len(cells) == len(self.columns):
                    yield {name: cell for name, cell in zip(self.columns, cells, strict=True) if name}
                elif cells:  # not an empty line
                    yield BadRow("another number of cells than the header", f"{len(cells)}, not {len(self.columns)}")

    def _delimiter(self, lines: "_Lines") -> str:
        """The delimiter that makes one of the image columns a cell of the header, or that Excel's first line names."""
        first = next(lines, "")
        if first.startswith("sep=") and len(first.rstrip("\r\n")) == len("sep=;"):
            return first[4]
        lines.put_back([first] if first else [])
        for delimiter in _DELIMITERS:
            lines.taken.clear()
            header = next(csv.reader(lines, delimiter=delimiter), [])
            lines.put_back(lines.taken)
            if {name.strip() for name in header} & set(self._image_columns):
                return delimiter
        return _DELIMITERS[0]

    def _json_lines(self) -> Generator[Row, None, None]:
        with self._open(newline="\n") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield BadRow("not JSON", str(error))
                    continue
                if not isinstance(row, dict):
                    yield BadRow("not a JSON object", type(row).__name__)
                    continue
                self.columns = self.columns or list(row)
                yield row

    def _parquet(self) -> Generator[Row, None, None]:
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                try:
                    rows = batch.to_pylist()
                except (ValueError, OverflowError):  # such as a time after the year 9999
                    rows = [_parquet_row(batch.slice(number, 1)) for number in range(len(batch))]
                yield from rows

    def _parquet_rows(self) -> int:
        try:
            with pq.ParquetFile(self.path) as file:
                self.columns = self._checked_columns(file.schema_arrow.names)
                return int(file.metadata.num_rows)
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise ValueError(f"The table {self.path} cannot be read: {error}") from error

    def _open(self, newline: str) -> IO[str]:
        encoding = self._encoding
        with self.path.open("rb") as file:
            start = file.read(4)
        if encoding is None or encoding.lower() in ("utf-8", "utf8"):
            marks = (name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark))
            encoding = next(marks, "utf-8")
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError(
                f"Unknown encoding {encoding!r} of the table {self.path}: use utf-8, latin-1, ..."
            ) from None
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        return self.path.open(encoding=encoding, errors=errors, newline=newline)

    def _checked_columns(self, names: list[str]) -> list[str]:
        repeated = [name for name, count in Counter(names).items() if name and count > 1]
        if repeated:
            raise ValueError(f"The table {self.path} has several columns of the name {repeated[0]!r}: rename them")
        return names


def _parquet_row(row: pa.RecordBatch) -> Row:
    try:
        return row.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return BadRow("a value that Python has no equivalent of", str(error))


class _Lines:
    """The lines of a file, which can be put back."""

    def __init__(self, file: IO[str]):
        self._file = file
        self._waiting: list[str] = []  # the next line is the last one
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._waiting.pop() if self._waiting else next(self._file)
        self.taken.append(line)
        return line

    def put_back(self, lines: list[str]) -> None:
        self._waiting += reversed(lines)
