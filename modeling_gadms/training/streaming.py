"""Training pairs streamed from Parquet files: shuffled, shared out among processes and workers, resumed at the row.

```python
builder = datasets.load_dataset_builder("webperson", "5m")  # or any data set that is made of Parquet files
pairs = StreamedPairs(ParquetRows(builder.config.data_files["train"], DatasetColumns()), seed=0)
GADMSTrainer(model, arguments, processing_class=processor, train_dataset=pairs).train()
```

Which rows a batch has is arithmetic on the sizes of the row groups, which the files' footers tell. So nothing has to
be replayed to go on in the middle of an epoch, every process knows how many steps the others make, and no row is read
by two of them (but for the row groups in which one process ends and the next begins).
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
from .data import DatasetColumns, ImageCaptionPair, choose_caption
from .retry import ATTEMPTS, try_again


logger = logging.get_logger(__name__)

_FOOTER_THREADS = 16


@dataclass(frozen=True)
class RowGroup:
    """The smallest part of a Parquet file that is read by itself.

    Args:
        file (`str`): path or URL.
        number (`int`): of the group within the file.
        first_row (`int`): number of its first row in the whole data set.
        num_rows (`int`)
    """

    file: str
    number: int
    first_row: int
    num_rows: int


class ParquetRows:
    """Rows of Parquet files, wherever they are, read a row group at a time.

    Args:
        files (`Sequence[str]`): paths or URLs that `fsspec` opens (`hf://`, `s3://`, `https://`, ...), in order.
        columns ([`DatasetColumns`]): what to read of them.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar while footers are read.

    Raises:
        ValueError: if there is no file, one is no Parquet file or lacks a column, the identity column does not hold
            whole numbers, or a caption column holds no text.
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
        """Rows of all files together."""

    def _check_schema(self, file: str, schema: pa.Schema) -> None:
        try:
            self.columns.validate(schema.names)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        person_id = self.columns.person_id
        if person_id and not pa.types.is_integer(schema.field(person_id).type):
            kind = schema.field(person_id).type
            raise ValueError(f"{file}: column `{person_id}` holds {kind}, not whole numbers that tell persons apart")
        for name in self.columns.captions:
            kind = schema.field(name).type
            if not (_is_text(kind) or (_is_list(kind) and _is_text(kind.value_type))):
                raise ValueError(f"{file}: column `{name}` holds {kind}, neither captions nor lists of captions")
            self.has_caption_lists |= _is_list(kind)

    def read(self, group: RowGroup, *, names: Sequence[str] | None = None) -> pa.Table:
        """The rows of a group, by default with images, captions and identities.

        Args:
            group ([`RowGroup`]): which.
            names (`Sequence[str]`, *optional*): the columns to read instead.

        Raises:
            OSError: if the file cannot be read after [`ATTEMPTS`] attempts.
            ValueError: if it is damaged.
        """
        columns = self.columns
        if names is None:
            names = (columns.image, *columns.captions, *([columns.person_id] if columns.person_id else []))

        def read() -> pa.Table:
            with _open(group.file) as content, pq.ParquetFile(content, pre_buffer=True) as file:
                return file.read_row_group(group.number, columns=list(names))

        return _again_if_it_fails(read, f"row group {group.number} of {group.file}")

    def captions(self) -> Iterator[str]:
        """All captions, in order; images are not read."""
        for group in self.row_groups:
            for number, row in enumerate(self.read(group, names=self.columns.captions).to_pylist()):
                yield from self.columns.row_captions(row, group.first_row + number)

    def place(self, row: int) -> str:
        """The file of a row and its number there, for people."""
        last = max((group for group in self.row_groups if group.first_row <= row), key=lambda group: group.first_row)
        first = min(group.first_row for group in self.row_groups if group.file == last.file)
        return f"row {row - first} of {last.file}"


class StreamedPairs:
    """Image-caption pairs of Parquet files, to train on without a copy of them on disk.

    The row groups are dealt out anew in each epoch. Every process gets a stretch of them, every worker of its data
    loader a part of that, which it shuffles in blocks of `shuffle_buffer` pairs. All processes make the same number of
    steps: the pairs that do not fill a last batch on each are left out, other ones in each epoch.

    The order depends on the seed, the epoch and the numbers of processes and workers; a run can be resumed at any step
    with the same numbers.

    Args:
        rows ([`ParquetRows`]): where the pairs are.
        captions_per_image (`str`, *optional*, defaults to `"one"`):
            As of [`ImageCaptionPairs`]; `"all"` needs a string in each caption column.
        shuffle_buffer (`int`, *optional*, defaults to 2048): pairs that a worker holds, their images encoded. It is
            rounded up to whole batches.
        seed (`int`, *optional*, defaults to 0): of the order, and of the caption draws.

    Raises:
        ValueError: if the files have no rows, or an argument is out of its range.
    """

    def __init__(
        self,
        rows: ParquetRows,
        *,
        captions_per_image: Literal["one", "all"] = "one",
        shuffle_buffer: int = 2048,
        seed: int = 0,
    ):
        if captions_per_image not in ("one", "all"):
            raise ValueError(f"captions_per_image = {captions_per_image!r} must be 'one' or 'all'")
        if captions_per_image == "all" and rows.has_caption_lists:
            raise ValueError(
                "captions_per_image = 'all' takes a caption a column, and a column here holds lists, whose lengths "
                "are unknown until they are read; use 'one', or load the data set without streaming"
            )
        if shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer = {shuffle_buffer} must be 1 or more")
        if rows.num_rows == 0:
            raise ValueError("the data set has no rows")
        self.rows = rows
        self.captions_per_image = captions_per_image
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.pairs_per_row = len(rows.columns.captions) if captions_per_image == "all" else 1

    def __len__(self) -> int:
        """Pairs of all rows."""
        return self.rows.num_rows * self.pairs_per_row

    def batches(
        self,
        batch_size: int,
        collate: Callable[[list[ImageCaptionPair]], dict[str, torch.Tensor]],
        *,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> "BatchStream":
        """The batches of one process, for a data loader with `batch_size=None`.

        Args:
            batch_size (`int`): pairs in a batch of this process.
            collate (`Callable`): makes a batch, as [`PairCollator`] does.
            process_index, num_processes (`int`): which process of how many.
        """
        return BatchStream(self, batch_size, collate, process_index, num_processes)


class BatchStream(IterableDataset):
    """What [`StreamedPairs`] gives one process, in whole batches. See [`StreamedPairs.batches`]."""

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
        # Shared memory: workers that outlive an epoch hold a copy of this object, and must see it change.
        self._start = torch.zeros(2, dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        """Batches of an epoch, the same number on every process."""
        return len(self.pairs) // (self.batch_size * self.num_processes)

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """What the next iteration is to give.

        Args:
            epoch (`int`): from 0.
            batch (`int`, *optional*, defaults to 0):
                The batches before this one are empty dictionaries, and nothing is read for them: the caller, who has
                trained on them before, will pass over them.
        """
        self._start.copy_(torch.tensor([epoch, batch]))

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        lane, num_lanes = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch, first_batch = self._start.tolist()
        # A data loader takes a batch of each worker in turn.
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
    """The order of an epoch: row groups in a new order, their rows one after another."""

    def __init__(self, pairs: StreamedPairs, epoch: int):
        self.owner, self.epoch = pairs, epoch
        groups = pairs.rows.row_groups
        order = np.random.default_rng((pairs.seed, epoch)).permutation(len(groups))
        self.groups = [groups[index] for index in order]
        sizes = np.array([group.num_rows for group in self.groups]) * pairs.pairs_per_row
        self.ends = np.cumsum(sizes)
        self.starts = self.ends - sizes
        # A block may end within a group, where the next one begins.
        self._read_group = lru_cache(maxsize=1)(pairs.rows.read)

    def read(self, start: int, stop: int) -> "_Block":
        """The pairs from position `start` to before `stop`."""
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
    """Pairs that are shuffled together: the row of each in the table and in the data set, and its caption there."""

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
            one = self.owner.captions_per_image == "one"
            return {
                "image": _decode(values[columns.image], columns.image),
                "caption": choose_caption(captions, self.owner.seed, self.epoch, row) if one else captions[caption],
                "person_id": person_id,
                "image_index": row,
            }
        except ValueError as error:
            raise ValueError(f"{self.owner.rows.place(row)}: {error}") from error


def _decode(value: Any, column: str) -> Image.Image:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError(
            f"`{column}` holds no content of an image file; only data sets with their images inside stream"
        )
    return load_image(content)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _open(file: str) -> Any:
    # Parquet says which ranges it needs; reading ahead of them would fetch images that nobody asked for.
    return fsspec.open(file, "rb", cache_type="none").open()


def _footer(file: str) -> tuple[pq.FileMetaData, pa.Schema]:
    def read() -> tuple[pq.FileMetaData, pa.Schema]:
        with _open(file) as content, pq.ParquetFile(content) as parquet:
            return parquet.metadata, parquet.schema_arrow

    return _again_if_it_fails(read, f"the footer of {file}")


def _again_if_it_fails(read: Callable[[], Any], what: str) -> Any:
    def may_pass(error: Exception) -> bool:
        if isinstance(error, (FileNotFoundError, pa.ArrowInvalid)):
            return False
        logger.warning(f"{what} cannot be read ({type(error).__name__}: {error}); trying again")
        return True

    try:
        return try_again(read, may_pass)
    except FileNotFoundError:
        raise
    except pa.ArrowInvalid as error:
        raise ValueError(f"{what} is no sound Parquet: {error}") from error
    except Exception as error:  # of whatever library stands behind the address
        raise OSError(f"{what} cannot be read ({type(error).__name__}: {error}), {ATTEMPTS} times") from error
