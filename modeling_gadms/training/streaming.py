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
from typing import Any, Literal

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
from .data import CaptionDraw, DatasetColumns, ImageCaptionPair
from .retry import ATTEMPTS, call_with_retries


logger = logging.get_logger(__name__)

_FOOTER_THREADS = 16


@dataclass(frozen=True)
class RowGroup:
    """A row group, the smallest part of a Parquet file that can be read separately.

    Args:
        file (`str`): path or URL.
        number (`int`): number of the group in the file.
        first_row (`int`): number of its first row in the data set.
        num_rows (`int`)
    """

    file: str
    number: int
    first_row: int
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
            if not (_is_text(kind) or (_is_list(kind) and _is_text(kind.value_type))):
                raise ValueError(f"{file}: column `{name}` holds {kind}, neither captions nor lists of captions")
            self.has_caption_lists |= _is_list(kind)

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

        def read() -> pa.Table:
            with _open(group.file) as content, pq.ParquetFile(content, pre_buffer=True) as file:
                return file.read_row_group(group.number, columns=list(names))

        return _read_with_retries(read, f"row group {group.number} of {group.file}")

    def captions(self) -> Iterator[str]:
        """Iterate over all captions, in order; images are not read."""
        for group in self.row_groups:
            for number, row in enumerate(self.read(group, names=self.columns.captions).to_pylist()):
                yield from self.columns.row_captions(row, group.first_row + number)

    def place(self, row: int) -> str:
        """Return the file of a row and its number in that file, for error messages."""
        last = max((group for group in self.row_groups if group.first_row <= row), key=lambda group: group.first_row)
        first = min(group.first_row for group in self.row_groups if group.file == last.file)
        return f"row {row - first} of {last.file}"


class StreamedPairs:
    """Image-caption pairs of Parquet files, to train on without a copy of the data set on disk.

    Each epoch shuffles the row groups and splits them between processes, and then between the workers of each data
    loader. A worker shuffles its part in blocks of `shuffle_buffer` pairs. All processes make the same number of
    steps: the pairs of a last, incomplete batch are dropped, different ones in each epoch.

    The order depends on the seed, the epoch, the number of processes and the number of workers. A run can be resumed
    at any step if these are the same.

    Args:
        rows ([`ParquetRows`]): rows of the pairs.
        captions_per_image, short_captions (*optional*):
            See [`CaptionDraw`]. `captions_per_image="all"` needs caption columns of strings, not of lists.
        shuffle_buffer (`int`, *optional*, defaults to 2048):
            Number of pairs, with encoded images, that a worker keeps in memory, rounded up to whole batches.
        seed (`int`, *optional*, defaults to 0): seed of the order and of the caption draws.

    Raises:
        ValueError: if the files have no rows, or an argument is out of its range.
    """

    def __init__(
        self,
        rows: ParquetRows,
        *,
        captions_per_image: Literal["one", "all"] = "one",
        short_captions: float = 0.0,
        shuffle_buffer: int = 2048,
        seed: int = 0,
    ):
        self.caption_draw = CaptionDraw(captions_per_image, short_captions, seed)
        if captions_per_image == "all" and rows.has_caption_lists:
            raise ValueError(
                "captions_per_image = 'all' needs one caption per column, and a column here holds lists, whose "
                "lengths are unknown before they are read; use 'one', or load the data set without streaming"
            )
        if shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer = {shuffle_buffer} must be 1 or more")
        if rows.num_rows == 0:
            raise ValueError("the data set has no rows")
        self.rows = rows
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.pairs_per_row = len(rows.columns.captions) if captions_per_image == "all" else 1

    def __len__(self) -> int:
        """Number of pairs of all rows."""
        return self.rows.num_rows * self.pairs_per_row

    def batches(
        self,
        batch_size: int,
        collate: Callable[[list[ImageCaptionPair]], dict[str, torch.Tensor]],
        *,
        process_index: int = 0,
        num_processes: int = 1,
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
        self,
        pairs: StreamedPairs,
        batch_size: int,
        collate: Callable[[list[ImageCaptionPair]], dict[str, torch.Tensor]],
        process_index: int,
        num_processes: int,
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

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        lane, num_lanes = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch, first_batch = self._start.tolist()
        # A data loader takes one batch from each worker in turn.
        own = range(lane, len(self), num_lanes)
        skipped = len(range(lane, min(first_batch, len(self)), num_lanes))
        before = sum(len(range(other, len(self), num_lanes)) for other in range(lane))
        first_pair = (self.process_index * len(self) + before) * self.batch_size

        schedule = _Schedule(self.pairs, epoch)
        batches_per_block = -(-self.pairs.shuffle_buffer // self.batch_size)
        block, loaded = None, -1
        for number in range(len(own)):
            if number < skipped:
                yield {}
                continue
            block_number, batch = divmod(number, batches_per_block)
            if block is None or block_number != loaded:
                start = first_pair + block_number * batches_per_block * self.batch_size
                stop = min(start + batches_per_block * self.batch_size, first_pair + len(own) * self.batch_size)
                block, loaded = schedule.read(start, stop), block_number
                key = (self.pairs.seed, epoch, self.process_index, lane, block_number)
                order = np.random.default_rng(key).permutation(stop - start)
            yield self.collate(block.pairs(order[batch * self.batch_size : (batch + 1) * self.batch_size]))


class _Schedule:
    """Order of an epoch: row groups are shuffled, and rows within a group are consecutive."""

    def __init__(self, pairs: StreamedPairs, epoch: int):
        self.owner, self.epoch = pairs, epoch
        groups = pairs.rows.row_groups
        order = np.random.default_rng((pairs.seed, epoch)).permutation(len(groups))
        self.groups = [groups[index] for index in order]
        sizes = np.array([group.num_rows for group in self.groups]) * pairs.pairs_per_row
        self.ends = np.cumsum(sizes)
        self.starts = self.ends - sizes
        # The next block may start in the group in which a block ends.
        self._read_group = lru_cache(maxsize=1)(pairs.rows.read)

    def read(self, start: int, stop: int) -> "_Block":
        """Read the pairs at positions `start` to `stop - 1`."""
        tables, indices, rows, captions = [], [], [], []
        taken = 0
        for number in range(int(np.searchsorted(self.ends, start, side="right")), len(self.groups)):
            group, first = self.groups[number], self.starts[number]
            if first >= stop:
                break
            positions = np.arange(max(start, first), min(stop, self.ends[number])) - first
            if not len(positions):  # a group without rows
                continue
            own_rows = positions // self.owner.pairs_per_row
            low, high = int(own_rows[0]), int(own_rows[-1]) + 1
            tables.append(self._read_group(group).slice(low, high - low))
            indices.append(own_rows - low + taken)
            rows.append(own_rows + group.first_row)
            captions.append(positions % self.owner.pairs_per_row)
            taken += high - low
        block = (np.concatenate(parts) for parts in (indices, rows, captions))
        return _Block(self.owner, self.epoch, pa.concat_tables(tables), *block)


@dataclass
class _Block:
    """Pairs that are shuffled together: for each its row in the table, its row in the data set, and its caption."""

    owner: StreamedPairs
    epoch: int
    table: pa.Table
    indices: np.ndarray
    rows: np.ndarray
    captions: np.ndarray

    def pairs(self, chosen: np.ndarray) -> list[ImageCaptionPair]:
        content = self.table.take(self.indices[chosen]).to_pylist()
        return [
            self._pair(values, int(row), int(caption))
            for values, row, caption in zip(content, self.rows[chosen], self.captions[chosen], strict=True)
        ]

    def _pair(self, values: dict[str, Any], row: int, caption: int) -> ImageCaptionPair:
        columns = self.owner.rows.columns
        try:
            captions = columns.row_captions(values, row)
            person_id = row if columns.person_id is None else values[columns.person_id]
            if person_id is None:
                raise ValueError(f"row {row} has no `{columns.person_id}`; fill it in or drop the row")
            return {
                "image": _decode(values[columns.image], columns.image),
                "caption": self.owner.caption_draw(captions, caption, epoch=self.epoch, row=row),
                "person_id": person_id,
                "image_index": row,
            }
        except ValueError as error:
            raise ValueError(f"{self.owner.rows.place(row)}: {error}") from error


def _decode(value: Any, column: str) -> Image.Image:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError(
            f"`{column}` does not contain an image file; only data sets with embedded images can be streamed"
        )
    return load_image(content)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _open(file: str) -> Any:
    # Without read-ahead, which would fetch images that are not needed: Parquet asks for the ranges that it needs.
    return fsspec.open(file, "rb", cache_type="none").open()


def _footer(file: str) -> tuple[pq.FileMetaData, pa.Schema]:
    def read() -> tuple[pq.FileMetaData, pa.Schema]:
        with _open(file) as content, pq.ParquetFile(content) as parquet:
            return parquet.metadata, parquet.schema_arrow

    return _read_with_retries(read, f"the footer of {file}")


def _read_with_retries(read: Callable[[], Any], what: str) -> Any:
    def is_transient(error: Exception) -> bool:
        if isinstance(error, (FileNotFoundError, pa.ArrowInvalid)):
            return False
        logger.warning(f"{what} cannot be read ({type(error).__name__}: {error}); trying again")
        return True

    try:
        return call_with_retries(read, is_transient)
    except FileNotFoundError:
        raise
    except pa.ArrowInvalid as error:
        raise ValueError(f"{what} is not a valid Parquet file: {error}") from error
    except Exception as error:  # from any library behind fsspec
        raise OSError(f"{what} cannot be read ({type(error).__name__}: {error}), {ATTEMPTS} times") from error
