"""Stream training pairs from Parquet files: shuffled, split between processes and workers, resumable at any step.

```python
builder = datasets.load_dataset_builder("webperson", "5m")  # or any data set of Parquet files
pairs = StreamedPairs(ParquetRows(builder.config.data_files["train"], DatasetColumns()), seed=0)
GADMSTrainer(model, arguments, processing_class=processor, train_dataset=pairs).train()
```

The rows of a batch are computed from the sizes of the row groups, which are in the files' footers. To resume in the
middle of an epoch, nothing is read again. Every process knows the number of steps of the others, and no row group is
read by two processes, except where the part of one ends and that of the next begins.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, get_args

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info
from tqdm.auto import tqdm
from transformers.utils import logging

from ..media.images import load_image
from .bad_rows import BadRow
from .data import CaptionDraw, DatasetColumns, ImageCaptionPair
from .retry import ATTEMPTS, call_with_retries


logger = logging.get_logger(__name__)

_FOOTER_THREADS = 16

BadRows = Literal["error", "skip"]
Collate = Callable[[list[ImageCaptionPair]], dict[str, Any]]


@dataclass(frozen=True)
class RowGroup:
    """A row group, the smallest part of a Parquet file that can be read separately."""

    file: str  # path or URL
    number: int  # of the group in the file
    first_row: int  # number of its first row in the data set
    num_rows: int


class ParquetRows:
    """Rows of local or remote Parquet files, read by row group.

    Args:
        files (`Sequence[str]`): paths or URLs that `fsspec` opens (`hf://`, `s3://`, `https://`, ...), in order.
        columns ([`DatasetColumns`]): columns to read.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar while footers are read.

    Raises:
        ValueError: if there are no files, a file is not Parquet or lacks a column, or a column has the wrong type.
        OSError: if a file cannot be read.
    """

    def __init__(self, files: Sequence[str], columns: DatasetColumns, *, progress: bool = True):
        if not files:
            raise ValueError("there are no Parquet files to stream from")
        self.columns = columns
        self.row_groups: list[RowGroup] = []
        self.has_caption_lists = False
        first_row = 0
        with ThreadPoolExecutor(_FOOTER_THREADS) as threads:
            footers = threads.map(_footer, files)
            bar = tqdm(footers, desc="Reading footers", total=len(files), unit="file", disable=not progress)
            for file, (footer, schema) in zip(files, bar, strict=True):
                self._check_schema(file, schema)
                for number in range(footer.num_row_groups):
                    num_rows = footer.row_group(number).num_rows
                    self.row_groups.append(RowGroup(file, number, first_row, num_rows))
                    first_row += num_rows
        self.num_rows = first_row
        """Number of rows in all files."""

    def _check_schema(self, file: str, schema: pa.Schema) -> None:
        try:
            self.columns.validate(schema.names)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        person_id = self.columns.person_id
        if person_id and not pa.types.is_integer(schema.field(person_id).type):
            kind = schema.field(person_id).type
            raise ValueError(f"{file}: column `{person_id}` holds {kind}, not person ids as whole numbers")
        for name in self.columns.captions:
            kind = schema.field(name).type
            is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
            text = kind.value_type if is_list else kind
            if not (pa.types.is_string(text) or pa.types.is_large_string(text)):
                raise ValueError(f"{file}: column `{name}` holds {kind}, neither captions nor lists of captions")
            self.has_caption_lists |= is_list

    def read(self, group: RowGroup, *, names: Sequence[str] | None = None) -> pa.Table:
        """Read the rows of a group.

        Args:
            group ([`RowGroup`]): the group.
            names (`Sequence[str]`, *optional*): columns to read, by default images, captions and person ids.

        Raises:
            OSError: if the file cannot be read after [`ATTEMPTS`] attempts.
            ValueError: if the file is damaged.
        """
        columns = self.columns
        if names is None:
            names = (columns.image, *columns.captions, *([columns.person_id] if columns.person_id else []))
        chosen = list(names)
        place = f"row group {group.number} of {group.file}"
        return _read_parquet(group.file, lambda file: file.read_row_group(group.number, columns=chosen), place)

    def captions(self, *, bad_rows: BadRows = "error") -> Iterator[str]:
        """Iterate over all captions, in order; images are not read.

        Raises:
            ValueError: for an empty caption, naming its row, unless `bad_rows` is `"skip"`.
        """
        for group in self.row_groups:
            for number, row in enumerate(self.read(group, names=self.columns.captions).to_pylist()):
                try:
                    captions = self.columns.captions_in(row)
                except ValueError as error:
                    if bad_rows == "error":
                        raise self.error(group.first_row + number, error) from error
                    continue
                yield from captions

    def place(self, row: int) -> tuple[str, int]:
        """Return the file of a row, and its number in that file."""
        file = next(group.file for group in self.row_groups if row < group.first_row + group.num_rows)
        first_row = next(group.first_row for group in self.row_groups if group.file == file)
        return file, row - first_row

    def error(self, row: int, reason: Exception) -> ValueError:
        """Return the error for a row that cannot be used."""
        file, number = self.place(row)
        return ValueError(
            f"row {number} of {file}: {str(reason).rstrip('.')}. Mend or drop the row, or set data.bad_rows=skip; "
            "`--resume` goes on from the last checkpoint"
        )


class StreamedPairs:
    """Image-caption pairs of Parquet files, to train on without a copy of the data set on disk.

    Each epoch shuffles the row groups and splits them between processes, and then between the workers of each data
    loader. A worker shuffles its part in blocks of `shuffle_buffer` pairs. All processes make the same number of
    steps: the pairs of a last, incomplete batch are dropped, different ones in each epoch.

    The order depends on the seed, the epoch, the number of processes and the number of workers. A run can be resumed
    at any step if these are the same.

    Args:
        rows ([`ParquetRows`]): rows of the pairs.
        captions_per_image, short_queries (*optional*):
            See [`CaptionDraw`]. `captions_per_image="all"` needs caption columns of strings, not of lists.
        shuffle_buffer (`int`, *optional*, defaults to 2048):
            Number of pairs, with encoded images, that a worker keeps in memory, rounded up to whole batches.
        bad_rows (`str`, *optional*, defaults to `"error"`):
            What becomes of a row with an unreadable image, an empty caption or no person id: `"error"` raises a
            ValueError that names it. `"skip"` puts the next good pair after the batch in its place, from the same
            block, so that batches stay complete and no other pair moves; see [`~StreamedPairs.skipped_rows`].
        seed (`int`, *optional*, defaults to 0): seed of the order and of the caption draws.

    Raises:
        ValueError: if the files have no rows, or an argument is out of its range.
    """

    def __init__(
        self,
        rows: ParquetRows,
        *,
        captions_per_image: Literal["one", "all"] = "one",
        short_queries: int = 0,
        shuffle_buffer: int = 2048,
        bad_rows: BadRows = "error",
        seed: int = 0,
    ):
        self.caption_draw = CaptionDraw(captions_per_image, short_queries, seed)
        if captions_per_image == "all" and rows.has_caption_lists:
            raise ValueError(
                "captions_per_image = 'all' needs one caption per column, and a column here holds lists, whose "
                "lengths are unknown before they are read; use 'one', or load the data set without streaming"
            )
        if shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer = {shuffle_buffer} must be 1 or more")
        if bad_rows not in get_args(BadRows):
            raise ValueError(f"bad_rows = {bad_rows!r} must be 'error' or 'skip'")
        if rows.num_rows == 0:
            raise ValueError("the data set has no rows")
        self.rows = rows
        self.shuffle_buffer = shuffle_buffer
        self.bad_rows = bad_rows
        # In shared memory, as rows are read by workers.
        self._is_skipped = torch.zeros(rows.num_rows, dtype=torch.bool).share_memory_()
        self.seed = seed
        self.pairs_per_row = len(rows.columns.captions) if captions_per_image == "all" else 1

    def __len__(self) -> int:
        """Number of pairs of all rows."""
        return self.rows.num_rows * self.pairs_per_row

    def skipped_rows(self) -> list[BadRow]:
        """Rows that were skipped until now, by this process and its workers. The reasons are in the log."""
        places = map(self.rows.place, self.skipped_numbers())
        return [BadRow(number, file=Path(file).name) for file, number in places]

    def skipped_numbers(self) -> list[int]:
        """The same as numbers in the data set."""
        return self._is_skipped.nonzero().flatten().tolist()

    def mark_skipped(self, numbers: Sequence[int]) -> None:
        """Add rows of the data set, such as those that other processes skipped, or a run that is resumed."""
        self._is_skipped[list(numbers)] = True

    def refuse(self, row: int, reason: ValueError) -> None:
        """Skip a row that cannot be used.

        Raises:
            ValueError: naming the row, if bad rows are errors.
        """
        if self.bad_rows == "error":
            raise self.rows.error(row, reason) from reason
        if not self._is_skipped[row]:
            self._is_skipped[row] = True
            file, number = self.rows.place(row)
            logger.warning(f"row {number} of {file} is skipped: {reason}")

    def batches(
        self, batch_size: int, collate: Collate, *, process_index: int = 0, num_processes: int = 1
    ) -> "BatchStream":
        """Return the batches of one process, for a data loader with `batch_size=None`.

        Args:
            batch_size (`int`): pairs in a batch of this process.
            collate (`Callable`): makes a batch of pairs, such as [`PairCollator`].
            process_index, num_processes (`int`): index of this process, and number of processes.
        """
        return BatchStream(self, batch_size, collate, process_index, num_processes)


class BatchStream(IterableDataset):
    """Complete batches of [`StreamedPairs`] for one process. See [`StreamedPairs.batches`]."""

    def __init__(
        self, pairs: StreamedPairs, batch_size: int, collate: Collate, process_index: int, num_processes: int
    ):
        self.pairs = pairs
        self.batch_size = batch_size
        self.collate = collate
        self.process_index, self.num_processes = process_index, num_processes
        # In shared memory, as persistent workers have their own copies of this object.
        self._start = torch.zeros(2, dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        """Number of batches in an epoch, the same on every process."""
        return len(self.pairs) // (self.batch_size * self.num_processes)

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Set where the next iteration starts.

        Args:
            epoch (`int`): from 0.
            batch (`int`, *optional*, defaults to 0):
                First batch to read. The batches before it are empty dictionaries, which a resumed run skips.
        """
        self._start.copy_(torch.tensor([epoch, batch]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        lane, num_lanes = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch, first_batch = self._start.tolist()
        # A data loader takes one batch from each worker in turn.
        num_batches = len(range(lane, len(self), num_lanes))
        skipped = len(range(lane, min(first_batch, len(self)), num_lanes))
        before = sum(len(range(other, len(self), num_lanes)) for other in range(lane))
        first_pair = (self.process_index * len(self) + before) * self.batch_size

        yield from ({} for _ in range(skipped))
        rows = _EpochRows(self.pairs, epoch)
        batches_per_block = -(-self.pairs.shuffle_buffer // self.batch_size)
        for number in range(skipped, num_batches):
            block_number, batch = divmod(number, batches_per_block)
            if batch == 0 or number == skipped:
                start = first_pair + (number - batch) * self.batch_size
                size = min(batches_per_block, num_batches - number + batch) * self.batch_size
                block = rows.read(start, start + size)
                key = (self.pairs.seed, epoch, self.process_index, lane, block_number)
                order = start + np.random.default_rng(key).permutation(size)
            yield self.collate(rows.batch(block, start, np.roll(order, -batch * self.batch_size), self.batch_size))


class _EpochRows:
    """Rows in the order of an epoch: row groups are shuffled, and rows within a group are consecutive.

    Pair `number` is caption `number % pairs_per_row` of the row at position `number // pairs_per_row`.
    """

    def __init__(self, pairs: StreamedPairs, epoch: int):
        self.owner, self.epoch = pairs, epoch
        groups = pairs.rows.row_groups
        order = np.random.default_rng((pairs.seed, epoch)).permutation(len(groups))
        self.groups = [groups[index] for index in order if groups[index].num_rows]
        self.first_rows = np.array([group.first_row for group in self.groups])
        self.starts = np.cumsum([0, *(group.num_rows for group in self.groups[:-1])])
        # The next block may start in the group in which a block ends.
        self._read_group = lru_cache(maxsize=1)(pairs.rows.read)

    def read(self, start: int, stop: int) -> pa.Table:
        """Read the rows of the pairs `start` to `stop - 1`."""
        low, high = start // self.owner.pairs_per_row, (stop - 1) // self.owner.pairs_per_row
        first, last = np.searchsorted(self.starts, (low, high), side="right") - 1
        table = pa.concat_tables([self._read_group(group) for group in self.groups[first : last + 1]])
        return table.slice(low - self.starts[first], high + 1 - low)

    def batch(self, block: pa.Table, start: int, numbers: np.ndarray, size: int) -> list[ImageCaptionPair]:
        """Return the pairs with the first `size` of these numbers, from a block of pairs from `start` on.

        A bad one is replaced by the next good pair of the others, or if there is none, by one of the batch itself.

        Raises:
            ValueError: if no pair is good, or for a bad row if bad rows are errors.
        """
        pairs = self._pairs(block, start, numbers[:size])
        # One by one: hardly any is needed.
        spare = (pair for number in numbers[size:] for pair in self._pairs(block, start, number[None]) if pair)
        pairs = [pair or next(spare, None) for pair in pairs]
        good = [pair for pair in pairs if pair is not None]
        if not good:
            raise ValueError(
                f"none of {len(numbers)} pairs that are shuffled together can be used; the log names the reasons. "
                f"Mend the rows, or raise data.shuffle_buffer ({self.owner.shuffle_buffer})"
            )
        again = cycle(good)
        return [pair or next(again) for pair in pairs]

    def _pairs(self, block: pa.Table, start: int, numbers: np.ndarray) -> list[ImageCaptionPair | None]:
        """Return the pairs with these numbers; `None` for those of bad rows."""
        positions, captions = np.divmod(numbers, self.owner.pairs_per_row)
        content = block.take(positions - start // self.owner.pairs_per_row).to_pylist()
        groups = np.searchsorted(self.starts, positions, side="right") - 1
        rows = positions - self.starts[groups] + self.first_rows[groups]
        return [self._pair(*parts) for parts in zip(content, rows.tolist(), captions.tolist(), strict=True)]

    def _pair(self, values: dict[str, Any], row: int, caption: int) -> ImageCaptionPair | None:
        columns = self.owner.rows.columns
        try:
            captions = columns.captions_in(values)
            person_id = row if columns.person_id is None else values[columns.person_id]
            if person_id is None:
                raise ValueError(f"`{columns.person_id}` is missing")
            return {
                **self.owner.caption_draw(captions, caption, epoch=self.epoch, row=row),
                "image": _decode(values[columns.image], columns.image),
                "person_id": person_id,
                "image_index": row,
            }
        except ValueError as error:
            self.owner.refuse(row, error)
            return None


def _decode(value: Any, column: str) -> Image.Image:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError(
            f"`{column}` does not contain an image file; only data sets with embedded images can be streamed"
        )
    return load_image(content)


def _footer(file: str) -> tuple[pq.FileMetaData, pa.Schema]:
    return _read_parquet(file, lambda parquet: (parquet.metadata, parquet.schema_arrow), f"the footer of {file}")


def _read_parquet(file: str, read: Callable[[pq.ParquetFile], Any], what: str) -> Any:
    def open_and_read() -> Any:
        # Without read-ahead, which would fetch images that are not needed: Parquet asks for the ranges that it needs.
        with fsspec.open(file, "rb", cache_type="none").open() as content:
            with pq.ParquetFile(content, pre_buffer=True) as parquet:
                return read(parquet)

    def is_transient(error: Exception) -> bool:
        if isinstance(error, (FileNotFoundError, pa.ArrowInvalid)):
            return False
        logger.warning(f"{what} cannot be read ({type(error).__name__}: {error}); trying again")
        return True

    try:
        return call_with_retries(open_and_read, is_transient)
    except FileNotFoundError:
        raise
    except pa.ArrowInvalid as error:
        raise ValueError(f"{what} is not a valid Parquet file: {error}") from error
    except Exception as error:  # from any library behind fsspec
        raise OSError(f"{what} cannot be read ({type(error).__name__}: {error}), {ATTEMPTS} times") from error
